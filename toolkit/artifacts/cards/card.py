"""The card of an artifact: its record → Markdown, with the same facts as JSON at the end.

In: an artifact's record and its checkpoint's. Out: `<artifact>.md` next to the artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from toolkit.artifacts.cards.contract import contract_of
from toolkit.artifacts.cards.reading import reads_images
from toolkit.artifacts.cards.snippets import Runner, runners_of, snippet
from toolkit.artifacts.manifest import remove_signature
from toolkit.errors import printable
from toolkit.files import read_regular, write_atomically
from toolkit.schema import CARD_SCHEMA_VERSION, Artifact, Card, Checkpoint, Contract, to_json

SUFFIX = ".md"
_LARGEST_CARD_BYTES = 50_000_000
_NAMED_CLASSES = 20

# Facts that the format fixes, whatever the model.
_BATCH_SIZES = {"executorch": "1 to 256", "ncnn": "1", "coreml": "1 to 1024"}
_NCNN_INPUT, _NCNN_OUTPUT = "in0", "out0"  # pnnx's names


def card_path(folder: Path, artifact: Artifact) -> Path:
    """Return where the card of an artifact in `folder` is."""
    return folder / f"{artifact.path}{SUFFIX}"


def write_card(folder: Path, artifact: Artifact, checkpoint: Checkpoint) -> bool:
    """Write the card of an artifact, unless it is there already; return whether it was written.

    The signature of a folder with another card is removed first.

    Raises:
        OutputError: Not writable, or the disk is full.
    """
    path, text = card_path(folder, artifact), card_text(card_of(artifact, checkpoint))
    try:
        content = text.encode()
        if read_regular(path, most_bytes=_LARGEST_CARD_BYTES) == content:
            return False
    except (OSError, ValueError):
        pass  # there is none, or it is something else
    remove_signature(folder)
    write_atomically(path, text)
    return True


def card_of(artifact: Artifact, checkpoint: Checkpoint) -> Card:
    """Return the fields of an artifact's card."""
    contract = contract_of(checkpoint, embeds_preprocessing=artifact.embeds_preprocessing)
    if artifact.format == "ncnn":  # it takes one sample, without a dimension for the batch
        layout = contract.layout.removeprefix("N")
        contract = replace(contract, input=_NCNN_INPUT, output=_NCNN_OUTPUT, layout=layout)
    fixed = " or ".join(f"{size}" for size in artifact.batch_sizes)
    return Card(
        schema_version=CARD_SCHEMA_VERSION,
        file=artifact.path,
        format=artifact.format,
        precision=artifact.precision,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        batch_sizes=_BATCH_SIZES.get(artifact.format) or fixed or "any",
        contract=contract,
        warnings=artifact.warnings,
    )


def card_text(card: Card) -> str:
    """Return the card as Markdown."""
    parts = [
        f"# {printable(card.file)}",
        _origin(card),
        "\n".join(f"**Warning:** {printable(each)}" for each in card.warnings),
        "## Input",
        "\n".join(_input_lines(card)),
        "## Output",
        _output(card.contract),
        *(_program(card, each) for each in runners_of(card)),
        "## The same as data",
        f"```json\n{_json(card)}\n```",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _json(card: Card) -> str:
    """Return the fields as JSON; only what can be seen is written as it is."""
    text = json.dumps(to_json(card), indent=4, ensure_ascii=False)
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
    )


def _origin(card: Card) -> str:
    contract = card.contract
    return (
        f"A classifier in the format `{card.format}`, {card.precision}, "
        f"{card.size_bytes / 1e6:.2f} MB, written by toolkit {contract.toolkit} from the "
        f"checkpoint with the weights `{contract.checkpoint.weights_sha256[:12]}`. The sha256 of "
        f"the file is `{card.sha256}`."
    )


def _input_lines(card: Card) -> Iterator[str]:
    contract = card.contract
    letters = contract.layout
    sizes = [*(["N"] if letters.startswith("N") else []), *map(str, contract.shape)]
    yield (
        f"`{contract.input}`: {contract.dtype} `[{', '.join(sizes)}]`, layout {letters}; batch "
        f"sizes per call: {card.batch_sizes}. To make it from a raw sample:"
    )
    yield ""
    for number, step in enumerate(_steps(contract), 1):
        yield f"{number}. {step}"


def _steps(contract: Contract) -> Iterator[str]:
    """Return the steps of preprocessing, one sentence each."""
    spec = contract.preprocessing
    if reads_images(contract):
        kind = "grey" if spec.shape[0] == 1 else "RGB"
        yield f"Decode the image as {kind}, 8 bits per channel."
    else:
        yield f"Take {spec.dtype} values of shape {list(spec.shape)}."
    if spec.resize:
        size = "x".join(map(str, spec.resize))
        side = "the shorter side" if len(spec.resize) == 1 else "height and width"
        smooth = "with" if spec.antialias else "without"
        yield f"Resize {side} to {size} pixels: {spec.interpolation}, {smooth} antialiasing."
    if spec.crop is not None:
        yield f"Cut {spec.crop[0]}x{spec.crop[1]} pixels (height, width) from the centre."
    if contract.embeds_preprocessing:
        yield "Give the bytes as they are: the file scales and normalises by itself."
        return
    if spec.colours != "RGB":
        yield f"Put the channels into the order {spec.colours}."
    if spec.dtype == "uint8":
        yield "Divide by 255."
    if set(spec.mean) != {0.0} or set(spec.std) != {1.0}:
        mean, std = (", ".join(map(repr, each)) for each in (spec.mean, spec.std))
        yield f"Subtract the mean {mean}, then divide by the standard deviation {std}, per channel."


def _output(contract: Contract) -> str:
    text = (
        f"`{contract.output}`: float32 `[N, {contract.classes}]`, one logit per class, not "
        "softmax. The class is the position of the largest logit."
    )
    if not contract.class_names:
        return text
    if len(contract.class_names) > _NAMED_CLASSES:
        return f"{text} The names of the classes are in the data below."
    named = ", ".join(
        f"{number} {printable(name)}" for number, name in enumerate(contract.class_names)
    )
    return f"{text} Classes: {named}."


def _program(card: Card, runner: Runner) -> str:
    packages = " ".join(
        [runner.install, "numpy", *(["pillow"] if reads_images(card.contract) else [])]
    )
    only = f" It runs on {runner.system} only." if runner.system else ""
    kind = "images" if reads_images(card.contract) else "files of numpy.save"
    return (
        f"## Run it with {runner.title}\n\n"
        f"Install `{packages}`, save this as `classify.py` next to the file, and give it the names "
        f"of {kind}: `python classify.py FILE ...`.{only}\n\n"
        f"```python\n{snippet(card, runner).rstrip()}\n```"
    )
