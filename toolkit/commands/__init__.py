"""The commands, one file each: parse, call, say. `toolkit.cli` gathers them."""
