"""Artifacts: a checkpoint as files that other runtimes load.

`export.py` writes them, `manifest.py` records them, `conversion.py` runs converters in processes of
their own, `calibration.py` picks the images for int8. `formats/` has one file per format,
`parsers/` reads what a file holds, and `rounding/` tells how far its rounding should move logits.
"""
