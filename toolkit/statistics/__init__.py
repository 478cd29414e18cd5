"""Statistics: numbers in, values with their intervals out. Pure.

`intervals.py` and `difference.py` are about logarithms of speeds, `samples.py` about raw times,
`speeds.py` and `ranking.py` about candidates, `shares.py` about counts of images.
"""
