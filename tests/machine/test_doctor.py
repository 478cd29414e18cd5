"""`toolkit doctor`: facts, load, limits and warnings, as record and as text; it always answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Cli
from samples import ALL, ALONE, QUIET, WORST

from toolkit.machine import capacity
from toolkit.machine.doctor import doctor
from toolkit.machine.environment import usable_cores
from toolkit.machine.fitness import judge
from toolkit.report.machine import machine_facts, render_diagnosis
from toolkit.report.markdown import render_markdown
from toolkit.schema import Diagnosis, Gpu, GpuLimits, GpuState, Limits, from_json

LIMITS = Limits(
    threads=4, float32_flops_per_s=2.15e11, int8_ops_per_s=8.83e11, copy_bytes_per_s=3.43e10
)
HEALTHY = Diagnosis(environment=QUIET, interference=ALONE, limits=LIMITS, failure=None, warnings=())


def test_doctor_command_runs(tmp_path: Path) -> None:
    """stdout contains only the record, and nothing is written to the user's home."""
    held = ("CI", "TF_BUILD", "JENKINS_URL", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    variables = {name: value for name, value in os.environ.items() if name not in held}
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", "doctor", "--json", "--threads", "1"],
        env={**variables, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = from_json(Diagnosis, json.loads(done.stdout))
    assert found.environment.cores == usable_cores()
    assert found.failure is None
    assert found.limits is not None
    assert found.limits.threads == 1
    assert found.interference.wall_s > 0.4
    warnings = judge(found.environment, threads=1, interference=found.interference)
    assert found.warnings == warnings
    assert "doctor: 3/3" in done.stderr
    assert list(tmp_path.rglob("*")) == []


def test_unmeasurable_limits_do_not_fail_the_doctor(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(capacity, "_CHILD", "broken_child")
    code = tmp_path / "broken_child.py"
    code.write_text(
        "from toolkit.processes.child import answer\n"
        "answer(lambda job: 1 / 0, reason=lambda job, error: 'no torch here')\n"
    )
    outcome = cli("doctor")
    assert outcome.exit_code == 0
    assert "not measured no torch here" in outcome.stdout
    code.write_text("import os; os._exit(9)")
    assert doctor().failure == "the measurement ended: exit code 9"
    code.write_text("import time; time.sleep(3600)")
    monkeypatch.setattr(capacity, "_TIMEOUT_S", 0.5)
    assert doctor().failure == "the measurement did not finish within 0.5 s and was stopped"


def test_more_threads_than_cores_gives_a_warning() -> None:
    found = doctor(threads=usable_cores() + 1)
    assert "threads" in {warning.code for warning in found.warnings}


def test_bad_threads_give_one_error_line(cli: Cli) -> None:
    outcome = cli("doctor", "--threads", 0)
    assert outcome.exit_code == 2
    assert "--threads 0: expected 1 or more" in outcome.stderr


def test_text_of_a_healthy_machine() -> None:
    text = render_diagnosis(HEALTHY)
    for line in (
        "processor    a processor, x86_64",
        "cores        8 usable of 8; 4 physical; no quota",
        "clock        unknown; governor performance; turbo off",
        "load         0.10 (mean of the last minute); other processes use 0.05 cores now, steal "
        "0.0%",
        "temperature  60 °C, critical at 100 °C",
        "confinement  Landlock 7, seccomp",
        "memory       8.0 of 16.0 GB available, 0.0 GB in swap",
        "Limits with 4 threads",
        "float32      215 GFLOP/s (matrix product)",
        "int8         883 GOP/s (matrix product)",
        "copy         34.3 GB/s (read and written)",
        "No problem found: this machine is fit for benchmarks.",
    ):
        assert line in text.splitlines(), line


def test_warnings_are_printed_with_actions_within_the_width() -> None:
    warnings = judge(WORST, threads=9, interference=replace(ALONE, others_cores=2.0))
    text = render_diagnosis(replace(HEALTHY, environment=WORST, warnings=warnings))
    assert f"Warnings: {len(warnings)}" in text
    assert "No problem found" not in text
    words = " ".join(text.split())
    for warning in warnings:
        assert f"{warning.code} {warning.message} → {warning.action}" in words
    assert max(map(len, text.splitlines())) <= 100


def test_unknown_values_are_printed_as_unknown() -> None:
    facts = replace(QUIET, load_average=None, physical_cores=None, temperature_c=None, isa=())
    found = machine_facts(facts)
    assert found["vectors"] == found["load"] == "unknown"
    assert "SMT unknown" in found["cores"]
    assert render_diagnosis(replace(HEALTHY, limits=replace(LIMITS, int8_ops_per_s=None)))


def test_text_of_a_gpu_and_of_arm() -> None:
    gpu = Gpu(
        name="NVIDIA H200",
        driver="570.86",
        clock_hz=345e6,
        max_clock_hz=1980e6,
        temperature_c=31.0,
        utilization=0.07,
        persistence_mode=True,
    )
    found = machine_facts(
        replace(QUIET, gpus=(gpu,), isa=("asimd", "asimddp", "i8mm", "avx512_vnni"))
    )
    assert found["vectors"] == "NEON, NEON dot product, I8MM, AVX-512 VNNI"
    assert found["GPU"] == (
        "NVIDIA H200, driver 570.86, 0.34 GHz of 1.98 GHz, 31 °C, 7% in use, persistence mode on, "
        "power unknown: install nvidia-ml-py (`pip install 'toolkit[cuda]'`)"
    )
    busy = GpuState(power_w=250.4, power_limit_w=700.0, slowed_by=("heat", "power limit"))
    idle = GpuState(power_w=76.0, slowed_by=())
    for state, text in (
        (busy, "power 250 W of 700 W, slowed down by heat, power limit"),
        (idle, "power 76 W, slowed down by nothing"),
        (GpuState(), "power unknown, slowed down by unknown"),
    ):
        facts = machine_facts(replace(QUIET, gpus=(replace(gpu, state=state),)))
        assert facts["GPU"].endswith(text)


def test_text_of_the_limits_of_a_gpu() -> None:
    gpu = GpuLimits(
        name="NVIDIA H200",
        float32_flops_per_s=51.2e12,
        tf32_flops_per_s=None,
        bfloat16_flops_per_s=712.3e12,
        float16_flops_per_s=701e12,
        copy_bytes_per_s=3.9e12,
        pinned_bytes_per_s=55.1e9,
        pageable_bytes_per_s=9.2e9,
    )
    text = render_diagnosis(replace(HEALTHY, limits=replace(LIMITS, gpu=gpu)))
    for line in (
        "GPU          NVIDIA H200",
        "  products   float32 51.2, TF32 none, bfloat16 712.3, float16 701.0 TFLOP/s "
        "(matrix product)",
        "  copy       3,900 GB/s (read and written)",
        "  from host  55.1 GB/s out of pinned memory, 9.2 GB/s out of pageable",
    ):
        assert line in text.splitlines(), line
    failed = replace(HEALTHY, failure="the limits of the GPU cannot be measured: out of memory")
    assert "not measured the limits of the GPU cannot be" in render_diagnosis(failed)


def test_markdown_has_the_machine_in_its_header() -> None:
    header = render_markdown(replace(ALL, environment=WORST)).partition("\n|")[0].splitlines()
    for line in (
        "- Processor: a processor, x86_64",
        "- Vectors: AVX2",
        "- Cores: 3 usable of 8; 4 physical, no SMT siblings; quota 2.5",
        "- Clock: unknown; governor powersave; turbo on",
        "- GPU: none",
    ):
        assert line in header, line
