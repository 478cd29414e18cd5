"""Arrangement of arrays: the order of dimensions and the range of values → raw samples.

In: an array as it is stored, and the model's input. Out: samples `[N,...]`, uint8 or float32 as the
model takes them, converted on access, and notes that say what was recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.data.geometry import size_after
from toolkit.data.images import ArrangedImages, LazyImages, MappedImages, Scaling
from toolkit.data.raw import Remarks
from toolkit.errors import DatasetError
from toolkit.schema import InputSpec

_CHANNELS = (1, 3, 4)
_CHUNK_BYTES = 16 << 20
_STEP = 1e-4  # how far 255 times a value may be from a whole number: rounding of float16 and less

Order = Literal["NCHW", "NHWC", "NHW"]
Values = NDArray[Any] | MappedImages


def arranged(
    where: str, values: Values, spec: InputSpec | None, remarks: Remarks
) -> NDArray[Any] | LazyImages:
    """Return the samples of an array.

    Raises:
        DatasetError: The shape or the values are not those of images, or not those of the model.
    """
    if spec is not None and spec.dtype == "float32":
        return _floats(where, values, remarks)
    order = _order(where, values.shape[1:], spec, remarks)
    scaling = _scaling(where, values, remarks)
    plain = order == "NCHW" and scaling == "none" and np.dtype(_dtype(values)) == np.uint8
    if plain:
        return values
    return ArrangedImages(
        values=values,
        last=order == "NHWC",
        flat=order == "NHW",
        scaling=scaling,
        dtype="uint8",
    )


def _floats(where: str, values: Values, remarks: Remarks) -> NDArray[Any] | LazyImages:
    """Return samples as they are, as float32: a model of float inputs gets no image."""
    for chunk in _chunks(values):
        if not np.isfinite(chunk).all():
            raise DatasetError(f"{where}: has NaN or infinite values; remove those samples")
    dtype = _dtype(values)
    remarks.notes.append(f"{where}: samples {list(values.shape[1:])}, {dtype}, as they are")
    if dtype == np.float32:
        return values
    return ArrangedImages(values=values, dtype="float32")


def _order(where: str, shape: tuple[int, ...], spec: InputSpec | None, remarks: Remarks) -> Order:
    """Return the order of the dimensions: that in which the images fit the model; of two, the
    first of `[N,C,H,W]` and `[N,H,W,C]`."""
    if spec is not None and len(spec.shape) != 3 and shape == spec.shape:
        return "NCHW"  # no images, or without channels: as they are
    if len(shape) == 2:
        remarks.notes.append(f"{where}: images [N,H,W] of shape {list(shape)}, one channel")
        return "NHW"
    if len(shape) != 3:
        raise DatasetError(
            f"{where}: samples of shape {list(shape)}, expected images [H,W], [C,H,W] or [H,W,C]; "
            "for other samples, import the checkpoint with float32 inputs"
        )
    orders: dict[Order, tuple[int, ...]] = {"NCHW": shape, "NHWC": (shape[2], *shape[:2])}
    fitting = [order for order, own in orders.items() if _fits(own, spec)]
    if not fitting:
        wanted = "1, 3 or 4 channels" if spec is None else f"the model's {list(spec.shape)}"
        raise DatasetError(
            f"{where}: images of shape {list(shape)}, expected {wanted}, as [N,C,H,W] or [N,H,W,C]"
        )
    order = fitting[0]
    letters = f"[{','.join(order)}]"
    if len(fitting) == 2:
        remarks.warnings.append(
            f"{where}: images of shape {list(shape)} could be [N,C,H,W] or [N,H,W,C]; they are "
            f"read as {letters}"
        )
    else:
        remarks.notes.append(f"{where}: images {letters} of shape {list(shape)}")
    return order


def _fits(shape: tuple[int, ...], spec: InputSpec | None) -> bool:
    """Return whether an image `[C,H,W]` fits the model, after resizing and cropping."""
    channels, height, width = shape
    if spec is None:
        return channels in _CHANNELS and channels <= min(height, width)
    return (channels, *size_after(height, width, spec)) == spec.shape


def _scaling(where: str, values: Values, remarks: Remarks) -> Scaling:
    """Return how the values become 0 to 255, by the least and the largest of all of them.

    Raises:
        DatasetError: They are not the values of images.
    """
    dtype = _dtype(values)
    if dtype == np.uint8:
        return "none"
    least, largest, whole, steps = _range(where, values)
    found = f"{where}: {dtype} values from {least:g} to {largest:g}"
    if least < 0 or largest > 65535 or (largest > 255 and dtype.kind == "f"):
        raise DatasetError(
            f"{found}, expected those of images: 0 to 255, or floats from 0 to 1; save them before "
            "they are normalised, or import the checkpoint with float32 inputs, mean 0 and std 1"
        )
    if dtype.kind == "b" or (dtype.kind == "f" and largest <= 1):
        remarks.notes.append(f"{found}, times 255")
        if not steps:
            remarks.warnings.append(f"{found} are rounded to 8 bits, as in image files")
        return "from 0..1"
    if dtype == np.uint16 and largest > 255:
        remarks.warnings.append(f"{found} are scaled from 16 to 8 bits: 65535 becomes 255")
        return "from 16 bits"
    if largest > 255:
        raise DatasetError(f"{found}, expected 0 to 255, or uint16 up to 65535")
    if largest <= 1:
        remarks.warnings.append(f"{found} are read as parts of 255: the images are nearly black")
    if not whole:
        raise DatasetError(
            f"{found}, which are not whole numbers; expected whole numbers from 0 to 255, or "
            "values from 0 to 1"
        )
    remarks.notes.append(f"{found}, as they are")
    return "none"


def _range(where: str, values: Values) -> tuple[float, float, bool, bool]:
    """Return the least and the largest value, whether all are whole, and whether all are whole
    multiples of 1/255."""
    least, largest, whole, steps = np.inf, -np.inf, True, True
    floats = _dtype(values).kind == "f"
    for chunk in _chunks(values):
        if floats and not np.isfinite(chunk).all():
            raise DatasetError(f"{where}: has NaN or infinite values; remove those images")
        least, largest = min(least, float(chunk.min())), max(largest, float(chunk.max()))
        if floats:
            exact = chunk.astype(np.float64)
            whole = whole and bool((exact == np.rint(exact)).all())
            in_steps = exact * 255
            tolerance = _STEP + 255 * np.finfo(chunk.dtype).eps
            steps = steps and bool((np.abs(in_steps - np.rint(in_steps)) <= tolerance).all())
    return least, largest, whole, steps


def _chunks(values: Values) -> Iterator[NDArray[Any]]:
    size = max(1, int(np.prod(values.shape[1:])) * _dtype(values).itemsize)
    rows = max(1, _CHUNK_BYTES // size)
    for start in range(0, len(values), rows):
        yield values[start : start + rows]


def _dtype(values: Values) -> np.dtype[Any]:
    return np.dtype(values.dtype)
