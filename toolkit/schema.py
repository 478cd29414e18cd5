"""The records that travel between the steps, frozen, and how they become JSON and come back.

In: nothing. Out: dataclasses. Nothing here imports numpy, torch or a runtime.
Units are SI and stand in the names; raw samples are kept, the rest is derived.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

RESULTS_SCHEMA_VERSION = 1
MANIFEST_SCHEMA_VERSION = 2
CHECKPOINT_SCHEMA_VERSION = 1

Status = Literal[
    "passed",
    "failed",
    "crashed",
    "timed_out",
    "out_of_memory",
    "not_installed",
    "unsupported",
    "measured",
]
Precision = Literal["fp64", "fp32", "fp16", "bf16", "int8"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the model eats: images `[N,C,H,W]`, scaled to 0..1, then `(x - mean) / std`.

    `mean` and `std` have one value a channel.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to build the model: `package.module:function` and the arguments it is called with."""

    factory: str
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training set; `loss` is the mean training loss, `accuracy` the test's."""

    number: int
    loss: float
    accuracy: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How the weights came about. `options` are the training options as given."""

    options: dict[str, int | float | str | bool]
    epochs: tuple[Epoch, ...]
    accuracy: float
    dataset: DatasetRecord
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CheckpointId:
    """Which model a checkpoint is, and so whether an artifact was made from it.

    The weights alone do not say it: the same ones in another architecture, or behind another
    normalisation, answer differently.
    """

    weights_sha256: str
    spec_sha256: str

    def __str__(self) -> str:
        return f"{self.weights_sha256[:12]} (spec {self.spec_sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`checkpoint.json`: everything about trained weights but the weights themselves.

    `sha256` is the checksum of `weights.safetensors` beside it.
    """

    schema_version: int
    name: str
    model: ModelSpec
    input: InputSpec
    classes: int
    sha256: str
    training: TrainingRecord | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> CheckpointId:
        """The weights' checksum, and that of what makes them a model: factory, input, classes."""
        spec = {"model": asdict(self.model), "input": asdict(self.input), "classes": self.classes}
        canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        spec_sha256 = hashlib.sha256(canonical.encode()).hexdigest()
        return CheckpointId(weights_sha256=self.sha256, spec_sha256=spec_sha256)


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Which images: `sha256` maps each IDX file's name to the checksum of its raw bytes."""

    name: str
    split: str
    images: int
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One exported file, as `manifest.json` records it; `path` is relative to the manifest.

    `checkpoint_sha256` is the checksum of the checkpoint's weights, `spec_sha256` that of its
    model factory, input spec and classes.
    """

    format: str
    precision: Precision
    path: str
    size_bytes: int
    sha256: str
    checkpoint_sha256: str
    spec_sha256: str
    input_shape: tuple[int, int, int]
    classes: int
    opset: int | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that it was made from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`: the artifacts of one folder and the checkpoint they came from.

    `checkpoint` is the checkpoint folder, relative to the manifest where that is possible.
    """

    schema_version: int
    checkpoint: str
    checkpoint_sha256: str
    spec_sha256: str
    artifacts: tuple[Artifact, ...]

    @property
    def checkpoint_id(self) -> CheckpointId:
        """The checkpoint that the artifacts were made from."""
        return CheckpointId(weights_sha256=self.checkpoint_sha256, spec_sha256=self.spec_sha256)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is asked of a session. `threads` are intra-op threads."""

    threads: int
    device: Device = "cpu"


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a session says really runs, read back from the runtime, not from the request."""

    runtime: str
    version: str
    provider: str
    device: Device
    precision: Precision
    threads: int


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One image on which candidate and reference decide differently.

    `margin` is the reference's float64 distance between its best and second-best logit;
    `benign` says that it lies below the noise floor, where torch itself is undecided.
    """

    index: int
    label: int
    reference: int
    candidate: int
    margin: float
    benign: bool


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a parity report must keep to pass. Accuracy drops are fractions (0.001 = 0.1 pp)."""

    max_flips: int | None
    max_accuracy_drop: float | None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Reference logits against candidate logits: the verdict with its evidence.

    Numbers are None where nothing could be compared. Logit differences are in logit units,
    against the reference; `noise_floor` is torch's own float32 distance from it.
    `reference_precision` is fp64, or fp32 where the model has no float64 form.
    """

    runtime: str
    format: str
    precision: Precision
    status: Status
    reason: str | None
    compared: int
    expected: int
    accuracy: float | None
    reference_accuracy: float | None
    argmax_agreement: float | None
    flips: int | None
    benign_flips: int | None
    max_abs_diff: float | None
    mean_abs_diff: float | None
    nan_count: int | None
    noise_floor: float | None
    reference_precision: Precision | None
    gates: Gates
    flipped: tuple[Flip, ...]
    artifact_sha256: str | None
    session: Attestation | None
    stderr_tail: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Timings of one session. `samples_s` holds each timed call's wall time, in order.

    `round_calls` calls made one round; rounds of all candidates were interleaved.
    `images_per_s_low` and `_high` bound a 95 % interval. `peak_memory_bytes` is the worker's
    own high-water mark, the runtime and the inputs included.
    """

    runtime: str
    format: str
    precision: Precision
    batch_size: int
    threads: int
    status: Status
    reason: str | None
    images_per_s: float | None
    images_per_s_low: float | None
    images_per_s_high: float | None
    latency_median_s: float | None
    latency_p90_s: float | None
    import_s: float | None
    load_s: float | None
    first_inference_s: float | None
    warmup_calls: int
    round_calls: int
    peak_memory_bytes: int | None
    artifact_size_bytes: int
    samples_s: tuple[float, ...]
    artifact_sha256: str
    session: Attestation | None
    stderr_tail: str


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, as its driver describes it; `utilization` is a fraction of the last moments."""

    name: str
    driver: str
    clock_hz: float | None
    max_clock_hz: float | None
    temperature_c: float | None
    utilization: float | None
    persistence_mode: bool | None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the versions that the numbers come from; None where it cannot be read.

    `cores` are those that this process may use, `physical_cores` the same with SMT siblings
    counted once, `logical_cores` all of the machine, `cpu_quota` a container's limit in cores.
    """

    time: str
    platform: str
    machine: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    physical_cores: int | None = None
    logical_cores: int | None = None
    cpu_quota: float | None = None
    governor: str | None = None
    turbo: bool | None = None
    frequency_hz: float | None = None
    max_frequency_hz: float | None = None
    temperature_c: float | None = None
    critical_temperature_c: float | None = None
    on_battery: bool | None = None
    memory_bytes: int
    available_memory_bytes: int | None = None
    swap_used_bytes: int | None = None
    load_average: float | None
    gpus: tuple[Gpu, ...] = ()
    python: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Interference:
    """What others took of the usable cores during `wall_s` seconds.

    `others_cores` is the mean number of cores that other processes kept busy; `steal_share` the
    fraction of the time that the hypervisor gave to other machines.
    """

    wall_s: float
    others_cores: float
    steal_share: float | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The highest rates that were measured on this machine with `threads` threads.

    A multiplication and the addition after it count as two operations; a copied byte counts
    twice, as read and as written.
    """

    threads: int
    float32_flops_per_s: float
    int8_ops_per_s: float | None
    copy_bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class MachineWarning:
    """Why the machine is not fit to measure on: what was found, and what helps."""

    code: str
    message: str
    action: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `toolkit doctor` found. Without `limits`, `failure` says why they were not measured."""

    environment: Environment
    interference: Interference
    limits: Limits | None
    failure: str | None
    warnings: tuple[MachineWarning, ...]


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """The checkpoint as results.json names it."""

    name: str
    path: str
    sha256: str
    accuracy: float | None
    training: TrainingRecord | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """`results.json`: the only thing that reports read. See `results.schema.json`."""

    schema_version: int
    environment: Environment
    dataset: DatasetRecord
    checkpoint: CheckpointRecord
    artifacts: tuple[Artifact, ...] = ()
    parity: tuple[ParityReport, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 all passed; 1 a verdict failed; 3 something could not be run, or nothing was."""
        statuses = [row.status for row in self.parity]
        statuses += [row.status for row in self.measurements]
        if "failed" in statuses:
            return 1
        return 0 if statuses and all(status in ("passed", "measured") for status in statuses) else 3


Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """A record as JSON-ready values: tuples become lists, paths stay text."""
    return asdict(record)


def from_json(cls: type[Record], data: Mapping[str, Any], *, version: int | None = None) -> Record:
    """A record from parsed JSON. Unknown keys are ignored, so newer files stay readable.

    `version` is the `schema_version` that a file must have.

    Raises:
        ValueError: names the field and says what was expected there.
    """
    import cattrs

    found = data.get("schema_version") if isinstance(data, Mapping) else None
    if version is not None and found != version:
        raise ValueError(f"schema_version {found}, expected {version}")
    converter = cattrs.Converter()
    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, _strict)
    converter.register_structure_hook(int | float | str | bool, _scalar)
    try:
        return converter.structure(data, cls)
    except Exception as error:
        raise ValueError("; ".join(cattrs.transform_error(error, path="record"))) from error


def _scalar(value: Any, _: object) -> Any:
    if not isinstance(value, int | float | str | bool):
        raise TypeError(f"expected a number, text or boolean, got {value!r}")
    return value


def _strict(value: Any, kind: type) -> Any:
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return kind(value)
