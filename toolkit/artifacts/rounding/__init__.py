"""How far the rounding of a narrow precision should move the logits.

`expected_error.py` answers for an artifact, from its record, its file or its checkpoint.
"""
