"""What can go wrong, as one tree; the command line turns each into one line and an exit code.

    ToolkitError                 exit code 2: wrong usage or bad input
    ├── UnsupportedSystemError   an operating system that the toolkit does not run on
    ├── SettingError             a setting out of range (`threads=0`)
    ├── UnknownNameError         no such format, runtime, device ...; lists the known ones
    ├── DatasetError             IDX files that are missing, damaged or do not fit the model
    ├── CheckpointError          weights or checkpoint.json missing, damaged, refused
    ├── ArtifactError            artifact or manifest.json missing, damaged, of another checkpoint
    ├── InputError               an array that does not fit the session: shape, dtype, batch, NaN
    ├── OutputError              a file or folder that cannot be written
    └── FailedRun                exit code 3: could not be run; carries a row's status
        ├── Crashed              the worker died or the runtime raised
        ├── TimedOut             no answer in time
        ├── OutOfMemory          the worker ran out of memory
        ├── WrongOutput          timed calls gave other logits than untimed ones (exit code 1)
        ├── NotInstalled         a package is missing; says the command that installs it
        └── Unsupported          the runtime cannot do what was asked (device, precision)

Every message says what failed, the value received, what was expected, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from toolkit.schema import Results, Status


def headline(error: BaseException) -> str:
    """An exception of somebody else's code in one line: its type and its message's first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:500] if lines else 'no message'}"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after something was measured. `results` has it, marked `interrupted`."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted; the results hold what was measured until then")
        self.results = results


class ToolkitWarning(UserWarning):
    """Something is not as it should be, and the work goes on; the command line shows it."""


class ToolkitError(Exception):
    """Base of every error that the toolkit raises on purpose."""

    exit_code: ClassVar[int] = 2


class UnsupportedSystemError(ToolkitError):
    """The toolkit does not run on this operating system."""


class SettingError(ToolkitError):
    """A setting is out of range."""


class UnknownNameError(ToolkitError):
    """A name is in no table; the message lists the known names."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known)}")


class DatasetError(ToolkitError):
    """IDX files are missing, damaged, or do not fit the model."""


class CheckpointError(ToolkitError):
    """A checkpoint is missing, damaged, or would run code."""


class ArtifactError(ToolkitError):
    """An artifact is missing, damaged, or belongs to another checkpoint."""


class InputError(ToolkitError):
    """An array does not fit the session: shape, dtype, batch or NaN; no runtime saw it."""


class OutputError(ToolkitError):
    """Something cannot be written; what was there before is untouched."""


class FailedRun(ToolkitError):  # noqa: N818 - it is the row's outcome, not only an error
    """Something could not be run. `reason` is what follows the status in a row.

    `stderr_tail` holds the last lines that the worker wrote, for the row and the report.
    """

    exit_code: ClassVar[int] = 3
    status: ClassVar[Status] = "crashed"

    def __init__(self, reason: str, *, stderr_tail: str = "") -> None:
        super().__init__(f"{self.status.replace('_', ' ')}: {reason}")
        self.reason = reason
        self.stderr_tail = stderr_tail


class Crashed(FailedRun):
    """The worker died, or the runtime raised."""


class TimedOut(FailedRun):
    """No answer in time; the worker was killed."""

    status = "timed_out"


class OutOfMemory(FailedRun):
    """The worker ran out of memory."""

    status = "out_of_memory"


class WrongOutput(FailedRun):
    """What was timed did not compute what was verified: a verdict, not an accident."""

    exit_code = 1
    status = "failed"


class NotInstalled(FailedRun):
    """A package is missing."""

    status = "not_installed"


class Unsupported(FailedRun):
    """The runtime cannot do what was asked of it."""

    status = "unsupported"
