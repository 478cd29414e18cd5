"""Settings from the outside: checked once, where they come in."""

from __future__ import annotations

from toolkit.environment import usable_cores
from toolkit.errors import SettingError


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
