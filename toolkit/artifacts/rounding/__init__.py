"""The expected effect of rounding to a narrow precision on the logits.

`expected_error.py` gives it for an artifact, from its record, its file or its checkpoint.
"""
