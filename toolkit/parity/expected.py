"""The expected effect of rounding on the logits, measured with the checkpoint itself.

In: the precision of an artifact, or the arithmetic that a session attests. Out: the expected
rounding error, or the number of noise floors that the kernels may differ by. The checkpoint runs
once more in eager PyTorch on some of the test images. The operands of its products are rounded as
the precision or the kernels round them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.inputs import inputs_of
from toolkit.artifacts.rounding.expected_error import find_expected_error
from toolkit.data import Dataset
from toolkit.errors import FailedRun
from toolkit.parity.gates import MAX_FLOORS
from toolkit.parity.reference import Reference, distances
from toolkit.schema import EAGER, EXACT_PRECISIONS, ExpectedError, Precision, Settings
from toolkit.sessions.candidates import Candidate, Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession

_IMAGES = 200
_VARIANTS: dict[Precision, tuple[str, str]] = {
    "fp16": ("products:fp16", "weights and operands of products rounded to float16"),
    "bf16": ("products:bf16", "weights and operands of products rounded to bfloat16"),
    "int8-weights": ("weights:int8", "weights rounded to 8 bits per output channel"),
}
_FAST: dict[str, tuple[str, str]] = {
    "TF32": ("products:tf32", "TF32 keeps 10 bits of each factor (NVIDIA, A100 whitepaper 2020)"),
    "bfloat16": ("products:bf16", "bfloat16 keeps 7 bits of each factor"),
    "float16": ("products:fp16", "float16 keeps 10 bits of each factor"),
}
_ALLOWED = 4.0  # times the distance of the checkpoint itself with products rounded in this way
WINOGRAD = "float32 (Winograd)"
_WINOGRAD_FLOORS = 400.0
_WINOGRAD_WORDS = (
    "Winograd transforms of tiles of 4x4 to 6x6 make rounding errors one to two digits larger "
    "(Barabasz et al. 2020, ACM TOMS 46(4))"
)


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How many noise floors fast kernels may differ by, and why."""

    floors: float
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Expectations:
    """Expected effects of rounding for one checkpoint on one data set; each is computed once."""

    subject: Subject
    dataset: Dataset
    reference: Reference
    threads: int
    timeout_s: float
    _found: dict[str, NDArray[np.floating]]

    @classmethod
    def of(
        cls,
        subject: Subject,
        dataset: Dataset,
        reference: Reference,
        *,
        threads: int,
        timeout_s: float,
    ) -> Expectations:
        """Create the record; nothing is computed yet."""
        return cls(
            subject=subject,
            dataset=dataset,
            reference=reference,
            threads=threads,
            timeout_s=timeout_s,
            _found={},
        )

    def error(self, candidate: Candidate) -> ExpectedError | None:
        """Return the expected logit error of the artifact's precision; None if it is unknown, as
        for fp32.

        The sources are the record of the export, or the ONNX file itself. For other precisions than
        int8, the checkpoint is run with rounded operands.
        """
        source, precision = candidate.source, candidate.source.artifact.precision
        if precision in EXACT_PRECISIONS:
            return None
        embedded = source.artifact.embeds_preprocessing
        inputs = inputs_of(self.dataset.images[:_IMAGES], candidate.input, embedded=embedded)
        try:
            found = find_expected_error(
                source.path, source.artifact, inputs, threads=self.threads, timeout_s=self.timeout_s
            )
            if found is None and precision in _VARIANTS:
                found = self._by_the_checkpoint(*_VARIANTS[precision])
        except FailedRun:
            return None
        return found or source.artifact.expected_error

    def allowance(self, arithmetic: str) -> Allowance | None:
        """Return how far the attested kernels may be away in an fp32 row; None if they are plain
        float32 or unknown."""
        if arithmetic == WINOGRAD:
            return Allowance(floors=_WINOGRAD_FLOORS, text=_WINOGRAD_WORDS)
        if arithmetic not in _FAST:
            return None
        variant, words = _FAST[arithmetic]
        try:
            logits = self._logits(variant)
        except FailedRun:
            return None
        floors = float(self.reference.rows(self._rows).in_floors(logits).max())
        return Allowance(
            floors=max(MAX_FLOORS, _ALLOWED * floors),
            text=(
                f"{words}; with this rounding, the checkpoint itself is {floors:,.0f} noise floors "
                "away"
            ),
        )

    @property
    def _rows(self) -> NDArray[np.intp]:
        return np.arange(min(_IMAGES, len(self.dataset)))

    def _by_the_checkpoint(self, variant: str, method: str) -> ExpectedError:
        found = distances(self.reference.logits[self._rows], self._logits(variant))
        usual = found[np.isfinite(found)]
        return ExpectedError(
            rms=float(np.sqrt(np.mean(usual**2))) if usual.size else 0.0,
            largest=float(usual.max(initial=0)),
            images=len(found),
            method=f"the checkpoint with {method}",
        )

    def _logits(self, variant: str) -> NDArray[np.floating]:
        """Return logits `[n,K]` of the first images in a variant of eager PyTorch.

        Raises:
            FailedRun: It cannot be run.
        """
        if variant not in self._found:
            settings = Settings(threads=self.threads)
            candidate = checkpoint_candidate(self.subject, EAGER, settings, variant=variant)
            with RemoteSession(candidate, batch_size=50, timeout_s=self.timeout_s) as session:
                (found,) = session.predict([self.dataset.images[self._rows]], batch_size=50)
            self._found[variant] = found
        return self._found[variant]
