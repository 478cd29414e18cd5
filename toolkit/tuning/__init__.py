"""Tuning: artifacts → the fastest configuration that passes verification; see `tune.py`."""
