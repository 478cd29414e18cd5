"""The trust store: the programs that this user allows to run; see `store.py`."""
