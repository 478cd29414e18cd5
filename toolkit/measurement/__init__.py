"""Measurement: candidates → speeds, ratios and ranks with their intervals.

`bench.py` is the entry point, `plan.py` says how long to measure, `passes.py` drives the workers,
and `conclusions.py` turns passes into rows. The statistics are in `toolkit.statistics`.
"""
