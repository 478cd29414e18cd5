"""Tuning: artifacts → the fastest configuration that is still the model; see `tune.py`."""
