"""The writer of one artifact: calls the exporter of a format, and publishes the file."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from toolkit.artifacts.cards.contract import contract_of, metadata_of
from toolkit.artifacts.conversion import Conversion, cannot_export, export_apart
from toolkit.artifacts.embedded import exported_model
from toolkit.artifacts.formats import Format, Request, Written, load_exporter
from toolkit.artifacts.inputs import inputs_of
from toolkit.artifacts.manifest import check_artifact
from toolkit.artifacts.programs import programs_of
from toolkit.errors import ArtifactError, OutputError, ToolkitError
from toolkit.files import publish, scratch_folder, sha256_of, size_of
from toolkit.schema import (
    TRAITS,
    Artifact,
    Calibration,
    Checkpoint,
    Inputs,
    Isa,
    Manifest,
    Precision,
)
from toolkit.trust_store.store import trust_store

_LOW_DISK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ArtifactWriter:
    """Writes artifacts of one checkpoint into one folder.

    `model` is the checkpoint's model, `trusted` the factory that may be called in another process.
    int8 ranges are measured on `images`, which `drawn` records. The expected error is measured on
    `measured`. Both are raw, `[n,C,H,W]`. `embed` puts the preprocessing into the graph.
    """

    out: Path
    checkpoint: Path
    record: Checkpoint
    model: nn.Module
    trusted: str | None
    images: NDArray[Any] | None
    drawn: Calibration | None
    measured: NDArray[Any] | None
    isas: tuple[Isa, ...] | None
    timeout_s: float
    embed: bool = False

    def is_current(self, manifest: Manifest, row: Format, precision: Precision) -> bool:
        """Return whether the manifest records the same export, and the file exists, is undamaged,
        and, if it is a program, is trusted."""
        wanted = (row.versions(), self._drawn(precision), manifest.checkpoint_id)
        for old in manifest.artifacts:
            if old.key != (row.name, precision, self.embed):
                continue
            if (old.versions, old.calibration, old.checkpoint_id) != wanted:
                return False
            if old.asked_isas != self._asked_isas(precision):
                return False
            try:
                check_artifact(self.out / old.path, old)
            except ArtifactError:
                return False
            programs = programs_of([(self.out / old.path, old)])
            return all(trust_store().holds(each) for each in programs)
        return False

    @contextmanager
    def begin(self, row: Format, precision: Precision) -> Iterator[Writing]:
        """Begin one artifact; `finish` publishes it. A format with its own process is at work from
        now on, the others only in `finish`.

        If the process is killed before the record is in the manifest, the manifest does not record
        the file, or records another checksum; the next export then writes it again.

        Raises:
            NotInstalled: A required package is missing.
            OutputError: The location is not writable, or the disk is full.
        """
        if self.embed:
            row.refuse_uint8(precision)
        path = self.out / self._name(row, precision)
        exporter = load_exporter(row)
        with scratch_folder(self.out) as scratch, ExitStack() as stack:
            temporary = scratch / path.name
            conversion = None
            if not row.usual:
                with _explained(row, path):
                    conversion = stack.enter_context(self._apart(row, precision, temporary))

            def finish() -> Artifact:
                with _explained(row, path):
                    if conversion is not None:
                        written = conversion.written()
                    else:
                        written = exporter.export(self._request(precision, temporary))
                return self._publish(row, precision, written, temporary, path)

            yield Writing(conversion=conversion, finish=finish)

    def _publish(
        self, row: Format, precision: Precision, written: Written, temporary: Path, path: Path
    ) -> Artifact:
        """Rename `temporary` to `path`, and return its record."""
        sha256, expected = sha256_of(temporary), written.expected_error
        artifact = Artifact(
            format=row.name,
            precision=precision,
            path=path.name,
            size_bytes=size_of(temporary),
            sha256=sha256,
            checkpoint_sha256=self.record.id.weights_sha256,
            spec_sha256=self.record.id.spec_sha256,
            input_shape=self.record.input.shape,
            classes=self.record.classes,
            opset=written.opset,
            batch_sizes=written.batch_sizes,
            calibration=self._drawn(precision),
            isas=written.isas,
            asked_isas=self._asked_isas(precision),
            expected_error=None if expected is None else replace(expected, sha256=sha256),
            embeds_preprocessing=self.embed,
            warnings=written.warnings,
            versions=row.versions(),
        )
        publish(temporary, path)
        trust_store().remember(programs_of([(path, artifact)]), command="export")
        return artifact

    @property
    def weights_bytes(self) -> int:
        """Return the size of the model's weights in memory."""
        return sum(each.nbytes for each in self.model.parameters())

    @property
    def _metadata(self) -> dict[str, str]:
        return metadata_of(contract_of(self.record, embeds_preprocessing=self.embed))

    def _name(self, row: Format, precision: Precision) -> str:
        """Return the name of the file, such as `mnist-cnn.int8.uint8-input.onnx`. All artifacts of
        a checkpoint can be in one folder."""
        parts = [
            self.checkpoint.resolve().name,
            "" if precision == "fp32" else f".{precision}",
            ".uint8-input" if self.embed else "",
            row.suffix,
        ]
        return "".join(parts)

    def _asked_isas(self, precision: Precision) -> tuple[Isa, ...] | None:
        return self.isas if TRAITS[precision].int8_products else None

    def _drawn(self, precision: Precision) -> Calibration | None:
        return self.drawn if TRAITS[precision].calibrated else None

    def _calibration(self, precision: Precision) -> Inputs:
        images = self.images if TRAITS[precision].calibrated else None
        if images is None:
            images = np.empty((0, *self.record.input.shape), np.uint8)
        return self._inputs(images)

    def _measured(self) -> Inputs | None:
        return None if self.measured is None else self._inputs(self.measured)

    def _inputs(self, images: NDArray[Any]) -> Inputs:
        return inputs_of(images, self.record.input, embedded=self.embed)

    def _apart(
        self, row: Format, precision: Precision, temporary: Path
    ) -> AbstractContextManager[Conversion]:
        """Start the converter in its own process."""
        return export_apart(
            row,
            precision=precision,
            checkpoint=self.checkpoint,
            checkpoint_id=self.record.id,
            model=self.trusted,
            input=self.record.input,
            embed=self.embed,
            path=temporary,
            calibration=self._calibration(precision),
            isas=self.isas,
            measured=self._measured(),
            metadata=self._metadata,
            timeout_s=self.timeout_s,
        )

    def _request(self, precision: Precision, temporary: Path) -> Request:
        """Return the request to an exporter in this process."""
        module, example = exported_model(self.model, self.record.input, embed=self.embed)
        return Request(
            model=module,
            example=example,
            path=temporary,
            precision=precision,
            calibration=self._calibration(precision),
            isas=self.isas,
            measured=self._measured(),
            metadata=self._metadata,
        )


@dataclass(frozen=True, kw_only=True)
class Writing:
    """An artifact that is being written: `finish` waits for its converter and publishes it.

    `finish` raises FailedRun if it cannot be written, and OutputError if the location is not
    writable or the disk is full.
    """

    conversion: Conversion | None
    finish: Callable[[], Artifact]

    @property
    def waits(self) -> bool:
        """Return whether `finish` would wait for another process."""
        return self.conversion is not None and not self.conversion.finished


@contextmanager
def _explained(row: Format, path: Path) -> Iterator[None]:
    """Turn what an exporter raises into the outcome of a row, or into an error about `path`."""
    try:
        yield
    except OSError as error:
        raise _not_writable(path, error) from error
    except Exception as error:
        if shutil.disk_usage(path.parent).free < _LOW_DISK_BYTES:
            raise _not_writable(path, error) from error
        if isinstance(error, ToolkitError):
            raise
        raise cannot_export(row.name, error, stderr_tail=traceback.format_exc()) from error


def _not_writable(path: Path, error: Exception) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return OutputError(
        f"cannot write {path}: {reason}; free disk space, or choose another folder with --out"
    )
