"""Artifacts: the files exported from a checkpoint, which other runtimes load.

`export.py` writes them, `manifest.py` records them, `conversion.py` runs converters in separate
processes, `calibration.py` selects the images for int8. `formats/` has one file per format,
`parsers/` reads the content of files, and `rounding/` measures the expected rounding error.
"""
