"""Parity: reference logits and candidate logits → a verdict with its evidence.

`reference.py` holds the reference with one noise floor per image, `differences.py` the numbers of a
candidate, `verdict.py` the verdict, `reasons.py` its texts, `toolkit.statistics` the bounds,
`special.py` images that no data set contains, and `second_look.py` the additional inputs that a
session must answer.
"""
