"""Settings from the outside: checked once, where they come in."""

from __future__ import annotations

from toolkit.environment import usable_cores
from toolkit.errors import SettingError
from toolkit.schema import Device, Settings


def check_positive(flag: str, value: float) -> None:
    """Raise SettingError unless `value` is a finite number above 0."""
    if not 0 < value < float("inf"):
        raise SettingError(f"{flag} {value}: expected a number above 0")


def check_threads(threads: int | None) -> int:
    """The number of threads to use; None means all usable cores.

    Raises:
        SettingError: below 1.
    """
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise SettingError(
            f"--threads {threads}: expected 1 or more; leave it out to use all "
            f"{usable_cores()} usable cores"
        )
    return threads


def session_settings(
    threads: int | None, device: Device, *, batch_size: int, timeout_s: float
) -> Settings:
    """The settings of every session of a call, checked.

    Raises:
        SettingError: a value out of range.
    """
    check_positive("--batch-size", batch_size)
    check_positive("--timeout", timeout_s)
    if device not in ("cpu", "cuda"):
        raise SettingError(f"--device {device}: expected cpu or cuda")
    return Settings(threads=check_threads(threads), device=device)


def check_gates(max_flips: int | None, max_accuracy_drop: float | None) -> None:
    """Raise SettingError unless each gate is absent, or 0 or more (NaN gates let all pass)."""
    if max_flips is not None and max_flips < 0:
        raise SettingError(f"--max-flips {max_flips}: expected 0 or more")
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop <= 1:
        raise SettingError(
            f"--max-accuracy-drop {max_accuracy_drop}: expected a fraction from 0 to 1 "
            "(0.001 is 0.1 percentage point)"
        )
