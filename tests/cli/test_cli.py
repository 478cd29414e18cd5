"""The contract of the command line: JSON on stdout, exit codes, one clear line for bad input."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import jsonschema
import pytest
import torch
from conftest import CHECKPOINT, USUAL, Cli, installed_pairs

import toolkit
from toolkit.artifacts.formats import FORMATS
from toolkit.cli import commands
from toolkit.machine import capacity
from toolkit.machine.environment import usable_cores
from toolkit.measurement.plan import Plan
from toolkit.results import SCHEMA
from toolkit.schema import Settings, to_json
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, RUNTIMES, Runtime

FAULTY = Runtime(
    name="faulty",
    module="faulty",
    package="numpy",
    distributions=("numpy",),
    formats=("onnx",),
    install="pip install 'toolkit[faulty]'",
)


def check_schema(record: object) -> None:
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))


def test_verify_json_is_the_only_output_and_fits_the_schema(
    cli: Cli, own_exports: Path, small_data: Path
) -> None:
    result = cli("verify", own_exports, "--data", small_data, "--json")
    record = json.loads(result.stdout)
    check_schema(record)
    assert result.exit_code == 0
    pairs = [(row["runtime"], row["format"]) for row in record["parity"]]
    assert pairs == installed_pairs(CHECKPOINT_FORMAT, *USUAL)
    assert {row["status"] for row in record["parity"]} == {"passed"}
    assert {(row["compared"], row["expected"], row["flips"]) for row in record["parity"]} == {
        (250, 250, 0)
    }
    assert 0 < record["parity"][0]["noise_floor"] < 1e-4
    assert "reference fp64: 250/250 images" in result.stderr


def test_bench_record_fits_the_schema_and_holds_the_raw_samples(
    cli: Cli,
    own_exports: Path,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits_of(tmp_path, monkeypatch, "1e18")
    result = cli(
        *("bench", own_exports / "mnist-cnn.onnx", "--data", small_data, "--runtime"),
        *("onnxruntime", "--min-rounds", 6, "--min-time", 0.1, "--threads", 1, "--json"),
    )
    record = json.loads(result.stdout)
    check_schema(record)
    assert result.exit_code == 0
    row, null = record["measurements"]
    assert (row["runtime"], null["runtime"]) == ("onnxruntime", "no-op")
    assert (row["batch_size"], row["status"]) == (100, "measured")
    assert row["settings"] == to_json(Settings(threads=1))
    assert len(row["passes"]) == 8
    for each in row["passes"]:
        assert [[len(calls) for calls in one["samples_s"]] for one in each["rounds"]] == [
            [each["calls_per_round"]]
        ]
    speed = row["images_per_s"]
    assert 0 < speed["low"] <= speed["value"] <= speed["high"]
    assert (row["to_baseline"], record["baseline"]) == (None, None)
    assert row["limit_share"] > 0
    assert record["flops_per_image"] > 1_000_000
    assert [each["name"] for each in record["ranking"]] == ["onnxruntime fp32"]
    assert not record["interrupted"]


def test_limit_exceeded_by_a_candidate_is_measured_again(
    exports: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first measurement is disturbed, as on a machine that stalls, so every candidate exceeds
    it."""
    limits_of(tmp_path, monkeypatch, "1.0 if job['checkpoint'] else 1e18")
    results = toolkit.bench(
        [exports / "mnist-cnn.onnx"],
        data=small_data,
        runtimes=["onnxruntime"],
        session=toolkit.SessionOptions(threads=1),
        plan=Plan(min_time_s=0.1, min_rounds=6, passes=1),
    )
    assert results.limits is not None
    assert results.limits.float32_flops_per_s == 1e18
    share = results.measurements[0].limit_share
    assert share is not None
    assert 0 < share < 1


def limits_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, float32_flops_per_s: str) -> None:
    """Use planted limits, not measured ones. Only the first measurement's job names a
    checkpoint."""
    (tmp_path / "planted_child.py").write_text(
        f"""
from toolkit.processes.child import answer
def limits(job):
    return {{"threads": 1, "float32_flops_per_s": {float32_flops_per_s},
            "int8_ops_per_s": 1e18, "copy_bytes_per_s": 1e18}}
answer(lambda job: {{"limits": limits(job), "flops": 24 * 10**6, "failures": []}}, reason=None)
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(capacity, "_CHILD", "planted_child")


def test_a_sweep_gives_a_row_for_each_of_its_settings(
    cli: Cli, own_exports: Path, small_data: Path
) -> None:
    result = cli(
        *("bench", own_exports / "mnist-cnn.onnx", "--data", small_data, "--runtime"),
        *("onnxruntime", "--sweep", "batch-size=1,10", "threads=1,2", "--min-time", 0.1),
        *("--max-time", 4, "--json"),
    )
    record = json.loads(result.stdout)
    check_schema(record)
    found = [
        (row["runtime"], row["batch_size"], row["settings"]["threads"])
        for row in record["measurements"]
    ]
    wanted = [
        (runtime, size, threads)
        for threads in (1, 2)
        for runtime in ("onnxruntime", "no-op")
        for size in (1, 10)
    ]
    assert found == wanted
    assert len({row["name"] for row in record["measurements"]}) == 8
    assert record["limits"] is None


def test_more_threads_than_cores_gives_a_warning_and_is_measured(
    exports: Path, small_data: Path
) -> None:
    threads = usable_cores() + 1
    results = toolkit.bench(
        [exports / "mnist-cnn.onnx"],
        data=small_data,
        runtimes=["onnxruntime"],
        session=toolkit.SessionOptions(threads=threads),
        plan=Plan(min_time_s=0.1, min_rounds=6, passes=1),
    )
    assert "threads" in {warning.code for warning in results.warnings}
    row = results.measurements[0]
    assert row.session is not None
    assert row.session.threads == threads
    assert row.passes[0].rounds


def test_results_of_another_run_are_not_overwritten(
    cli: Cli, own_exports: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("mine")
    result = cli("bench", own_exports, "--out", tmp_path)
    assert_one_line(result, 2, "already holds results.json", "--out")
    assert (tmp_path / "results.json").read_text() == "mine"


def test_failed_gate_is_exit_code_1(cli: Cli, own_exports: Path, small_data: Path) -> None:
    result = cli("verify", own_exports, "--data", small_data, "--runtime", "no-op", "--json")
    record = json.loads(result.stdout)
    check_schema(record)
    assert result.exit_code == 1
    assert record["parity"][0]["status"] == "failed"
    assert "flips, at most 0 allowed" in record["parity"][0]["reason"]


def test_lenient_gate_passes_the_failed_candidate(
    cli: Cli, own_exports: Path, small_data: Path
) -> None:
    result = cli(
        *("verify", own_exports, "--data", small_data, "--runtime", "no-op"),
        *("--max-flips", 250, "--max-accuracy-drop", 1, "--max-logit-diff", 1000),
    )
    assert result.exit_code == 0


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Keep only these runtimes in the table: no others are verified by default."""
    for name in RUNTIMES.keys() - set(names):
        monkeypatch.delitem(RUNTIMES, name)


def test_crash_is_exit_code_3_and_the_other_rows_are_complete(
    cli: Cli, own_exports: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "eager", "onnxruntime", "no-op")
    monkeypatch.setitem(RUNTIMES, "faulty", replace(FAULTY, environment={"FAULT": "segfault"}))
    result = cli("verify", own_exports / "mnist-cnn.onnx", "--data", small_data, "--json")
    record = json.loads(result.stdout)
    check_schema(record)
    assert result.exit_code == 3
    rows = {row["runtime"]: row for row in record["parity"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        **{"eager": "passed", "onnxruntime": "passed", "faulty": "crashed"},
    }
    assert rows["faulty"]["reason"] == "SIGSEGV"
    assert "about to fault" in rows["faulty"]["stderr_tail"]
    assert rows["onnxruntime"]["compared"] == 250


def test_requested_but_missing_runtime_is_exit_code_3(
    cli: Cli, own_exports: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Runtime(
        name="missing",
        module="faulty",
        package="no_such_package",
        distributions=("no-such-package",),
        formats=("onnx",),
        install="pip install 'toolkit[missing]'",
    )
    only(monkeypatch, "eager", "onnxruntime", "no-op")
    monkeypatch.setitem(RUNTIMES, "missing", missing)
    arguments = ("verify", own_exports / "mnist-cnn.onnx", "--data", small_data, "--json")
    asked = cli(*arguments, "--runtime", "missing")
    assert asked.exit_code == 3
    row = json.loads(asked.stdout)["parity"][0]
    assert (row["status"], row["reason"]) == ("not_installed", "pip install 'toolkit[missing]'")
    not_asked = cli(*arguments)
    assert not_asked.exit_code == 0
    assert "missing" not in {row["runtime"] for row in json.loads(not_asked.stdout)["parity"]}


def test_artifact_whose_only_runtime_is_missing_is_exit_code_3(
    cli: Cli, own_exports: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not pass without a comparison."""
    row = RUNTIMES["onnxruntime"]
    for name in [name for name, each in RUNTIMES.items() if "onnx" in each.formats]:
        monkeypatch.delitem(RUNTIMES, name)
    gone = replace(row, package="no_such_package", distributions=("no-such-package",))
    monkeypatch.setitem(RUNTIMES, "onnxruntime", gone)
    result = cli("verify", own_exports / "mnist-cnn.onnx", "--data", small_data, "--json")
    assert result.exit_code == 3
    assert [(row["runtime"], row["status"]) for row in json.loads(result.stdout)["parity"]] == [
        ("eager", "passed"),
        ("onnxruntime", "not_installed"),
    ]


def test_two_copies_of_an_artifact_are_reported_as_one_row(
    cli: Cli, own_exports: Path, small_data: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(own_exports, tmp_path / "copy"))
    result = cli(
        *("verify", own_exports / "mnist-cnn.onnx", copy / "mnist-cnn.onnx", "--data", small_data),
        *("--runtime", "onnxruntime"),
    )
    assert result.exit_code == 0
    assert sum(line.startswith("onnxruntime") for line in result.stdout.splitlines()) == 1
    assert "Artifacts given twice with the same bytes share one row: 1." in result.stdout


def test_training_reports_its_true_speed_without_a_terminal(
    cli: Cli, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock advances by a tenth of a second per reading."""
    readings = itertools.count(0, 100_000_000)
    monkeypatch.setattr("toolkit.timing.time.perf_counter_ns", lambda: next(readings))
    result = cli(
        *("train", "--data", small_data, "--out", tmp_path / "ck", "--epochs", 1, "--json")
    )
    line = r"^epoch 1: 6/6 loss \S+, ([\d,]+) images/s$"
    (shown,) = re.findall(line, result.stderr, re.MULTILINE)
    recorded = json.loads(result.stdout)["training"]["epochs"][0]["images_per_s"]
    # The line is written just before the record: slightly faster, rounded to a whole number.
    assert recorded - 1 <= float(shown.replace(",", "")) < 3 * recorded


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_gives_a_failed_row(cli: Cli, own_exports: Path, small_data: Path) -> None:
    result = cli("verify", own_exports, "--data", small_data, "--device", "cuda", "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 3
    assert {row["status"] for row in record["parity"]} == {"unsupported"}
    assert "use --device cpu" in record["parity"][0]["reason"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["verify", "bench"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [(Path.unlink, "no "), (empty, "empty"), (truncate, "truncated"), (flip, "damaged")],
)
def test_damaged_artifact_gives_one_error_line(
    cli: Cli, own_exports: Path, command: str, damage: Callable[[Path], None], says: str
) -> None:
    damage(own_exports / "mnist-cnn.onnx")
    result = cli(command, own_exports)
    assert_one_line(result, 2, "mnist-cnn.onnx", says, "toolkit export --format onnx --force")


def test_artifact_of_another_checkpoint_gives_one_error_line(
    cli: Cli, own_exports: Path, own_checkpoint: Path
) -> None:
    record = json.loads((own_exports / "manifest.json").read_text())
    for artifact in record["artifacts"]:
        artifact["checkpoint_sha256"] = "0" * 64
    (own_exports / "manifest.json").write_text(json.dumps(record))
    result = cli("verify", own_exports, "--checkpoint", own_checkpoint)
    assert_one_line(result, 2, "was exported from checkpoint 000000000000", "toolkit export")


def test_unrecorded_file_gives_one_error_line(cli: Cli, own_exports: Path) -> None:
    shutil.copy(own_exports / "mnist-cnn.onnx", own_exports / "other.onnx")
    assert_one_line(cli("verify", own_exports / "other.onnx"), 2, "other.onnx is not recorded")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "nowhere"), ("no nowhere", "toolkit export --out")),
        (("export", "nowhere"), ("nowhere", "toolkit train")),
        (("export", CHECKPOINT / "README.md"), ("is a file", "toolkit import")),
        (("export", CHECKPOINT, "--format", "gguf"), ("'gguf'", "torchscript, onnx, ort, pt2")),
        (("train", "--seed", 10**23), (f"--seed {10**23}", "from 0 to 9223372036854775807")),
        (("train", "--seed", -1), ("--seed -1", "from 0 to 9223372036854775807")),
        (("train", "--epochs", 10**30), ("--epochs", "at most 100,000")),
        (("train", "--batch-size", 10**30), ("--batch-size", "at most 1,000,000")),
        (("train", "--threads", 3_000_000_000), ("--threads 3000000000", "at most 1024")),
        (("train", "--epochs", 0), ("--epochs 0", "above 0")),
        (("train", "--batch-size", -1), ("--batch-size -1", "above 0")),
        (("train", "--lr", "nan"), ("--lr nan", "above 0")),
        (("train", "--threads", 0), ("--threads 0", "1 or more")),
        (("run", "--threads", 0), ("--threads 0", "1 or more")),
        (("run", "--runtime", "triton"), ("'triton'", "onnxruntime")),
        (("run", "--format", "gguf"), ("'gguf'", "onnx")),
        (("train", "--data", "nowhere"), ("no folder nowhere", "--data")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_bad_argument_gives_one_error_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: object, says: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(arguments, tuple)
    assert isinstance(says, tuple)
    assert_one_line(cli(*arguments), 2, *says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--threads", 0), ("--threads 0", "1 or more")),
        (("--threads", 3_000_000_000), ("--threads 3000000000", "at most 1024")),
        (("--batch-size", -1), ("--batch-size -1", "above 0")),
        (("--batch-size", 10**30), ("--batch-size", "at most 1,000,000")),
        (("--timeout", "1e300"), ("--timeout 1e+300", "at most 1,000,000,000")),
        (("--timeout", 0), ("--timeout 0", "above 0")),
        (("--runtime", "triton"), ("'triton'", "eager", "onnxruntime")),
        (("--max-flips", -1), ("--max-flips -1", "0 or more")),
        (("--max-flips", 10**30), ("--max-flips", "at most 1,000,000,000")),
        (("--max-accuracy-drop", "nan"), ("--max-accuracy-drop nan", "fraction")),
        (("--data", "nowhere"), ("no folder nowhere",)),
        (("--checkpoint", "nowhere"), ("no nowhere",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_bad_setting_of_verify_gives_one_error_line(
    cli: Cli, own_exports: Path, options: object, says: object
) -> None:
    assert isinstance(options, tuple)
    assert isinstance(says, tuple)
    assert_one_line(cli("verify", own_exports, *options), 2, *says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--min-rounds", 0), ("--min-rounds 0", "above 0")),
        (("--min-rounds", 5), ("--min-rounds 5", "6 or more")),
        (("--min-rounds", 10**30), ("--min-rounds", "at most 1,000,000,000")),
        (("--min-time", 0), ("--min-time 0", "above 0")),
        (("--min-time", "nan"), ("--min-time nan", "above 0")),
        (("--max-time", 0), ("--max-time 0", "above 0")),
        (("--min-time", 9, "--max-time", 8), ("--min-time 9", "--max-time 8")),
        (("--target-width", 0), ("--target-width 0", "as 1% or 0.01")),
        (("--target-width", "150%"), ("--target-width 1.5", "below 1")),
        (("--streams", 0), ("--streams 0", "1 or more")),
        (("--streams", 10**9), ("--streams 1000000000", "at most 1024")),
        (("--baseline", "pt2", "--runtime", "eager"), ("--baseline pt2", "expected one of eager")),
        (("--baseline", "no-op"), ("--baseline no-op", "expected one of eager")),
        (("--baseline", "triton"), ("'triton'", "known")),
        (("--sweep", "foo=1"), ("--sweep foo", "batch-size, threads, streams")),
        (("--sweep", "threads=0"), ("--threads 0", "1 or more")),
        (("--sweep", "threads=1,0"), ("--threads 0", "1 or more")),
        (("--sweep", "streams=0"), ("--streams 0", "1 or more")),
        (("--sweep", "batch-size=-1"), ("--batch-size -1", "above 0")),
        (("--sweep", "batch-size=1", "threads=0"), ("--threads 0", "1 or more")),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_bad_setting_of_bench_gives_one_error_line(
    cli: Cli, own_exports: Path, options: tuple[object, ...], says: tuple[str, ...]
) -> None:
    assert_one_line(cli("bench", own_exports, *options), 2, *says)


@pytest.mark.parametrize("values", ["threads=", "threads", "threads=two", "threads=1.5", "", " "])
def test_a_sweep_without_numbers_is_wrong_usage(cli: Cli, own_exports: Path, values: str) -> None:
    result = cli("bench", own_exports, "--sweep", values)
    assert result.exit_code == 2
    assert "--sweep" in result.stderr
    assert "Traceback" not in result.stderr


def test_setting_swept_twice_is_a_usage_error(cli: Cli, own_exports: Path) -> None:
    result = cli("bench", own_exports, "--sweep", "threads=1", "threads=2")
    assert result.exit_code == 2
    assert "threads is given twice; give all values at once, such as threads=1,2" in result.stderr


def test_runtime_that_loads_no_artifact_gives_one_error_line(cli: Cli, own_exports: Path) -> None:
    result = cli("verify", own_exports / "mnist-cnn.onnx", "--runtime", "pt2")
    assert_one_line(result, 2, "runtime pt2 loads pt2", "toolkit export --format pt2")


@pytest.mark.parametrize("command", [("export", "--sign", "key"), ("verify", "--key", "key")])
def test_missing_package_for_signatures_is_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    for name in [each for each in sys.modules if each.startswith("model_signing.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    result = cli(*command)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert f"{command[1]} needs the package model-signing" in result.stderr
    assert "pip install 'toolkit[signing]'" in result.stderr


def test_json_output_has_a_record_for_errors(cli: Cli) -> None:
    result = cli("verify", "nowhere", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit_code"], result.exit_code) == ("ArtifactError", 2, 2)
    assert error["message"] in result.stderr


def test_debug_shows_the_traceback(cli: Cli) -> None:
    assert "Traceback" not in cli("verify", "nowhere").stderr
    assert cli("verify", "nowhere", "--debug").exception is not None


def test_runtimes_lists_every_row_with_its_version(cli: Cli) -> None:
    record = json.loads(cli("runtimes", "--json").stdout)
    assert [row["name"] for row in record["runtimes"]] == list(RUNTIMES)
    assert all(row["version"] for row in record["runtimes"] if "cpu" in row["devices"])
    text = cli("runtimes").stdout
    assert all(name in text for name in RUNTIMES)


def test_every_row_has_an_install_command() -> None:
    for row in RUNTIMES.values():
        names = {*row.distributions, f"'toolkit[{row.name}]'"}
        assert row.install.removeprefix("pip install ") in names, row.install
    assert FORMATS["onnx"].install == "pip install torch onnx onnxscript onnxruntime"


def test_runtimes_names_the_command_that_installs_a_missing_one(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Runtime(
        name="missing",
        module="x",
        package="x",
        distributions=("no-such-package",),
        formats=("onnx",),
        install="pip install 'toolkit[missing]'",
    )
    monkeypatch.setitem(RUNTIMES, "missing", row)
    assert "pip install 'toolkit[missing]'" in cli("runtimes").stdout


def test_every_command_takes_json_and_debug_and_every_option_has_help() -> None:
    for name, command in commands.commands.items():
        options = {flag for item in command.params for flag in item.opts}
        assert {"--json", "--debug"} <= options, name
        assert command.help, name
        for item in command.params:
            if isinstance(item, click.Option):
                assert item.help, (name, item.name)


def test_python_m_toolkit_runs_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", "--version"], capture_output=True, text=True, check=True
    )
    assert "0.1.0" in done.stdout


def assert_one_line(result: object, exit_code: int, *says: str) -> None:
    stderr = getattr(result, "stderr", "")
    assert getattr(result, "exit_code", None) == exit_code, stderr
    assert getattr(result, "stdout", None) == ""
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    assert stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in stderr
    for words in says:
        assert words in errors[0]


@pytest.mark.parametrize("name", ["bench", "loadgen", "run", "tune", "verify"])
def test_defaults_of_options_are_those_of_the_records(name: str) -> None:
    """The options repeat them, because `--help` must not import the records."""
    command = commands.commands[name]
    # Commands keep the names of --help that they saw first.
    parent = click.Context(commands, **commands.context_settings)
    given = command.make_context(name, [], parent=parent, resilient_parsing=True).params
    records: tuple[object, ...] = (toolkit.SessionOptions(), toolkit.GateSettings())
    if name == "bench":  # loadgen has its own durations
        records = (*records, Plan())
    compared = 0
    for option in command.params:
        for record in records:
            if option.name is not None and hasattr(record, option.name):
                assert given[option.name] == getattr(record, option.name), option.opts
                compared += 1
    assert compared > 2
