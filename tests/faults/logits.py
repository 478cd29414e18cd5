"""Logits that need no file: scales, offsets, near ties, masks, and faults among them.

In: a seed. Out: a reference with float32 noise around it, and candidate logits that are another
float32 evaluation of the same model, or not. Only the pure verdict is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolkit.parity.gates import GateSettings
from toolkit.parity.reference import Reference, noise_floors
from toolkit.parity.verdict import compare
from toolkit.schema import Artifact, ParityReport

IMAGES, CLASSES, FEATURES = 200, 10, 64
_RUNS = 6
Logits = NDArray[np.float64]


def judge_logits(
    reference: Logits, runs: list[NDArray[np.float32]], candidate: NDArray[np.float32]
) -> ParityReport:
    """Return the pure verdict on fp32 logits `[N,K]`; `runs` are torch's own float32 results.

    This is the only place that calls it.
    """
    given = Reference(
        logits=reference,
        labels=reference.argmax(1).astype(np.int64),
        floors=noise_floors(reference, runs),
    )
    artifact = Artifact(
        format="onnx",
        precision="fp32",
        path="synthetic.onnx",
        size_bytes=1,
        sha256="0" * 64,
        checkpoint_sha256="0" * 64,
        spec_sha256="0" * 64,
        input_shape=(1, 1, 1),
        classes=reference.shape[1],
    )
    gates = GateSettings().of("fp32")
    return compare(given, candidate, runtime="synthetic", artifact=artifact, gates=gates)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One linear layer over features: logits in float64, and in float32 in any order of sums."""

    features: NDArray[np.float32]
    weights: NDArray[np.float32]
    offset: np.float32
    scale: np.float32

    def exact(self) -> Logits:
        """Logits `[N,K]` in float64."""
        sums = self.features.astype(np.float64) @ self.weights.astype(np.float64)
        return (sums + np.float64(self.offset)) * np.float64(self.scale)

    def float32(self, seed: int) -> NDArray[np.float32]:
        """Logits `[N,K]`, each product added to the sum in a random order."""
        order = np.random.default_rng(seed).permutation(FEATURES)
        total = np.zeros((len(self.features), self.weights.shape[1]), np.float32)
        for at in order:
            total += self.features[:, at : at + 1] * self.weights[at]
        return ((total + self.offset) * self.scale).astype(np.float32)


def model(seed: int, *, tie: float | None = None, offset: float = 0.0, scale: float = 1.0) -> Model:
    """Return a model whose first two classes differ by weights of size `tie`, if given."""
    random = np.random.default_rng(seed)
    features = np.maximum(random.standard_normal((IMAGES, FEATURES)), 0).astype(np.float32)
    weights = random.standard_normal((FEATURES, CLASSES)).astype(np.float32)
    if tie is not None:
        weights[:, 0] = np.abs(weights[:, 0]) + 1  # the first two are ahead of the others
        weights[:, 1] = weights[:, 0] + (tie * random.standard_normal(FEATURES)).astype(np.float32)
    return Model(
        features=features, weights=weights, offset=np.float32(offset), scale=np.float32(scale)
    )


def judge_model(
    given: Model, candidate: NDArray[np.float32] | None = None, *, seed: int = 0
) -> ParityReport:
    """Judge another float32 evaluation of the model, or the candidate's logits."""
    runs = [given.float32(1000 * seed + number) for number in range(_RUNS)]
    found = given.float32(1000 * seed + 999) if candidate is None else candidate
    return judge_logits(given.exact(), runs, found)
