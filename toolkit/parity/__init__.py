"""Parity: reference logits and candidate logits → a verdict with its evidence.

`reference.py` holds the reference with one noise floor per image, `toolkit.statistics` the bounds,
`verdict.py` the verdict, `special.py` images that no data set contains, and `second_look.py` the
additional inputs that a session must answer.
"""
