"""Sessions: artifacts loaded in runtimes, each in its own worker process.

`candidates.py` pairs artifacts with runtimes. `remote.py` is the driver's end of a worker.
`worker.py` and `loadgen.py` run inside the worker. `runtimes/` has one file per runtime.
"""
