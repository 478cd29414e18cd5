"""All cases."""

from __future__ import annotations

from .files import FILES
from .healthy import VARIANTS
from .processes import HONEST_RUNTIMES, PROCESSES
from .records import Case

FAULTS: tuple[Case, ...] = (*FILES, *PROCESSES)
HEALTHY: tuple[Case, ...] = (*VARIANTS, *HONEST_RUNTIMES)
ALL = (*FAULTS, *HEALTHY)
