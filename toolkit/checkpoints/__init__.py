"""Checkpoints: weights and their record, and the model that they belong to.

`storage.py` reads, writes and imports them, `model.py` builds models from factories, and
`reference_cnn.py` has the model that the toolkit trains itself.
"""
