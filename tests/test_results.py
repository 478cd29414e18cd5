"""Results on disk: what others get to see names no user, host or folder of the machine."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY

import toolkit
from toolkit import run_pipeline as pipeline
from toolkit.artifacts.formats import Request, torchscript
from toolkit.artifacts.manifest import find_relative, relative_to
from toolkit.machine.environment import describe_environment
from toolkit.measurement.plan import Plan
from toolkit.results import read_tuning, write_tuning
from toolkit.schema import (
    TUNING_SCHEMA_VERSION,
    Configuration,
    Constraints,
    DatasetRecord,
    Settings,
    Trial,
    Tuning,
)

USER, HOST = "zaphod-beeblebrox", "heart-of-gold"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user with a name that occurs nowhere else."""
    home = tmp_path / "homes" / USER
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", USER)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    return home


@pytest.mark.slow
def test_no_file_of_a_run_names_user_host_or_folder(
    small_data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Request) -> None:
        raise ValueError(f"cannot open {home / 'secret' / 'file'} on {HOST}")

    short = Plan(min_time_s=0.1, min_rounds=6, passes=1)
    monkeypatch.setattr(pipeline, "plan_of", lambda *_, **__: short)
    monkeypatch.setattr(torchscript, "export", fail)
    data, out = home / "data", home / "run"
    shutil.copytree(small_data, data)
    done = toolkit.run(
        quick=True,
        data=data,
        out=out,
        formats=["onnx", "torchscript"],
        runtimes=["onnxruntime", "torchscript"],
        session=toolkit.SessionOptions(threads=1),
    )
    rows = {row.runtime: row for row in done.results.parity}
    assert rows["onnxruntime"].status == "passed"
    assert rows["torchscript"].status == "crashed"
    assert str(rows["torchscript"].reason).endswith("cannot open ~/secret/file on <host>")
    assert "Traceback" in rows["torchscript"].stderr_tail
    texts = {path: path.read_text() for path in out.rglob("*") if path.suffix in _TEXTS}
    assert {path.name for path in texts} == {
        *("results.json", "results.md", "results.csv", "manifest.json", "checkpoint.json"),
        "data-cnn.onnx.md",
    }
    for path, text in texts.items():
        for name in (USER, HOST, str(home.parent), str(REPOSITORY), os.__file__):
            assert name not in text, f"{name} in {path}"


_TEXTS = (".json", ".md", ".csv", ".html")


def test_path_into_a_home_from_outside_does_not_name_the_user(home: Path, tmp_path: Path) -> None:
    inside, outside = home / "models" / "net", tmp_path / "exports"
    assert relative_to(outside, inside) == "~/models/net"
    assert find_relative(outside, "~/models/net") == inside
    assert relative_to(home / "exports", inside) == "../models/net"
    assert relative_to(outside, tmp_path / "net") == "../net"
    assert find_relative(outside, "../net") == outside / "../net"


def tuning_of(artifact_path: str) -> Tuning:
    configuration = Configuration(
        runtime="onnxruntime",
        format="onnx",
        precision="fp32",
        artifact_path=artifact_path,
        artifact_sha256="a" * 64,
        batch_size=100,
        settings=Settings(threads=2),
    )
    only = Trial(
        name="onnxruntime",
        configuration=configuration,
        stage=3,
        images_per_s=None,
        to_baseline=None,
        latency_s=None,
        size_bytes=1,
        accuracy=None,
        flips=None,
        status="passed",
        reason=None,
        pareto=True,
    )
    return Tuning(
        schema_version=TUNING_SCHEMA_VERSION,
        environment=describe_environment(),
        dataset=DatasetRecord(name="mnist", split="test", images=1, sha256={}),
        checkpoint_sha256="c" * 64,
        constraints=Constraints(),
        wall_s=1.0,
        trials=(only,),
        baseline="onnxruntime",
        recommended="onnxruntime",
        why="the only one",
        confidence="the only one",
    )


def test_tuning_and_its_artifacts_can_be_moved(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "old" / "exports").mkdir(parents=True)
    (home / "old" / "exports" / "net.onnx").write_bytes(b"")
    monkeypatch.chdir(home)
    write_tuning(Path("old/tuning.json"), tuning_of("old/exports/net.onnx"))
    text = (home / "old" / "tuning.json").read_text()
    assert '"artifact_path": "exports/net.onnx"' in text
    assert USER not in text
    (home / "old").rename(home / "new")
    chosen = read_tuning(Path("new/tuning.json")).chosen
    assert chosen == replace(
        tuning_of(str(home / "new" / "exports" / "net.onnx")).trials[0].configuration
    )


def test_tuning_of_an_earlier_version_still_finds_its_artifacts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named them relative to the folder that tune was called in."""
    from toolkit.files import write_json
    from toolkit.schema import to_json

    monkeypatch.chdir(home)
    write_json(home / "out" / "tuning.json", to_json(tuning_of("exports/net.onnx")))
    chosen = read_tuning(Path("out/tuning.json")).chosen
    assert chosen is not None
    assert chosen.artifact_path == "exports/net.onnx"
