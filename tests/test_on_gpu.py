"""The GPU script reports its results, its failures, and a missing GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY))
from benchmarks.gpu_table import failures, table

CARD = {
    **{"card": "H200", "driver_version": "580", "clocks.sm": "345 MHz", "clocks.max.sm": "1980"},
    **{"cores": 16, "python": "3.12", "torch": "2.11", "cudnn": 91900, "onnxruntime": "1.31"},
    "took_s": 4.0,
}
ROW = {
    **{"runtime": "eager", "format": "checkpoint", "precision": "fp32", "status": "passed"},
    **{"reason": None, "compared": 10000, "flips": 0, "max_abs_diff": 4.2e-6},
    **{"max_diff_in_floors": 1.3, "arithmetic": "float32", "provider": "H200"},
}
SPEED = {"value": 340000.0, "low": 333200.0, "high": 345000.0}
FOUND: dict[str, Any] = {
    "card": CARD,
    "bench": {
        "rows": {
            "eager fp32": {
                **{"status": "passed", "reason": None, "images_per_s": SPEED, "limit_share": 0.2}
            }
        },
        "took_s": 100.0,
    },
    "by-hand": {
        "rows": {
            "eager": {
                **{"session_s": 3e-4, "hand_s": 2.95e-4, "ratio": 1.017, "kernels_s": 1.8e-4},
                **{"to_device_s": 1.6e-5, "from_device_s": 2e-6},
            }
        },
        "took_s": 40.0,
    },
    "parity": {"rows": [ROW], "took_s": 60.0},
    "contract": {
        "counts": {"passed": 210},
        "by_runtime": {"eager": {"failed": []}},
        "took_s": 90.0,
    },
}


def test_table_has_a_row_for_each_runtime_in_speed_and_in_parity() -> None:
    text = table(FOUND, wall_s=300.0)
    assert "| eager | 340,000 ± 2.0% | 294 | 295 | 1.017 | 180 | 16, 2 | 20% |" in text
    assert "| eager checkpoint fp32 | passed | 10000 | 0 | 4.2e-06 | 1.3 | float32, H200 |" in text
    assert "- contract on CUDA: 210 passed" in text
    assert text.startswith("H200, driver 580")
    assert text.endswith("contract 90).\n")
    assert failures(FOUND) == []


def test_each_failure_has_a_line() -> None:
    failed = {
        **FOUND,
        "parity": {"rows": [{**ROW, "status": "failed", "reason": "3 flips"}], "took_s": 1.0},
        "bench": {"rows": {"pt2 fp32": {"status": "crashed", "reason": "SIGSEGV"}}, "took_s": 1.0},
        "by-hand": {"rows": {"eager": {"difference": 3.0}}, "took_s": 1.0},
        "kills": {"error": "took longer than 90 s", "took_s": 90.0},
        "export": {"fp32": "written", "narrow": "exit code 1", "took_s": 9.0},
    }
    assert failures(failed) == [
        "kills: took longer than 90 s",
        "export of narrow: exit code 1",
        "by-hand eager: the logits of direct calls are 3.0e+00 away from the session's",
        "bench pt2 fp32: SIGSEGV",
        "parity eager checkpoint fp32: failed: 3 flips",
    ]
    text = table(failed, wall_s=1.0)
    assert all(f"- FAILED {line}" in text for line in failures(failed))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_gpu_is_reported(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "on_gpu"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout.startswith("No CUDA device: torch ")
    report = (tmp_path / "out" / "on_gpu.md").read_text()
    assert "The parts that need one were not run." in report


def test_unknown_part_is_refused(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "on_gpu"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path), "--only", "speed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "speed: expected one of by-hand, train," in done.stderr
