"""Sessions: artifacts loaded in runtimes, each in its own worker process.

`candidates.py` pairs artifacts with runtimes, `remote.py` is the end that drives a worker, and
`worker.py` and `loadgen.py` run inside it. `runtimes/` has one file per runtime.
"""
