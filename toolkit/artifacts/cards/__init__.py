"""Cards: an artifact's record → a Markdown file next to it that says how to feed it.

`contract.py` says what a caller must know, `card.py` writes the text, `reading.py` writes the code
that makes the input from an image file, `snippets.py` fills in the programs of `templates/`, one
per format and runtime.
"""
