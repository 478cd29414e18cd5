"""How many threads to compute with: a number from outside, checked."""

from __future__ import annotations

from toolkit.errors import SettingError
from toolkit.machine.environment import usable_cores

MOST_THREADS = 1024


def check_threads(threads: int | None) -> int:
    """The number of threads to use; None means all usable cores.

    Raises:
        SettingError: below 1, or more than any machine has.
    """
    if threads is None:
        return usable_cores()
    if not 1 <= threads <= MOST_THREADS:
        raise SettingError(
            f"--threads {threads}: expected 1 or more, at most {MOST_THREADS}; leave it out to "
            f"use all {usable_cores()} usable cores"
        )
    return threads
