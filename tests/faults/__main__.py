"""Run all cases, and write the table: `python -m tests.faults [--short] [--out docs/faults.md]`."""

from __future__ import annotations

from .table import main

if __name__ == "__main__":
    main()
