"""A session that checks its inputs and logits, inside the worker."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import Crashed, InputError, WrongOutput
from toolkit.schema import Artifact, Inputs
from toolkit.sessions.runtimes import Session

_SAME = 1e-4  # repeated runs agree to the bit, or to the order in which threads add


class CheckedSession:
    """A session that rejects inputs that would make a runtime crash or return wrong results."""

    def __init__(self, session: Session, artifact: Artifact) -> None:
        self.unchecked = session
        self.artifact = artifact

    def run(self, inputs: Inputs) -> NDArray[np.floating]:
        """Check inputs, run, check logits.

        Raises:
            InputError: Inputs that do not fit.
            Crashed: The runtime returned something other than logits `[N,K]`.
            WrongOutput: The runtime wrote into its input.
        """
        self.check_inputs(inputs)
        before = inputs.copy()
        logits = self.unchecked.run(inputs)
        self.check_logits(logits, len(inputs))
        changed = int(np.count_nonzero(inputs != before))
        if changed:
            raise WrongOutput(
                f"the runtime changed {changed:,} of {inputs.size:,} values of its input in "
                "place, so later calls would get other images; its session must pass a copy to "
                "the model"
            )
        return logits

    def check_inputs(self, inputs: Inputs) -> None:
        """Raise InputError unless inputs are finite float32 `[N,...]` with N of 1 or more; uint8 if
        the artifact embeds its preprocessing."""
        dtype = "uint8" if self.artifact.embeds_preprocessing else "float32"
        expected = f"{dtype} [N, {', '.join(map(str, self.artifact.input_shape))}] with N >= 1"
        if inputs.dtype != dtype:
            raise InputError(f"input of dtype {inputs.dtype}, expected {expected}")
        if inputs.shape[1:] != self.artifact.input_shape or len(inputs) < 1:
            raise InputError(f"input of shape {list(inputs.shape)}, expected {expected}")
        bad = int(np.count_nonzero(~np.isfinite(inputs)))
        if bad:
            raise InputError(
                f"input holds {bad} NaN or infinite values, expected finite {expected}"
            )

    def check_logits(self, logits: NDArray[np.floating], batch_size: int) -> None:
        """Raise Crashed unless logits are floats `[batch_size,K]`. The verdict handles NaN."""
        expected = (batch_size, self.artifact.classes)
        found = getattr(logits, "shape", None), str(getattr(logits, "dtype", type(logits).__name__))
        wanted = "float64" if self.artifact.precision == "fp64" else "float32"
        if found != (expected, wanted):
            raise Crashed(
                f"the runtime returned {found[1]} {list(found[0] or ())}, expected {wanted} logits "
                f"{list(expected)}"
            )


def check_same(found: NDArray[np.floating], expected: NDArray[np.floating], source: str) -> None:
    """Raise WrongOutput unless the logits `[N,K]` agree to four digits of the largest; NaN never
    agrees."""
    scale = float(np.abs(expected).max())
    difference = float(np.abs(found - expected).max())
    if not difference <= _SAME * max(scale, 1e-30):
        raise WrongOutput(
            f"{source} logits that differ by up to {difference:.1e} from the earlier ones of the "
            f"same images (the largest is {scale:.1e})"
        )
