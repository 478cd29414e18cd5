"""The number of threads to compute with, checked."""

from __future__ import annotations

from toolkit.errors import SettingError
from toolkit.machine.environment import usable_cores

MOST_THREADS = 1024


def check_threads(threads: int | None) -> int:
    """Return the number of threads to use; None means all usable cores.

    Raises:
        SettingError: Below 1, or more than any machine has.
    """
    if threads is None:
        return usable_cores()
    if not 1 <= threads <= MOST_THREADS:
        raise SettingError(
            f"--threads {threads}: expected 1 or more, at most {MOST_THREADS}; leave it out to "
            f"use all {usable_cores()} usable cores"
        )
    return threads
