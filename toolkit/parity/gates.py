"""The gates of a parity report: the defaults, and the values that the user set."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.errors import SettingError
from toolkit.schema import EXACT_PRECISIONS, Gates, Precision

MAX_FLOORS = 20.0
"""Healthy fp32 results were up to 4 noise floors away, the smallest arithmetic fault 84."""
BENIGN_FLOORS = 8.0
"""If all logits lie within this many noise floors, a flip may come from PyTorch itself."""

_MAX_ACCURACY_DROP = 0.001
_MAX_FLIP_RATE = 0.001
_MAX_FLIP_RATE_OF_EXACT = 0.1  # needs 36 images or more, because a few images show nothing
_MAX_ERROR_RATIO = 3.0
"""Healthy files had up to 1.6 times the expected rounding error, faulty files 4.6 times and
more."""
_MOST = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """The user's settings for the verdict; None is the default of each precision.

    Attributes:
        max_flips: Argmax flips that are not benign; None is 0 for fp32, else no gate.
        max_accuracy_drop: A fraction; None is no gate for fp32, else 0.001.
        max_flip_rate: Upper limit for the bound of the flip rate, a fraction; None is 0.1 for fp32,
            else 0.001.
        max_logit_diff: In logit units. Replaces the 20 noise floors of fp32 and the expected error
            of other precisions.
        confidence: One-sided confidence level of each bound.
        allow_undecided: Accept rows with too few images to decide.

    Raises:
        SettingError: A value is out of range.
    """

    max_flips: int | None = None
    max_accuracy_drop: float | None = None
    max_flip_rate: float | None = None
    max_logit_diff: float | None = None
    confidence: float = 0.975
    allow_undecided: bool = False

    def __post_init__(self) -> None:
        # Comparisons with NaN are false, so a gate of NaN would let everything pass.
        if self.max_flips is not None and not 0 <= self.max_flips <= _MOST:
            raise SettingError(
                f"--max-flips {self.max_flips}: expected 0 or more, at most {_MOST:,}"
            )
        for flag, value, example in (
            ("--max-accuracy-drop", self.max_accuracy_drop, "0.001 is 0.1 percentage point"),
            ("--max-flip-rate", self.max_flip_rate, "0.001 is 1 image of 1,000"),
        ):
            if value is not None and not 0 <= value <= 1:
                raise SettingError(f"{flag} {value}: expected a fraction from 0 to 1 ({example})")
        if self.max_logit_diff is not None and not 0 < self.max_logit_diff < float("inf"):
            raise SettingError(
                f"--max-logit-diff {self.max_logit_diff}: expected a finite number above 0, in "
                "logit units"
            )
        if not 0.5 <= self.confidence < 1:
            raise SettingError(
                f"--confidence {self.confidence}: expected 0.5 or more and less than 1, such as "
                "0.975"
            )

    def of(self, precision: Precision) -> Gates:
        """Return the gates of a precision.

        A given gate replaces the default. If given, `max_flips` and `max_accuracy_drop` apply to
        every precision; by default, each applies only to its own.
        """
        exact = precision in EXACT_PRECISIONS
        flips = self.max_flips
        if flips is None and exact:
            flips = 0
        drop = self.max_accuracy_drop
        if drop is None and not exact:
            drop = _MAX_ACCURACY_DROP
        rate = self.max_flip_rate
        if rate is None:
            rate = _MAX_FLIP_RATE_OF_EXACT if exact else _MAX_FLIP_RATE
        free = self.max_logit_diff is None
        return Gates(
            max_flips=flips,
            max_accuracy_drop=drop,
            max_flip_rate=rate,
            max_floors=MAX_FLOORS if exact and free else None,
            max_logit_diff=self.max_logit_diff,
            max_error_ratio=None if exact or not free else _MAX_ERROR_RATIO,
            confidence=self.confidence,
            allow_undecided=self.allow_undecided,
        )
