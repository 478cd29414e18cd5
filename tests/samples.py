"""Handmade records that several tests use: results, machines, timings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from toolkit.errors import FailedRun
from toolkit.measurement.passes import Tally
from toolkit.schema import (
    RESULTS_SCHEMA_VERSION,
    Artifact,
    Bound,
    Cause,
    CheckpointRecord,
    DatasetRecord,
    Environment,
    Gates,
    InputSpec,
    Interference,
    Interval,
    Measurement,
    Outliers,
    ParityReport,
    Pass,
    Percentile,
    Rank,
    Results,
    Round,
    Score,
    Settings,
    WarmUp,
    WorstImage,
)
from toolkit.sessions.candidates import Candidate
from toolkit.sessions.runtimes import Runtime, Source


def unset(*names: str) -> dict[str, Any]:
    """Fields of a record that have no value."""
    return dict.fromkeys(names)


PASSED = ParityReport(
    runtime="onnxruntime",
    format="onnx",
    precision="fp32",
    status="passed",
    reason=None,
    compared=10_000,
    expected=10_000,
    accuracy=0.9914,
    reference_accuracy=0.9914,
    argmax_agreement=1.0,
    flips=2,
    benign_flips=2,
    max_abs_diff=1.234567890123e-05,
    mean_abs_diff=1 / 3e6,
    nan_count=0,
    noise_floor=2e-5,
    reference_precision="fp64",
    gates=Gates(max_flips=0, max_accuracy_drop=None),
    flipped=(),
    artifact_sha256="a" * 64,
    session=None,
    stderr_tail="",
    file="mnist-cnn.onnx",
    max_diff_in_floors=2.75,
    typical_noise_floor=1.5e-6,
    flip_rate=Bound(value=0.0, low=0.0, high=3.688e-4),
    rms_error=1e-6,
)


CRASHED = replace(
    PASSED,
    runtime="ncnn",
    status="crashed",
    reason="SIGSEGV",
    compared=0,
    **unset("accuracy", "reference_accuracy", "argmax_agreement", "noise_floor"),
    **unset("flips", "benign_flips", "max_abs_diff", "mean_abs_diff", "nan_count"),
    **unset("flip_rate", "max_diff_in_floors", "typical_noise_floor", "rms_error"),
    stderr_tail="boom",
)


PASS = Pass(
    import_s=0.1,
    load_s=0.25,
    first_inference_s=0.012,
    warm_up=WarmUp(calls=9, wall_s=0.1, steady=True),
    calls_per_round=2,
    rounds=(Round(samples_s=((0.008, 0.0082),)),) * 10,
    peak_memory_bytes=123_456_789,
)


MEASURED = Measurement(
    name="onnxruntime fp32",
    runtime="onnxruntime",
    format="onnx",
    precision="fp32",
    batch_size=100,
    settings=Settings(threads=2),
    status="measured",
    reason=None,
    images_per_s=Interval(value=12345.678901, low=12000.25, high=13000.75, passes=2),
    to_baseline=Interval(value=2.5, low=2.375, high=2.625, passes=2),
    repeat_ratio=Interval(value=1.01, low=0.99, high=1.03, passes=2),
    limit_share=0.4375,
    latency_s=(
        Percentile(share=0.5, value=0.0081, samples=40, samples_needed=5),
        Percentile(share=0.9, value=0.0093, samples=40, samples_needed=29),
        Percentile(share=0.99, value=None, samples=40, samples_needed=299),
    ),
    page_faults=12.5,
    outliers=Outliers(samples=40, low_severe=0, low_mild=0, high_mild=2, high_severe=1),
    import_s=0.1,
    load_s=0.25,
    first_inference_s=0.012,
    peak_memory_bytes=123_456_789,
    artifact_size_bytes=4_800_000,
    artifact_sha256="a" * 64,
    session=None,
    passes=(PASS, PASS),
    stderr_tail="",
)


UNMEASURED = replace(
    MEASURED,
    name="ncnn fp32",
    runtime="ncnn",
    status="timed_out",
    reason="after 60 s",
    outliers=None,
    **unset("images_per_s", "to_baseline", "repeat_ratio", "limit_share", "page_faults"),
    **unset("import_s", "load_s", "first_inference_s", "peak_memory_bytes"),
    latency_s=(),
    passes=(),
)


NO_OP = replace(
    MEASURED,
    name="no-op fp32",
    runtime="no-op",
    format="checkpoint",
    **unset("to_baseline", "repeat_ratio", "limit_share"),
    latency_s=(Percentile(share=0.5, value=0.0000081, samples=40, samples_needed=5),),
)


def results_of(*rows: ParityReport | Measurement) -> Results:
    return Results(
        schema_version=RESULTS_SCHEMA_VERSION,
        environment=Environment(
            time="2026-01-02T03:04:05+00:00",
            platform="Linux",
            machine="x86_64",
            cpu="a processor",
            isa=("avx2",),
            cores=2,
            memory_bytes=8_000_000_000,
            load_average=0.5,
            python="3.11.7",
            versions={"torch": "2.11.0", "numpy": "2.0.0"},
        ),
        dataset=DatasetRecord(name="mnist", split="test", images=10_000, sha256={}),
        checkpoint=CheckpointRecord(
            name="mnist-cnn", path="models/mnist-cnn", sha256="c" * 64, accuracy=None, training=None
        ),
        parity=tuple(row for row in rows if isinstance(row, ParityReport)),
        measurements=tuple(row for row in rows if isinstance(row, Measurement)),
    )


FLIPPED = WorstImage(
    index=7,
    label=1,
    reference=1,
    candidate=3,
    margin=0.5,
    difference=2.25,
    floors=1e6,
    reference_top=(Score(index=1, logit=4.5), Score(index=3, logit=4.0)),
    candidate_top=(Score(index=3, logit=6.25), Score(index=1, logit=None)),
)
FAILED = replace(
    PASSED,
    runtime="openvino",
    status="failed",
    reason="40 flips",
    flips=40,
    artifact_sha256="b" * 64,
    cause=Cause(kind="softmax", text="The logits are a softmax.", action="Export without it."),
    worst=(FLIPPED,),
)
UNDECIDED = replace(PASSED, status="undecided", reason="too few images", needed_images=3700)
# Speeds that follow from the samples of the passes.
SPEED = Interval(value=100 * 2 / 0.0162, low=12_300.0, high=12_400.0, passes=2)
FAST = replace(MEASURED, images_per_s=SPEED)
SLOW = replace(
    FAST,
    name="openvino fp32",
    runtime="openvino",
    artifact_sha256="b" * 64,
    artifact_size_bytes=9_000_000,
)


def ranked(*rows: Measurement, too_close: bool = False) -> Results:
    ranking = tuple(
        Rank(
            name=row.name,
            speed=SPEED,
            to_faster=SPEED if number else None,
            too_close=bool(number) and too_close,
            longer=None,
        )
        for number, row in enumerate(rows)
    )
    return replace(results_of(PASSED, FAILED, *rows), ranking=ranking, baseline="eager")


ALL = results_of(PASSED, CRASHED, MEASURED, UNMEASURED, NO_OP)


QUIET = Environment(
    time="2026-01-02T03:04:05+00:00",
    platform="Linux",
    machine="x86_64",
    cpu="a processor",
    isa=("avx2",),
    cores=8,
    physical_cores=4,
    logical_cores=8,
    governor="performance",
    turbo=False,
    temperature_c=60.0,
    critical_temperature_c=100.0,
    on_battery=False,
    memory_bytes=16_000_000_000,
    available_memory_bytes=8_000_000_000,
    swap_used_bytes=0,
    load_average=0.1,
    confinement="Landlock 7, seccomp",
    python="3.11.7",
    versions={},
)


ALONE = Interference(wall_s=1.0, others_cores=0.05, steal_share=0.0)


UNKNOWN = replace(
    QUIET,
    **unset("physical_cores", "governor", "turbo", "temperature_c", "on_battery"),
    **unset("critical_temperature_c", "available_memory_bytes", "swap_used_bytes"),
)


WORST = replace(
    QUIET,
    cores=3,
    cpu_quota=2.5,
    governor="powersave",
    turbo=True,
    temperature_c=99.0,
    on_battery=True,
    available_memory_bytes=1_000_000_000,
    swap_used_bytes=2_000_000_000,
)


ARTIFACT = Artifact(
    format="onnx",
    precision="fp32",
    path="m.onnx",
    size_bytes=5,
    sha256="a" * 64,
    checkpoint_sha256="c" * 64,
    spec_sha256="d" * 64,
    input_shape=(1, 28, 28),
    classes=10,
)


def tally(
    name: str,
    *call_s: float,
    batch_size: int = 100,
    threads: int = 1,
    streams: int = 1,
    format: str = "onnx",
    repeated_s: float | None = None,
    failure: FailedRun | None = None,
) -> Tally:
    """A pass of four equal rounds for each call time."""
    runtime = Runtime(
        name=name, module="x", package="x", distributions=(), formats=(format,), install=""
    )
    candidate = Candidate(
        runtime=runtime,
        source=Source(path=Path("m.onnx"), artifact=replace(ARTIFACT, format=format), model=None),
        settings=Settings(threads=threads, streams=streams),
        input=InputSpec(shape=(1, 28, 28), mean=(0.0,), std=(1.0,)),
    )
    passes = [
        Pass(
            import_s=number + 0.1,
            load_s=number + 0.2,
            first_inference_s=number + 0.3,
            rounds=(Round(samples_s=((each,) * 10,) * streams),) * 4,
            repeated=None if repeated_s is None else Round(samples_s=((repeated_s,),)),
            peak_memory_bytes=(number % 2 + 1) * 1_000_000,
        )
        for number, each in enumerate(call_s)
    ]
    return Tally(candidate=candidate, batch_size=batch_size, passes=passes, failure=failure)
