"""This machine: facts, load from other processes, limits, and warnings before a benchmark."""
