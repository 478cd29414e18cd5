"""Parity: reference logits and candidate logits → a verdict with its evidence.

`reference.py` has the reference with one noise floor per image, `differences.py` the numbers of a
candidate, `verdict.py` the judgement, `reasons.py` its words, `toolkit.statistics` the bounds,
`special.py` images that no data set has, `second_look.py` what a session is asked besides all test
images.
"""
