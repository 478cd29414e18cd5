"""Experiments that make the checkpoint give the candidate's logits.

In: the model, raw images, and the symptoms on them. Out: a `Cause`, with the change of the inputs,
of an operator or of the weights after which the checkpoint gives the candidate's logits. Runs in a
separate process; see `toolkit.parity.causes.apart`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from toolkit.data.preprocessing import normalise
from toolkit.parity.causes.changes import (
    Family,
    ceilings,
    changes,
    factors,
    products,
    rounded_results,
)
from toolkit.parity.causes.fitting import Fitting, Logits, Rows
from toolkit.parity.causes.inputs import affine, changed_inputs, spec_of, takes_images
from toolkit.parity.causes.operators import Operator, record
from toolkit.parity.causes.rounding import rounded, roundings, tf32
from toolkit.parity.causes.symptoms import Fit, Symptoms, number, root_mean_square
from toolkit.schema import Cause, InputSpec

_AS_NEAR = 1.5  # times the smallest error: an equally good explanation
_ALIKE = 0.5  # correlation of two errors that come from the same rounding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause, and how well it explains the candidate."""

    cause: Cause
    fit: Fit


class Experiments:
    """All experiments on one model with some images.

    `symptoms` are those of the images, in the same order. The first `symptoms.batch_size` images
    are a whole batch of the candidate. `embedded` says that the candidate's file makes the inputs
    from raw images.
    """

    def __init__(
        self,
        model: nn.Module,
        images: NDArray[np.uint8],
        spec: InputSpec,
        symptoms: Symptoms,
        *,
        embedded: bool = False,
        budget_s: float,
    ) -> None:
        self._model = model.eval()
        self._embedded = embedded
        self._images = images
        self._spec = spec
        self._symptoms = symptoms
        self._inputs = normalise(images, spec)
        self._fitting = Fitting(self._model, self._inputs, symptoms, budget_s=budget_s)
        self._operators = self._recorded()

    def _recorded(self) -> list[Operator]:
        """Return the operators that the model calls; none if its code cannot be recorded. Then only
        other inputs are tried."""
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
                if self._fitting.out_of_time:
                    break
        return best.cause if best else None

    def _of_inputs(self) -> Iterator[Finding]:
        for each in changed_inputs(self._images, self._spec):
            fit = self._fitting.explains(partial(self._fitting.fed, each.inputs))
            if fit is not None:
                yield self._fed(each.kind, each.what, each.action, fit)

    def _of_normalisations(self) -> Iterator[Finding]:
        """Find any other mean and std of images by fitting a factor and an offset for each
        channel."""
        if not takes_images(self._spec):
            return
        channels = len(self._spec.mean)

        def run(values: Logits, rows: Rows) -> Logits:
            return self._fitting.logits(
                affine(self._inputs[rows], values[:channels], values[channels:])
            )

        start = np.concatenate([np.ones(channels), np.zeros(channels)])
        found = self._fitting.solve(run, start)
        if found is None or not (found[:channels] > 0).all():
            return
        fit = self._fitting.explains(partial(run, found))
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
        whose = "The file preprocesses images" if self._embedded else "The images are preprocessed"
        text = (
            f"{whose} in another way: {what}. With this change, the "
            f"checkpoint gives the candidate's logits: {fit.words(self._symptoms)}."
        )
        if self._embedded:
            action = (
                "The file has its own preprocessing and gets raw images: compare its graph with "
                f"the input spec (mean {_listed(self._spec.mean)}, std {_listed(self._spec.std)}, "
                f"pixels from 0 to 1, {self._spec.colours}), or export it again."
            )
        return Finding(cause=Cause(kind=kind, text=text, action=action), fit=fit)

    def _of_changes(self) -> Iterator[Finding]:
        for each in changes(self._operators):
            whole = self._symptoms.batch_size if each.kind == "depends on the batch" else None
            fit = self._fitting.explains(partial(self._fitting.edited, each.edits), whole=whole)
            if fit is not None:
                yield self._changed(each.kind, each.what, each.action, fit)

    def _of_factors(self) -> Iterator[Finding]:
        for family in factors(self._operators):

            def run(values: Logits, rows: Rows, family: Family = family) -> Logits:
                return self._fitting.edited({family.index: family.edit(float(values[0]))}, rows)

            found = self._fitting.solve(run, np.ones(1))
            if found is None or abs(found[0] - 1) < 1e-4:
                continue
            fit = self._fitting.explains(partial(run, found))
            if fit is not None:
                what = family.what.format(f"{found[0]:.5g}")
                yield self._changed(family.kind, what, family.action, fit)

    def _of_ceilings(self) -> Iterator[Finding]:
        for family in ceilings(self._operators):
            largest = self._fitting.largest(family.index)

            def run(limit: float, rows: Rows, family: Family = family) -> Logits:
                return self._fitting.edited({family.index: family.edit(limit)}, rows)

            limit = self._fitting.search(run, largest)
            fit = None if limit is None else self._fitting.explains(partial(run, limit))
            if fit is not None and limit is not None:
                what = family.what.format(f"{limit:.3g} (the largest is {largest:.3g})")
                yield self._changed(family.kind, what, family.action, fit)
        yield from self._of_bright_pixels()

    def _of_bright_pixels(self) -> Iterator[Finding]:
        def run(limit: float, rows: Rows) -> Logits:
            return self._fitting.logits(np.minimum(self._inputs[rows], np.float32(limit)))

        largest = float(self._inputs.max())
        limit = self._fitting.search(run, largest)
        fit = None if limit is None else self._fitting.explains(partial(run, limit))
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
                fit = self._fitting.explains(partial(self._fitting.fed, self._inputs), nearly=True)
            if fit is not None:
                action = "Export the float32 weights, or record the artifact's precision as it is."
                found.append(self._changed(each.kind, each.what, action, fit))
        yield from _nearest(found)

    def _of_rounded_results(self) -> Iterator[Finding]:
        """Return the nearest format. A sum in another order rounds some values to the other
        side."""
        found = []
        for each in rounded_results(self._operators):
            fit = self._fitting.explains(partial(self._fitting.edited, each.edits), nearly=True)
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
            error = self._fitting.edited(edits, self._fitting.all_rows) - self._symptoms.reference
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


def _nearest(found: list[Finding]) -> list[Finding]:
    """Return the first of the nearest findings; none if there are none."""
    best = min((each.fit.rms for each in found), default=0.0)
    return [each for each in found if each.fit.rms <= _AS_NEAR * best][:1]


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
