"""The contract of a model: a checkpoint's record → what a caller must know, also as metadata.

In: a checkpoint's record. Out: the contract, and the strings that go into a file's own metadata.
"""

from __future__ import annotations

import json

from toolkit.packages import installed_version
from toolkit.schema import Checkpoint, Contract, to_json

METADATA_FILE = "toolkit.json"
"""The name of the metadata in formats that take whole files."""

_PREFIX = "toolkit."
_LAYOUTS = {1: "NF", 2: "NCT", 3: "NCHW", 4: "NCDHW"}


def contract_of(checkpoint: Checkpoint, *, embeds_preprocessing: bool = False) -> Contract:
    """Return the contract of a checkpoint's model. With `embeds_preprocessing`, the file scales and
    normalises by itself, and its input is uint8."""
    shape = checkpoint.input.shape
    return Contract(
        layout=_LAYOUTS.get(len(shape), "N" + "D" * len(shape)),
        dtype="uint8" if embeds_preprocessing else "float32",
        shape=shape,
        classes=checkpoint.classes,
        class_names=checkpoint.class_names,
        preprocessing=checkpoint.input,
        embeds_preprocessing=embeds_preprocessing,
        checkpoint=checkpoint.id,
        toolkit=installed_version("toolkit") or "unknown",
    )


def metadata_of(contract: Contract) -> dict[str, str]:
    """Return the contract as `toolkit.<field>` → JSON, for the metadata of a file."""
    return {
        f"{_PREFIX}{name}": json.dumps(value, ensure_ascii=False, sort_keys=True)
        for name, value in to_json(contract).items()
    }
