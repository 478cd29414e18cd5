"""Run it: `scripts/fuzz --minutes 1 --seed 0`."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    main()
