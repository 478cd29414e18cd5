"""Survey of pictures: the headers of a data set's files → one decision for all of them.

In: paths. Out: channels and sizes, and what a user should know about how they are read. Damaged
files are named before the work starts.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.data.pictures import MODES, Header, largest_value, read_header
from toolkit.data.raw import Remarks
from toolkit.errors import DatasetError
from toolkit.report.progress import Progress
from toolkit.timing import Stopwatch

_GREY = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I"}
_MOST_HEADERS = 50_000  # takes a minute at most; of larger sets, this many evenly spaced ones
_QUIET_S = 2.0
_EVERY = 500
_DARK = 4095  # the largest value of 12 bits
_DEEP_SAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The headers of a data set's pictures, `total` of them."""

    total: int
    headers: list[Header] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """Return 1 if all pictures are grey, otherwise 3."""
        return 1 if all(each.mode in _GREY for each in self.headers) else 3


def survey(paths: Sequence[bytes] | NDArray[np.bytes_], progress: Progress) -> Survey:
    """Read the headers of pictures, and check that they can be read.

    Raises:
        DatasetError: Some are damaged or hold values of an unknown range; names them.
    """
    stride = -(-len(paths) // _MOST_HEADERS) or 1
    chosen = paths[::stride]
    headers: list[Header] = []
    damaged: list[str] = []
    watch = Stopwatch()
    for number, path in enumerate(chosen):
        try:
            headers.append(read_header(Path(os.fsdecode(path))))
        except DatasetError as error:
            damaged.append(str(error))
        if number % _EVERY == _EVERY - 1 and watch.elapsed_s() > _QUIET_S:
            progress("pictures", number + 1, len(chosen), "headers")
    if watch.elapsed_s() > _QUIET_S:
        progress("pictures", len(chosen), len(chosen), "headers")
    if damaged:
        raise _damaged(damaged, len(chosen))
    return Survey(total=len(paths), headers=headers)


def _damaged(reasons: list[str], count: int) -> DatasetError:
    if len(reasons) == 1:
        return DatasetError(reasons[0])
    shown = "; ".join(reasons[:5]) + ("; ..." if len(reasons) > 5 else "")
    return DatasetError(f"{len(reasons):,} of {count:,} pictures cannot be used: {shown}")


def describe(found: Survey, channels: int, remarks: Remarks) -> None:
    """Say how the pictures are read as `channels` channels."""
    headers, total = found.headers, len(found.headers)
    modes = Counter(each.mode for each in headers)
    kinds = ", ".join(f"{count:,} {mode}" for mode, count in sorted(modes.items()))
    read = f"pictures are read as {MODES[channels]}, 8 bits per value (in the files: {kinds})"
    remarks.notes.append(read)
    if total < found.total:
        remarks.notes.append(f"the headers of {total:,} of {found.total:,} pictures were read")

    def warn(holds: Callable[[Header], bool], text: str) -> None:
        those = [each for each in headers if holds(each)]
        if those:
            first = Path(those[0].path).name
            count = f"{len(those):,} of {total:,} pictures"
            remarks.warnings.append(f"{count}: {text} (the first: {first})")

    if channels == 1:
        text = "in colour, read as grey because the model has one channel"
        warn(lambda each: each.mode not in _GREY and each.mode not in ("P", "PA"), text)
    if channels != 4:
        warn(lambda each: each.alpha, "transparency is dropped")
    warn(lambda each: each.mode in ("P", "PA"), "a palette, read as the colours in it")
    warn(lambda each: each.mode == "CMYK", "CMYK, converted to RGB without a colour profile")
    warn(lambda each: each.deep, "16 bits per value, scaled to 8 bits" + _how_dark(headers))
    warn(
        lambda each: each.turned,
        "their EXIF orientation is not applied, as in torchvision's ImageFolder",
    )


def _how_dark(headers: Sequence[Header]) -> str:
    """Return a remark if no value of some 16-bit pictures needs more than 12 bits."""
    deep = [each for each in headers if each.mode.startswith("I")]
    if not deep:
        return ""
    some = deep[:: -(-len(deep) // _DEEP_SAMPLES)]
    brightest = max(largest_value(Path(each.path)) for each in some)
    if brightest > _DARK:
        return ""
    return (
        f"; the largest of {len(some):,} has no value above {brightest:,}, so they will be nearly "
        "black: if they have fewer bits, scale them to 16"
    )


def check_sizes(found: Survey, result: Callable[[int, int], tuple[int, int]]) -> tuple[int, int]:
    """Return the height and width that all pictures have after resizing and cropping by `result`.

    Raises:
        DatasetError: They differ.
    """
    first = found.headers[0]
    wanted = result(*first.size)
    other = next((each for each in found.headers if result(*each.size) != wanted), None)
    if other is not None:
        raise DatasetError(
            f"the pictures have different sizes: {first.path} is {_size(first.size)}, "
            f"{other.path} is {_size(other.size)} (height x width); import the checkpoint with "
            "--resize and --crop, or resize all pictures to one size"
        )
    return wanted


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
