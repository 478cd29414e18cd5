"""Streams that are closed, full or no longer read: one line at most, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKPOINT, PATIENCE_S

FULL = Path("/dev/full")
CANNOT_WRITE = "Error: cannot write to standard output: No space left on device;"
COMMAND = f"{sys.executable} -P -m toolkit"

needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(line: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of shell with `toolkit` as a command."""
    return subprocess.run(
        ["bash", "-c", f'toolkit() {{ {COMMAND} "$@"; }}; {line}'],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=cwd,
    )


@needs_dev_full
@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "bench --help", "runtimes", "runtimes --json"]
)
def test_full_output_is_one_line_and_exit_code_2(arguments: str) -> None:
    done = shell(f"toolkit {arguments} > /dev/full")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(CANNOT_WRITE)


@needs_dev_full
@pytest.mark.parametrize("arguments", ["runtimes", "export nowhere", "--no-such-option"])
def test_full_errors_change_nothing_else(arguments: str) -> None:
    usual, full = shell(f"toolkit {arguments}"), shell(f"toolkit {arguments} 2> /dev/full")
    assert (full.returncode, full.stdout) == (usual.returncode, usual.stdout)


@needs_dev_full
def test_both_full_is_still_an_error() -> None:
    assert shell("toolkit runtimes > /dev/full 2> /dev/full").returncode == 2


@pytest.mark.parametrize("arguments", ["runtimes", "runtimes --json", "doctor --help"])
def test_reader_that_has_gone_is_no_error(arguments: str) -> None:
    """The pipe has no reader before anything is written, as with `| head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        done = subprocess.run(
            [*COMMAND.split(), *arguments.split()],
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PATIENCE_S,
        )
    assert done.stderr == b""
    assert done.returncode == (1 if "--help" in arguments else 0)  # 1 comes from click


def test_first_line_of_the_output_is_enough() -> None:
    done = shell("set -o pipefail; toolkit runtimes | head -1")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_disturb_a_worker(
    own_exports: Path, small_data: Path, tmp_path: Path, closed: str
) -> None:
    """Otherwise, the worker's pipes would take their numbers."""
    line = f"verify {own_exports}/mnist-cnn.onnx --data {small_data} --runtime onnxruntime"
    done = shell(f"toolkit {line} {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("passed" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_closed_streams_do_not_disturb_a_converter(tmp_path: Path) -> None:
    line = f"export {CHECKPOINT} --format openvino --out here"
    done = shell(f"toolkit {line} <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "here" / "manifest.json").exists()


def test_text_that_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    done = shell(f"PYTHONIOENCODING=latin-1 toolkit export {tmp_path}/a→b --out x")
    assert done.returncode == 2
    assert "a\\u2192b" in done.stderr
    assert "Traceback" not in done.stderr
