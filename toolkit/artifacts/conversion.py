"""Export in a separate process, so that a converter that crashes ends only that process.

The parent calls `export_apart`; the child runs this module. Files that converters put into the home
or the temporary folder are deleted with the scratch folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from toolkit.artifacts.formats import Format, Request, Written, find_format, load_exporter
from toolkit.errors import Crashed, FailedRun, Unsupported, headline
from toolkit.files.scratch import as_temporary_error, temporary_folder
from toolkit.processes.child import Apart, answer, start_apart
from toolkit.processes.confinement import Needs
from toolkit.schema import CheckpointId, Inputs, InputSpec, Isa, Precision, from_json, to_json

_REFUSES = re.compile(
    r"not (yet )?(supported|implemented)|unsupported(?! operand)|only supported|no conversion"
    r"|not in Core ATen opset|Lowering not found",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The input of the child: only names and paths; it loads the checkpoint itself."""

    format: str
    precision: Precision
    checkpoint: str
    checkpoint_id: CheckpointId
    model: str | None
    input: InputSpec
    embed: bool
    path: str
    calibration: str
    isas: tuple[Isa, ...] | None
    measured: str | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Conversion:
    """A converter at work in its process."""

    child: Apart

    @property
    def finished(self) -> bool:
        """Return whether `written` would return or raise at once."""
        return self.child.finished

    def written(self) -> Written:
        """Wait for its end, and return what it has written.

        Raises:
            FailedRun: The exception of the converter, or how its process ended, with its last
                output.
        """
        return from_json(Written, self.child.result())


@contextmanager
def export_apart(
    row: Format,
    *,
    precision: Precision,
    checkpoint: Path,
    checkpoint_id: CheckpointId,
    model: str | None,
    input: InputSpec,
    embed: bool = False,
    path: Path,
    calibration: Inputs,
    isas: tuple[Isa, ...] | None,
    measured: Inputs | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    timeout_s: float,
) -> Iterator[Conversion]:
    """Write `path` in a child process, which is killed at the end of the block; see `Request` for
    the arguments. `embed` puts the preprocessing of `input` into the graph."""
    with temporary_folder("export") as scratch:
        with as_temporary_error():
            np.save(scratch / "calibration.npy", calibration)
            if measured is not None:
                np.save(scratch / "measured.npy", measured)
        job = Job(
            format=row.name,
            precision=precision,
            checkpoint=str(checkpoint.resolve()),
            checkpoint_id=checkpoint_id,
            model=model,
            input=input,
            embed=embed,
            path=str(path.resolve()),
            calibration=str(scratch / "calibration.npy"),
            isas=isas,
            measured=None if measured is None else str(scratch / "measured.npy"),
            metadata=dict(metadata),
        )
        with start_apart(
            "toolkit.artifacts.conversion",
            to_json(job),
            scratch,
            what=f"format {row.name} {precision}: its converter",
            timeout_s=timeout_s,
            # Converters call compilers and programs of their own.
            needs=Needs(reads=(checkpoint,), writes=(path.parent,), model=model, programs=True),
        ) as child:
            yield Conversion(child)


def main() -> None:
    """Run in the child."""
    answer(_export, reason=lambda job, error: cannot_export(job["format"], error).reason)


def _export(found: dict[str, Any]) -> dict[str, Any]:
    from toolkit.artifacts.embedded import exported_model
    from toolkit.checkpoints.storage import load_same_model

    job = from_json(Job, found)
    module = load_same_model(Path(job.checkpoint), job.checkpoint_id, trusted=job.model)
    model, example = exported_model(module, job.input, embed=job.embed)
    request = Request(
        model=model,
        example=example,
        path=Path(job.path),
        precision=job.precision,
        calibration=np.load(job.calibration),
        isas=job.isas,
        measured=None if job.measured is None else np.load(job.measured),
        metadata=job.metadata,
    )
    exporter = load_exporter(find_format(job.format))
    try:
        return to_json(exporter.export(request))
    except (FailedRun, MemoryError):
        raise
    except Exception as error:
        raise cannot_export(job.format, error) from error


def cannot_export(format: str, error: BaseException, *, stderr_tail: str = "") -> FailedRun:
    """Return the failure for a row: `Unsupported` if the converter says that it cannot convert
    something in the model."""
    refused = isinstance(error, NotImplementedError) or _REFUSES.search(str(error))
    kind = Unsupported if refused else Crashed
    return kind(
        f"format {format} cannot export this model: {headline(error)}", stderr_tail=stderr_tail
    )


if __name__ == "__main__":
    main()
