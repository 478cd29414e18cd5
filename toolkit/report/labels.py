"""Names that tell candidates apart; pure functions.

In: the properties of each candidate as texts. Out: a name for each, as short as possible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from toolkit.schema import DatasetRecord, Settings


def count_of(number: int, noun: str) -> str:
    """Return `1 thread` or `2 threads`; the plural of `noun` must end in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def images_of(data: DatasetRecord) -> str:
    """Return `10,000 images`, or `500 of 10,000 images` for a sample."""
    part = (
        f"{data.images:,}" if data.drawn_from is None else f"{data.images:,} of {data.drawn_from:,}"
    )
    return f"{part} images"


def kind_of(precision: str, *, uint8: bool) -> str:
    """Return `fp32`, or `fp32, uint8 input` for an artifact with its preprocessing in the graph."""
    return f"{precision}, uint8 input" if uint8 else precision


def facts_of(
    runtime: str,
    precision: str,
    format: str,
    batch_size: int,
    settings: Settings,
    *,
    uint8: bool = False,
) -> tuple[str, ...]:
    """Return the properties that a name may contain, in order; defaults are omitted."""
    return (
        *(
            runtime,
            kind_of(precision, uint8=uint8),
            format,
            f"batch {batch_size}",
            count_of(settings.threads, "thread"),
        ),
        *(count_of(settings.streams, "stream"), settings.device),
        "memory kept" if settings.keep_memory else "",
    )


def distinct(facts: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a name such as `onnxruntime fp32`, extended by as many `facts_of` as needed to make it
    unique. If they are not enough, a number is added: `onnxruntime fp32 #2`."""
    varying = [len(set(column)) > 1 for column in zip(*(each[3:] for each in facts), strict=True)]
    counts: Counter[str] = Counter()
    names = []
    for each in facts:
        formats = {other[2] for other in facts if other[:2] == each[:2]}
        shown = (len(formats) > 1, *varying)
        extra = [text for text, wanted in zip(each[2:], shown, strict=True) if wanted and text]
        name = ", ".join([" ".join(each[:2]), *extra])
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name} #{counts[name]}")
    return names
