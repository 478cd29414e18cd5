"""Checkpoints: weights, their record, and the model that they belong to.

`storage.py` reads, writes and imports them, `model.py` builds models from factories, and
`reference_cnn.py` contains the model that the toolkit trains.
"""
