"""Parity: reference logits and candidate logits → a verdict with its evidence.

`reference.py` has the reference with one noise floor per image, `toolkit.statistics` the bounds,
`verdict.py` the judgement, `special.py` images that no data set has, `second_look.py` what a
session is asked besides all test images.
"""
