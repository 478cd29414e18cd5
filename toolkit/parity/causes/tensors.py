"""Comparison of a file's weights with the checkpoint's: which differ, and how; pure functions.

In: arrays by name. Out: a `Cause`, or None if all agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.causes.symptoms import count, number, numbers
from toolkit.schema import Cause

Tensor = NDArray[np.float64]

_SAME = 2e-6  # of the largest magnitude: the effect of float32 arithmetic
_FEW = 0.02  # share of the values
_LARGE = 1e-2  # of the largest magnitude
_SHOWN = 3
_TF32 = "weights rounded to TF32"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How one tensor differs: `how` completes the sentence `NAME ...`."""

    name: str
    kind: str
    how: str


def compare_tensors(
    expected: Mapping[str, NDArray[np.floating]], found: Mapping[str, NDArray[np.floating]]
) -> Cause | None:
    """Return the cause found in the weights. Tensors with a name that only one side has do not
    count."""
    common = [name for name in expected if name in found]
    differences = [
        difference
        for name in common
        if (difference := compare_tensor(name, expected[name], found[name])) is not None
    ]
    if not differences:
        return None
    kinds = {each.kind for each in differences}
    kind = differences[0].kind if len(kinds) == 1 else _common(kinds)
    if kind == "another checkpoint" and len(differences) < max(2, len(common) // 2):
        kind = "weights changed"
    shown = "; ".join(f"{each.name} {each.how}" for each in differences[:_SHOWN])
    more = len(differences) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    agree = len(common) - len(differences)
    return Cause(
        kind=kind,
        text=f"The weights in the file are not the checkpoint's: {shown}{rest}. "
        f"{count(agree, 'tensor')} of {len(common)} {'agrees' if agree == 1 else 'agree'}.",
        action="Export the checkpoint again, and find out what changes the file after the export.",
    )


def _common(kinds: set[str]) -> str:
    """Return one word for several kinds."""
    roundings = [kind for kind in kinds if kind.startswith("weights rounded")]
    if kinds == {_TF32, "weights rounded to fp16"}:
        return _TF32  # a tensor without tiny values is the same in both formats
    if len(roundings) == len(kinds):
        return "weights rounded"
    if len(roundings) == 1 and kinds <= {roundings[0], "weights noisy", "few weights changed"}:
        return roundings[0]
    return "scaled layer" if kinds == {"scaled weights"} else "weights changed"


def compare_tensor(
    name: str, expected: NDArray[np.floating], found: NDArray[np.floating]
) -> Difference | None:
    """Return how `found` differs; None if it does not."""
    if expected.shape != found.shape or not expected.size:
        return None
    ours, theirs = expected.astype(np.float64), found.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(theirs)))
    if bad:
        how = f"holds {count(bad, 'value')} that {'is' if bad == 1 else 'are'} NaN or infinite"
        return Difference(name=name, kind="not finite", how=how)
    scale = float(np.abs(ours).max())
    moved = np.abs(theirs - ours) > _SAME * scale
    if not moved.any():
        return None
    for describe in _WAYS:
        words = describe(ours, theirs, moved)
        if words is not None:
            return Difference(name=name, kind=words[0], how=words[1])
    return Difference(name=name, kind=_kind_of(ours, theirs), how=_how_far(ours, theirs))


Words = tuple[str, str]
Way = Callable[[Tensor, Tensor, NDArray[np.bool_]], Words | None]


def _zero(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    if theirs.any():
        return None
    return ("bias missing" if ours.ndim == 1 else "weights missing"), "is zero"


def _multiplied(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    factor = float((ours * theirs).sum() / (ours**2).sum())
    if ours.size < 2 or not _same(ours * factor, theirs):
        return None
    how = "has the opposite sign" if abs(factor + 1) < 1e-6 else f"is multiplied by {factor:.6g}"
    return "scaled weights", how


def _few(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    amount = int(np.count_nonzero(moved))
    if amount > max(3, _FEW * moved.size) or amount == moved.size:
        return None
    at = np.argwhere(moved)
    worst = at[int(np.argmax(np.abs(theirs - ours)[moved]))]
    was, now = float(ours[tuple(worst)]), float(theirs[tuple(worst)])
    place = ", ".join(map(str, worst))
    change = f"[{place}] is {now:.4g}, not {was:.4g}"
    if was and np.isclose(now, -was):
        change = f"[{place}] has the opposite sign"
    elif was and 0.1 < now / was < 10:
        change += f" ({100 * (now / was - 1):+.3g} %)"
    return "few weights changed", (
        f"differs in {amount:,} of {moved.size:,} values: {'most ' * (amount > 1)}{change}"
    )


def _moved_about(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    for axis in range(min(ours.ndim, 2)):
        order = _order(np.moveaxis(ours, axis, 0), np.moveaxis(theirs, axis, 0))
        if order is not None and _same(np.take(ours, order, axis), theirs):
            return "channels swapped", _permuted(order, "output" if axis == 0 else "input")
    if ours.ndim == 4:
        turned = {"turned by 180 degrees": ours[:, :, ::-1, ::-1], "mirrored": ours[..., ::-1],
                  "upside down": ours[:, :, ::-1]}  # fmt: skip
        for words, values in turned.items():
            if _same(values, theirs):
                return "kernels turned", f"has kernels that are {words}"
    if ours.ndim >= 2 and _same(np.swapaxes(ours, -1, -2), theirs):
        return "weights transposed", "is transposed"
    if ours.ndim >= 2 and _same(ours.swapaxes(0, 1).reshape(ours.shape), theirs):
        return "weights transposed", "has the layout of its transpose"
    return None


def _order(ours: Tensor, theirs: Tensor) -> NDArray[np.intp] | None:
    """Return which slice of `ours` each slice of `theirs` is; None if it is not a permutation."""
    if len(ours) < 2:
        return None
    random = np.random.default_rng(0).standard_normal(ours[0].size)
    first, second = ours.reshape(len(ours), -1) @ random, theirs.reshape(len(ours), -1) @ random
    by_ours, by_theirs = np.argsort(first, kind="stable"), np.argsort(second, kind="stable")
    order = np.empty(len(ours), np.intp)
    order[by_theirs] = by_ours
    return None if (order == np.arange(len(order))).all() else order


def _permuted(order: NDArray[np.intp], side: str) -> str:
    moved = np.flatnonzero(order != np.arange(len(order)))
    if len(moved) == 2:
        return f"has {side} channels {numbers(moved)} swapped"
    return f"has {len(moved)} of {len(order)} {side} channels in other positions"


def _pruned(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    zeros = (theirs == 0) & moved
    if not zeros.any() or not (zeros == moved).all():
        return None
    share, largest = zeros.mean(), float(np.abs(ours[zeros]).max())
    smallest = "the smallest, " if largest <= np.abs(theirs[theirs != 0]).min() else ""
    return "weights pruned", (
        f"has {100 * share:.3g} % of its values set to zero ({smallest}up to {number(largest)})"
    )


def _rounded(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    return _in_format(ours, theirs) or _on_a_grid(ours, theirs)


def _in_format(ours: Tensor, theirs: Tensor) -> Words | None:
    """Test whether all values are numbers of a narrower format, no farther away than its step."""
    single = theirs.astype(np.float32)
    bits = single.view(np.uint32)
    with np.errstate(over="ignore"):
        half = single.astype(np.float16).astype(np.float32)
    formats = (
        ("fp16", "float16", 2.0**-10, bool((half == single).all())),
        ("bf16", "bfloat16", 2.0**-7, not (bits & 0xFFFF).any()),
        ("TF32", "TF32", 2.0**-10, not (bits & 0x1FFF).any()),
    )
    for kind, words, step, holds in formats:
        if holds and (np.abs(theirs - ours) <= step * np.abs(ours) + 2.0**-24).all():
            return f"weights rounded to {kind}", f"is rounded to {words}"
    return None


def _on_a_grid(ours: Tensor, theirs: Tensor) -> Words | None:
    """Test whether the tensor is rounded to a number of bits, with one scale per tensor or
    channel."""
    axes = tuple(range(1, ours.ndim))
    for bits in (8, 4):
        most = 2 ** (bits - 1) - 1
        for words, largest in (
            ("tensor", np.abs(ours).max(keepdims=True)),
            ("channel", np.abs(ours).max(axis=axes, keepdims=True)),
        ):
            step = np.where(largest > 0, largest / most, 1)
            if _same(np.round(ours / step) * step, theirs):
                how = f"is rounded to {bits} bits, one scale per {words}"
                return f"weights rounded to {bits} bits", how
    return None


def _in_steps(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    """Test for few distinct values: quantised in a way that is not one of `_roundings`."""
    distinct = len(np.unique(theirs))
    if theirs.size < 1000 or distinct > 256 or len(np.unique(ours)) < 4 * distinct:
        return None
    bits = int(np.ceil(np.log2(distinct)))
    return f"weights rounded to {bits} bits", f"has only {distinct} distinct values"


def _some(ours: Tensor, theirs: Tensor, moved: NDArray[np.bool_]) -> Words | None:
    """Test half of the values or fewer, without small ones, which noise hardly changes."""
    large = np.abs(ours) > _LARGE * np.abs(ours).max()
    if not large.any() or moved[large].mean() > 0.5:
        return None
    how = f"differs in {int(moved.sum()):,} of {moved.size:,} values"
    factor = float((ours * theirs)[moved].sum() / (ours**2)[moved].sum())
    if _same(ours[moved] * factor, theirs[moved]):
        return "weights changed", f"{how}: they are multiplied by {factor:.6g}"
    return "weights changed", f"{how}, by up to {number(np.abs(theirs - ours).max())}"


_WAYS: tuple[Way, ...] = (
    *(_zero, _multiplied, _few, _moved_about, _pruned, _rounded, _in_steps, _some),
)


def _kind_of(ours: Tensor, theirs: Tensor) -> str:
    if ours.size < 8:
        return "weights changed"
    spread = float(np.std(ours) * np.std(theirs))
    alike = float(np.mean((ours - ours.mean()) * (theirs - theirs.mean()))) / max(spread, 1e-300)
    if alike < 0.5:
        return "another checkpoint"
    return "weights noisy" if alike > 0.98 else "weights changed"


def _how_far(ours: Tensor, theirs: Tensor) -> str:
    if _kind_of(ours, theirs) == "another checkpoint":
        return "has nothing in common with the checkpoint's"
    large = np.abs(ours) > _LARGE * np.abs(ours).max()
    share = float(np.abs(theirs[large] / ours[large] - 1).max()) if large.any() else 0.0
    return f"differs nearly everywhere, by up to {100 * share:.2g} %"


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    scale = max(float(np.abs(second).max()), 1e-300)
    return bool(np.abs(first - second).max() <= _SAME * scale)
