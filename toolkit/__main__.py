"""Start of the command line: `toolkit`, or `python -m toolkit`.

Signals are handled before anything large is imported.
"""

from __future__ import annotations

import contextlib
import os
import sys

from toolkit.interruption import end_at_once


def main() -> None:
    """Run the command line."""
    end_at_once()
    from toolkit.cli import main as run_command

    run_command()


def _leave_out_the_current_folder() -> None:
    """Python's -m searches the current folder before the libraries, so any file there that is
    named like a library would run. The folder stays if the toolkit itself is in it."""
    # pathlib is slow to import, and a signal would find no handler in the meantime.
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    with contextlib.suppress(OSError):  # the current folder was deleted
        if not sys.flags.safe_path and sys.path[0] != own and sys.path[0] == os.getcwd():  # noqa: PTH109
            del sys.path[0]


if __name__ == "__main__":
    _leave_out_the_current_folder()
    main()
