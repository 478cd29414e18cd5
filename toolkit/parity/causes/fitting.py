"""Fits a change of the checkpoint to the candidate's logits, and finds the best value.

In: the model, its inputs, the symptoms. Out: a `Fit`, or the values that fit best.
`toolkit.parity.causes.experiments` selects the changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.parity.causes.operators import Edit, Edited
from toolkit.parity.causes.symptoms import Fit, Symptoms, distance, root_mean_square
from toolkit.timing import Stopwatch

_FEW = 8  # worst images that a hypothesis must explain before it is tried on all
_FITTED = 24  # worst images that numbers are fitted on
_STEPS = 6
_AT_ONCE = 100

Logits = NDArray[np.float64]
Rows = NDArray[np.intp]
Run = Callable[[Rows], Logits]
"""Logits of some of the images."""


class Fitting:
    """Runs a changed model on some inputs, and compares it with the candidate.

    `inputs` is float32 `[N,C,H,W]`, normalised; `symptoms` are those of the same images, in the
    same order. After `budget_s` seconds nothing more is tried.
    """

    def __init__(
        self, model: nn.Module, inputs: NDArray[np.float32], symptoms: Symptoms, *, budget_s: float
    ) -> None:
        self.inputs = inputs
        self.all_rows: Rows = np.arange(len(inputs))
        self._model = model
        self._symptoms = symptoms
        self._worst: Rows = np.argsort(-symptoms.difference.max(axis=1), kind="stable")
        self._watch = Stopwatch()
        self._budget_s = budget_s

    @property
    def out_of_time(self) -> bool:
        """Return whether the budget is spent."""
        return self._watch.elapsed_s() > self._budget_s

    def explains(self, run: Run, *, whole: int | None = None, nearly: bool = False) -> Fit | None:
        """Return how well a change explains the candidate; None if it does not.

        Few images are tried first. `whole` images must be one batch, and only they count. `nearly`
        also accepts a change that leaves a quarter of the error.
        """
        if self.out_of_time:
            return None
        if whole is not None:
            return self._fit(run, self.all_rows[:whole]) if whole <= len(self.inputs) else None
        if self._fit(run, self._worst[:_FEW], nearly=nearly) is None:
            return None
        return self._fit(run, self.all_rows, nearly=nearly)

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

    def solve(self, run: Callable[[Logits, Rows], Logits], start: Logits) -> Logits | None:
        """Run Gauss-Newton from `start`; return None as soon as it stops improving."""
        if self.out_of_time:
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

    def search(self, run: Callable[[float, Rows], Logits], largest: float) -> float | None:
        """Return the limit below `largest` that explains most; None if none explains half."""
        rows = self._worst[:_FITTED]
        if largest <= 0 or self.out_of_time:
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

    def largest(self, index: int) -> float:
        """Return the largest value that an operator gives."""
        seen: list[float] = []

        def edit(call: object) -> object:
            result = call.run()  # type: ignore[attr-defined]
            seen.append(float(result.max()))
            return result

        self.edited({index: edit}, self.all_rows)
        return max(seen)

    def edited(self, edits: Mapping[int, Edit], rows: Rows) -> Logits:
        """Return the checkpoint's logits of some images, with operators edited."""
        return self.logits(self.inputs[rows], edits)

    def fed(self, inputs: NDArray[np.float32], rows: Rows) -> Logits:
        """Return the checkpoint's logits of some images of other inputs."""
        return self.logits(inputs[rows])

    def logits(
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


def _step(
    run: Callable[[Logits, Rows], Logits], values: Logits, base: Logits, at: int, rows: Rows
) -> Logits:
    """Return the derivative of the logits with respect to one of the values, as a flat array."""
    by = 1e-3 * max(abs(float(values[at])), 0.1)
    moved = values.copy()
    moved[at] += by
    return (run(moved, rows) - base).ravel() / by
