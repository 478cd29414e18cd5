"""Experiments that make the checkpoint give the candidate's logits.

In: the model, raw images, and the symptoms on them. Out: a `Cause`, with the change of the inputs,
of an operator or of the weights after which the checkpoint gives the candidate's logits. Runs in a
separate process; see `toolkit.parity.causes.apart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.data.preprocessing import normalise
from toolkit.parity.causes.changes import (
    Family,
    ceilings,
    changes,
    factors,
    products,
    rounded_results,
)
from toolkit.parity.causes.inputs import affine, changed_inputs, spec_of
from toolkit.parity.causes.operators import Edit, Edited, Operator, record
from toolkit.parity.causes.rounding import rounded, roundings, tf32
from toolkit.parity.causes.symptoms import Fit, Symptoms, distance, number, root_mean_square
from toolkit.schema import Cause, InputSpec
from toolkit.timing import Stopwatch

_FEW = 8  # worst images that a hypothesis must explain before it is tried on all
_FITTED = 24  # worst images that numbers are fitted on
_STEPS = 6
_AT_ONCE = 100
_AS_NEAR = 1.5  # times the smallest error: an equally good explanation
_ALIKE = 0.5  # correlation of two errors that come from the same rounding

Logits = NDArray[np.float64]
Rows = NDArray[np.intp]
Run = Callable[[Rows], Logits]
"""Logits of some of the images."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause, and how well it explains the candidate."""

    cause: Cause
    fit: Fit


class Experiments:
    """All experiments on one model with some images.

    `symptoms` are those of the images, in the same order. The first `symptoms.batch_size` images
    are a whole batch of the candidate.
    """

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        spec: InputSpec,
        symptoms: Symptoms,
        *,
        budget_s: float,
    ) -> None:
        self._model = model.eval()
        self._images = images
        self._spec = spec
        self._symptoms = symptoms
        self._inputs = normalise(images, spec)
        self._watch = Stopwatch()
        self._budget_s = budget_s
        self._all: Rows = np.arange(len(images))
        self._worst: Rows = np.argsort(-symptoms.difference.max(axis=1), kind="stable")
        self._operators = self._recorded()

    def _recorded(self) -> list[Operator]:
        """None if the model's code cannot be recorded; only inputs are tried then."""
        try:
            with torch.no_grad():
                return record(self._model, torch.from_numpy(self._inputs[:2]))
        except (RuntimeError, TypeError, NotImplementedError):
            return []

    def cause(self) -> Cause | None:
        """Return the first cause that explains a float32 candidate; for other precisions, the best
        one."""
        best: Finding | None = None
        for find in (
            self._of_inputs,
            self._of_factors,
            self._of_changes,
            self._of_roundings,
            self._of_rounded_results,
            self._of_normalisations,
            self._of_ceilings,
            self._of_products,
        ):
            for finding in find():
                if self._symptoms.exact:
                    return finding.cause
                if best is None or finding.fit.rms < best.fit.rms:
                    best = finding
                if self._watch.elapsed_s() > self._budget_s:
                    break
        return best.cause if best else None

    def _of_inputs(self) -> Iterator[Finding]:
        for each in changed_inputs(self._images, self._spec):
            fit = self._explains(lambda rows, x=each.inputs: self._logits(x[rows]))  # type: ignore[misc]
            if fit is not None:
                yield self._fed(each.kind, each.what, each.action, fit)

    def _of_normalisations(self) -> Iterator[Finding]:
        """Find any other mean and std by fitting a factor and an offset for each channel."""
        channels = len(self._spec.mean)

        def run(values: Logits, rows: Rows) -> Logits:
            return self._logits(affine(self._inputs[rows], values[:channels], values[channels:]))

        start = np.concatenate([np.ones(channels), np.zeros(channels)])
        found = self._solve(run, start)
        if found is None or not (found[:channels] > 0).all():
            return
        fit = self._explains(lambda rows: run(found, rows))
        if fit is None:
            return
        mean, std = spec_of(self._spec, found[:channels], found[channels:])
        what = f"they are normalised by mean {_listed(mean)} and std {_listed(std)}"
        action = (
            f"The input spec has mean {_listed(self._spec.mean)} and std "
            f"{_listed(self._spec.std)}: compare it with the preprocessing of the exported "
            "model and of its caller."
        )
        yield self._fed("other normalisation", what, action, fit)

    def _fed(self, kind: str, what: str, action: str, fit: Fit) -> Finding:
        text = (
            f"The images are preprocessed in another way: {what}. With this change, the "
            f"checkpoint gives the candidate's logits: {fit.words(self._symptoms)}."
        )
        return Finding(cause=Cause(kind=kind, text=text, action=action), fit=fit)

    def _of_changes(self) -> Iterator[Finding]:
        for each in changes(self._operators):
            whole = self._symptoms.batch_size if each.kind == "depends on the batch" else None
            fit = self._explains(lambda rows, e=each.edits: self._edited(e, rows), whole=whole)  # type: ignore[misc]
            if fit is not None:
                yield self._changed(each.kind, each.what, each.action, fit)

    def _of_factors(self) -> Iterator[Finding]:
        for family in factors(self._operators):

            def run(values: Logits, rows: Rows, family: Family = family) -> Logits:
                return self._edited({family.index: family.edit(float(values[0]))}, rows)

            found = self._solve(run, np.ones(1))
            if found is None or abs(found[0] - 1) < 1e-4:
                continue
            fit = self._explains(lambda rows: run(found, rows))  # noqa: B023 - called at once
            if fit is not None:
                what = family.what.format(f"{found[0]:.5g}")
                yield self._changed(family.kind, what, family.action, fit)

    def _of_ceilings(self) -> Iterator[Finding]:
        for family in ceilings(self._operators):
            largest = self._largest(family.index)

            def run(limit: float, rows: Rows, family: Family = family) -> Logits:
                return self._edited({family.index: family.edit(limit)}, rows)

            limit = self._search(run, largest)
            fit = None if limit is None else self._explains(lambda rows: run(limit, rows))  # noqa: B023
            if fit is not None and limit is not None:
                what = family.what.format(f"{limit:.3g} (the largest is {largest:.3g})")
                yield self._changed(family.kind, what, family.action, fit)
        yield from self._of_bright_pixels()

    def _of_bright_pixels(self) -> Iterator[Finding]:
        def run(limit: float, rows: Rows) -> Logits:
            return self._logits(np.minimum(self._inputs[rows], np.float32(limit)))

        largest = float(self._inputs.max())
        limit = self._search(run, largest)
        fit = None if limit is None else self._explains(lambda rows: run(limit, rows))
        if fit is not None:
            what = f"inputs above {limit:.3g} are cut off (the largest is {largest:.3g})"
            action = "Check the range of the input: the scale of its quantisation, or a clip."
            yield self._fed("inputs cut off", what, action, fit)

    def _of_roundings(self) -> Iterator[Finding]:
        """Return the nearest format; several may come near. float16 and TF32 have the same number
        of bits."""
        found = []
        for each in roundings():
            with rounded(self._model, each):
                fit = self._explains(lambda rows: self._logits(self._inputs[rows]), nearly=True)
            if fit is not None:
                action = "Export the float32 weights, or record the artifact's precision as it is."
                found.append(self._changed(each.kind, each.what, action, fit))
        yield from _nearest(found)

    def _of_rounded_results(self) -> Iterator[Finding]:
        """Return the nearest format. A sum in another order rounds some values to the other
        side."""
        found = []
        for each in rounded_results(self._operators):
            fit = self._explains(lambda rows, e=each.edits: self._edited(e, rows), nearly=True)  # type: ignore[misc]
            if fit is not None:
                found.append(self._changed(each.kind, each.what, each.action, fit))
        yield from _nearest(found)

    def _of_products(self) -> Iterator[Finding]:
        """Test rounded operands. Kernels round at different places, so only the shape of the error
        can agree."""
        if not self._symptoms.exact:
            return
        found = self._symptoms.candidate.astype(np.float64) - self._symptoms.reference
        if not np.isfinite(found).all():
            return
        for word, function in (
            ("bfloat16", lambda x: x.to(torch.bfloat16).to(x.dtype)),
            ("float16", lambda x: x.to(torch.float16).to(x.dtype)),
            ("TF32", tf32),
        ):
            edits = products(self._operators, function)
            error = self._edited(edits, self._all) - self._symptoms.reference
            sizes = root_mean_square(found), root_mean_square(error)
            if not found.std() or not error.std() or not np.isfinite(error).all():
                continue
            alike = float(np.corrcoef(found.ravel(), error.ravel())[0, 1])
            if alike >= _ALIKE and 0.5 < sizes[0] / sizes[1] < 2:
                yield self._of_arithmetic(word, alike, sizes)

    def _of_arithmetic(self, word: str, alike: float, sizes: tuple[float, float]) -> Finding:
        text = (
            f"The error has the size and shape of {word} products: {number(sizes[0])} (root "
            f"mean square), and {number(sizes[1])} if the checkpoint's own factors are rounded "
            f"to {word}; the two errors have a correlation of {alike:.2f} on "
            f"{len(self._images)} images."
        )
        short = {"bfloat16": "bf16", "float16": "fp16"}.get(word, word)
        cause = Cause(
            kind=f"activations rounded to {short}",
            text=text,
            action="Look for a setting of the runtime that allows it to compute in less than "
            "float32, and for casts in the file.",
        )
        fit = Fit(images=len(self._images), largest=0, rms=sizes[0], rms_before=sizes[0])
        return Finding(cause=cause, fit=fit)

    def _changed(self, kind: str, what: str, action: str, fit: Fit) -> Finding:
        text = (
            f"The results look as if {what}. With this change, the checkpoint gives the "
            f"candidate's logits; {fit.words(self._symptoms)}."
        )
        return Finding(cause=Cause(kind=kind, text=text, action=action), fit=fit)

    def _explains(self, run: Run, *, whole: int | None = None, nearly: bool = False) -> Fit | None:
        """Try few images first. `whole` images must be one batch, and only they count."""
        if self._watch.elapsed_s() > self._budget_s:
            return None
        if whole is not None:
            return self._fit(run, self._all[:whole]) if whole <= len(self._images) else None
        if self._fit(run, self._worst[:_FEW], nearly=nearly) is None:
            return None
        return self._fit(run, self._all, nearly=nearly)

    def _fit(self, run: Run, rows: Rows, *, nearly: bool = False) -> Fit | None:
        try:
            predicted = run(rows)
        except (RuntimeError, IndexError, TypeError):  # a change that does not fit this model
            return None
        part = self._symptoms.of(rows)
        if predicted.shape != part.reference.shape:
            return None
        fit = part.fit(predicted)
        if fit is None and nearly and part.exact and np.isfinite(part.candidate).all():
            residual = distance(part.candidate, predicted)
            left, was = root_mean_square(residual), root_mean_square(part.difference)
            if left <= 0.25 * was:
                return Fit(
                    images=len(rows), largest=float(residual.max()), rms=left, rms_before=was
                )
        return fit

    def _solve(self, run: Callable[[Logits, Rows], Logits], start: Logits) -> Logits | None:
        """Run Gauss-Newton from `start`; return None as soon as it stops improving."""
        if self._watch.elapsed_s() > self._budget_s:
            return None
        rows = self._worst[:_FITTED]
        target = self._symptoms.candidate[rows].astype(np.float64)
        values, before = start, np.inf
        for _ in range(_STEPS):
            base = run(values, rows)
            error = target - base
            size = root_mean_square(error)
            if not np.isfinite(size) or size > 0.7 * before:
                break
            steps = [_step(run, values, base, at, rows) for at in range(len(values))]
            move = np.linalg.lstsq(np.stack(steps, 1), error.ravel(), rcond=None)[0]
            values, before = values + move, size
        return None if values is start else values

    def _search(self, run: Callable[[float, Rows], Logits], largest: float) -> float | None:
        """Return the limit below `largest` that explains most; None if none explains half."""
        rows = self._worst[:_FITTED]
        if largest <= 0 or self._watch.elapsed_s() > self._budget_s:
            return None
        target = self._symptoms.candidate[rows]

        def left(limit: float) -> float:
            return root_mean_square(distance(run(limit, rows), target))

        grid = largest * np.linspace(0.1, 0.95, 8)
        sizes = [left(float(limit)) for limit in grid]
        at = int(np.argmin(sizes))
        if not sizes[at] < 0.7 * left(largest):
            return None
        low, high = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, len(grid) - 1)])
        for _ in range(30 if self._symptoms.exact else 10):
            third = (high - low) / 3
            if left(low + third) < left(high - third):
                high -= third
            else:
                low += third
        return (low + high) / 2

    def _largest(self, index: int) -> float:
        """Return the largest value that an operator gives."""
        seen: list[float] = []

        def edit(call: object) -> object:
            result = call.run()  # type: ignore[attr-defined]
            seen.append(float(result.max()))
            return result

        self._edited({index: edit}, self._all)
        return max(seen)

    def _edited(self, edits: Mapping[int, Edit], rows: Rows) -> Logits:
        return self._logits(self._inputs[rows], edits)

    def _logits(
        self, inputs: NDArray[np.float32], edits: Mapping[int, Edit] | None = None
    ) -> Logits:
        """Return logits of `inputs` `[n,C,H,W]`, with operators edited. A whole batch of the
        candidate stays together if it is not larger than what is computed at once."""
        size = self._symptoms.batch_size if self._symptoms.batch_size > 1 else _AT_ONCE
        parts = []
        for start in range(0, len(inputs), size):
            given = torch.from_numpy(np.ascontiguousarray(inputs[start : start + size]))
            parts.append(self._run(given, edits).double().numpy())
        return np.concatenate(parts)

    def _run(self, inputs: Tensor, edits: Mapping[int, Edit] | None) -> Tensor:
        with torch.no_grad():
            if not edits:
                logits: Tensor = self._model(inputs)
                return logits
            with Edited(edits):
                changed: Tensor = self._model(inputs)
            return changed


def _nearest(found: list[Finding]) -> list[Finding]:
    """Return the first of the nearest findings; none if there are none."""
    best = min((each.fit.rms for each in found), default=0.0)
    return [each for each in found if each.fit.rms <= _AS_NEAR * best][:1]


def _step(
    run: Callable[[Logits, Rows], Logits], values: Logits, base: Logits, at: int, rows: Rows
) -> Logits:
    """Return the derivative of the logits with respect to one of the values, as a flat array."""
    by = 1e-3 * max(abs(float(values[at])), 0.1)
    moved = values.copy()
    moved[at] += by
    return (run(moved, rows) - base).ravel() / by


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
