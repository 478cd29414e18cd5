"""Parsers that read the content of artifacts from their bytes, without a runtime."""
