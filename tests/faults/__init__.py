"""Planted faults that the verifier must catch, and healthy variants that it must pass.

Each case is built by code from a healthy checkpoint or artifact and judged by `toolkit.verify`.
`python -m tests.faults` runs them all and writes `docs/faults.md`. Workers import this package, so
it imports nothing.
"""
