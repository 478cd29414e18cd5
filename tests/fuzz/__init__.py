"""Damaged files through every parser, and damaged artifacts through workers.

`scripts/fuzz` runs it for some minutes. Our parsers are given damaged records, weights, data sets
and images (`parsers.py`), each in a separate process that may be killed (`apart.py`). Artifacts of
every format are damaged, recorded with their new size and checksum, and verified (`artifacts.py`).
"""
