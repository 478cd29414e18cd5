"""Comparison: the results of two runs → what became slower or faster.

`compare.py` compares, `changes.py` tells what else changed, `regressions.py` has the statistics.
"""
