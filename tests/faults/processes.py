"""Cases of misbehaving runtimes, of unusable reference checkpoints, and of wrong labels."""

from __future__ import annotations

from . import misbehaving as m
from .beds import copy_of
from .harness import MISBEHAVING
from .nets import DROWNED, NO_REFERENCES
from .onnx_files import marked
from .records import NOT_FAILED, Case


def _runtime(name: str, *causes: str, short: bool = False, **options: float) -> Case:
    return Case(
        name=name,
        level="runtime",
        build=marked(name),
        runtime=MISBEHAVING,
        # It is also true that the file is as it was exported, which points at the runtime.
        cause=frozenset({*causes, "file as exported"} if causes else ()),
        short=short,
        options=options,
    )


RUNTIMES = (
    _runtime(m.NAN, "not finite", short=True),
    _runtime(m.INFINITE, "not finite"),
    _runtime(m.OFF_BY_1, "one image", short=True),
    _runtime(m.OFF_BY_01, "one image"),
    _runtime(m.EMPTY),
    _runtime(m.SHORT, short=True),
    _runtime(m.LONG),
    _runtime(m.FLOAT64),
    _runtime(m.FLOAT16),
    _runtime(m.TRANSPOSED, "file as exported"),
    _runtime(m.PREVIOUS, "answers shifted", short=True),
    _runtime(m.FIRST, "answers repeated", "answers shifted"),
    _runtime(m.BYTES_64, "answers repeated", "answers shifted"),
    _runtime(m.CHUNKS_64, "answers repeated", "answers shifted", "one batch position"),
    _runtime(m.CHUNKS_50, "one batch size"),
    _runtime(m.STALE, "one batch size"),
    _runtime(m.BATCH_1, "one batch size"),
    _runtime(m.ODD, "one batch size"),
    _runtime(m.CALL_150, "after many calls", short=True),
    _runtime(m.FIRST_CALL, "one batch"),
    _runtime(m.OTHER_IMAGE, "one image", "few images", "answers of other images"),
    _runtime(m.LAST, "one batch position", "answers repeated", "answers of other images"),
    _runtime(m.REVERSED, "answers shifted"),
    _runtime(m.REUSED, "answers repeated", "answers shifted"),
    _runtime(m.SOFTMAX, "softmax"),
    _runtime(m.WRITES),
    _runtime(m.NOISE_3, "random"),
    _runtime(m.NOISE_1, "random"),
    _runtime(m.BF16, "bfloat16 output", "activations rounded to bf16"),
    _runtime(m.BLANK, "some inputs only"),
    _runtime(m.ONE_PIXEL, "some inputs only"),
    _runtime(m.BUSY, "some inputs only"),
    _runtime(m.CARRIES, "depends on the batch"),
    _runtime(m.DIES),
    _runtime(m.HANGS, timeout_s=20.0),
)

HONEST_RUNTIMES = tuple(
    Case(
        name=name,
        level="healthy",
        build=marked(name),
        runtime=MISBEHAVING,
        expect=NOT_FAILED,
        moves=False,
        short=name == m.ALL_BYTES,
    )
    for name in (m.ALL_BYTES, m.HONEST)
)

_WORDS = {  # words in the message that refuses it
    "dropout with training=True": "random",
    "noise on the logits": "random",
    "statistics of the batch": "in its batch",
    "minus the mean of the batch": "in its batch",
    "some of the image before": "in its batch",
    "NaN on dark images": "NaN",
    DROWNED: "drown",
}
CHECKPOINTS = tuple(
    Case(
        name=f"checkpoint: {name}",
        level="checkpoint",
        build=lambda bed, path: bed.export(bed.model(), path, "torchscript"),
        bed=name,
        format="torchscript",
        runtime="torchscript",
        cause=frozenset({_WORDS[name]}),
        short=name in ("dropout with training=True", "statistics of the batch"),
    )
    for name in (*NO_REFERENCES, DROWNED)
)


def _data(name: str, bed: str) -> Case:
    return Case(
        name=f"data: {name}",
        level="data",
        build=lambda bed, path: copy_of(bed.healthy("onnx"), path),
        bed=bed,
        cause=frozenset({"labels"}),
    )


DATA = (
    _data("labels shuffled", "labels shuffled"),
    _data("labels of the training images", "labels of others"),
    _data("labels count from 1", "labels from 1"),
    _data("one label for all", "labels equal"),
)
PROCESSES = (*RUNTIMES, *CHECKPOINTS, *DATA)
