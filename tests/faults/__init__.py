"""Planted faults that the verifier must catch, and healthy variants that it must pass.

Code builds each case from a healthy checkpoint or artifact, and `toolkit.verify` judges it. `python
-m tests.faults` runs them all and writes `docs/faults.md`. Workers import this package, so it
imports nothing.
"""
