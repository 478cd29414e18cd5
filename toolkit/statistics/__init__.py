"""Statistics: numbers → values with their intervals; pure functions.

`intervals.py` and `difference.py` are about logarithms of speeds, `samples.py` about raw times,
`speeds.py` and `ranking.py` about candidates, `shares.py` about counts of images.
"""
