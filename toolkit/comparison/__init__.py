"""Comparison: the results of two runs → rows that became slower or faster.

`compare.py` compares, `changes.py` reports what else changed, `regressions.py` contains the
statistics.
"""
