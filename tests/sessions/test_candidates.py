"""Who is compared: every artifact once, by every runtime that could load it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CHECKPOINT

from toolkit.errors import SettingError
from toolkit.schema import Precision, Settings
from toolkit.sessions.candidates import (
    Candidate,
    Subject,
    choose_runtimes,
    find_candidates,
    find_subject,
    subject_of,
)
from toolkit.sessions.runtimes import RUNTIMES, Runtime

ONE_THREAD = Settings(threads=1)
ALL = [
    ("eager", "checkpoint"),
    ("torchscript", "torchscript"),
    ("pt2", "pt2"),
    ("onnxruntime", "onnx"),
]


def pairs(candidates: list[Candidate]) -> list[tuple[str, str]]:
    return [(each.runtime.name, each.source.artifact.format) for each in candidates]


def with_precision(subject: Subject, precision: Precision) -> Subject:
    """As if all its artifacts had it."""
    artifacts = (
        replace(each, record=replace(each.record, precision=precision))
        for each in subject.artifacts
    )
    return replace(subject, artifacts=tuple(artifacts))


def not_installed(row: Runtime, name: str | None = None) -> Runtime:
    return replace(row, name=name or row.name, distributions=("no-such-package",))


@pytest.fixture
def only_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table without runtimes that some machines have and others lack."""
    for name in RUNTIMES.keys() - {*dict(ALL), "null"}:
        monkeypatch.delitem(RUNTIMES, name)


@pytest.mark.usefixtures("only_known")
def test_no_names_are_all_installed_runtimes_with_what_each_loads(subject: Subject) -> None:
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL


def test_all_are_those_that_load_something(subject: Subject) -> None:
    """Also those that take part only where they are asked for, installed or not."""
    only = replace(subject, artifacts=subject.artifacts[:1])
    assert only.artifacts[0].record.format == "torchscript"
    assert pairs(find_candidates(only, ["all"], ONE_THREAD)) == [
        ("eager", "checkpoint"),
        ("torchscript", "torchscript"),
        ("torchscript-frozen", "torchscript"),
        ("compile", "checkpoint"),
    ]


def test_runtimes_of_the_other_device_take_part_only_where_they_are_named(
    subject: Subject,
) -> None:
    """A row that says `unsupported` fails a run; so nobody gets one that they did not ask for."""
    cuda = Settings(threads=1, device="cuda")
    for names in ([], ["all"]):
        for settings in (ONE_THREAD, cuda):
            rows = {each.runtime for each in find_candidates(subject, names, settings)}
            assert all(settings.device in row.devices for row in rows)
    assert pairs(find_candidates(subject, ["cudagraph"], ONE_THREAD)) == [
        ("cudagraph", "checkpoint")
    ]
    assert ("tensorrt", "onnx") in pairs(find_candidates(subject, ["all"], cuda))


def test_an_artifact_that_no_runtime_of_the_device_loads_keeps_its_row() -> None:
    """It says `unsupported`; without it the artifact would pass uncompared."""
    for names in ([], ["all"]):
        found = choose_runtimes(names, [("litert", "fp32"), ("onnx", "fp32")], "cuda")
        assert {"eager", "onnxruntime", "litert"} <= {row.name for row in found}
        assert "ncnn" not in {row.name for row in found}


def test_a_precision_that_a_named_runtime_does_not_load_is_said(subject: Subject) -> None:
    with pytest.raises(SettingError, match=r"tract loads onnx in fp32, fp16, .* given are .*int8"):
        find_candidates(with_precision(subject, "int8"), ["tract"], ONE_THREAD)


@pytest.mark.usefixtures("only_known")
def test_a_missing_runtime_stays_where_no_other_loads_the_artifact(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its row the artifact would pass uncompared."""
    monkeypatch.setitem(RUNTIMES, "onnxruntime", not_installed(RUNTIMES["onnxruntime"]))
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL


@pytest.mark.usefixtures("only_known")
def test_a_missing_runtime_goes_where_another_loads_the_artifact(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "other", not_installed(RUNTIMES["onnxruntime"], "other"))
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL
    assert pairs(find_candidates(subject, ["other"], ONE_THREAD)) == [("other", "onnx")]


def test_named_twice_is_lined_up_once(subject: Subject) -> None:
    assert pairs(find_candidates(subject, ["pt2", "pt2"], ONE_THREAD)) == [("pt2", "pt2")]


def test_artifacts_of_the_same_bytes_are_one_candidate_and_all_recorded(
    exports: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(exports, tmp_path / "copy"))
    both = find_subject([exports, copy], checkpoint=CHECKPOINT, model=None)
    once = find_subject([exports], checkpoint=CHECKPOINT, model=None)
    assert find_candidates(both, [], ONE_THREAD) == find_candidates(once, [], ONE_THREAD)
    assert both.artifacts[: len(once.artifacts)] == once.artifacts
    assert len(both.artifacts) == 2 * len(once.artifacts)


def test_artifacts_of_other_bytes_are_candidates_of_their_own(subject: Subject) -> None:
    onnx = next(item for item in subject.artifacts if item.record.format == "onnx")
    other = replace(onnx, record=replace(onnx.record, sha256="0" * 64))
    both = subject_of(CHECKPOINT, [onnx, other], model=None)
    names = [("onnxruntime", "onnx"), ("onnxruntime", "onnx")]
    assert pairs(find_candidates(both, ["onnxruntime"], ONE_THREAD)) == names


def test_a_checkpoint_without_artifacts_runs_by_itself() -> None:
    alone = subject_of(CHECKPOINT, [], model=None)
    assert pairs(find_candidates(alone, [], ONE_THREAD)) == [("eager", "checkpoint")]


def test_a_named_runtime_may_be_left_without_only_where_its_format_was_lost() -> None:
    alone = subject_of(CHECKPOINT, [], model=None)
    assert find_candidates(alone, ["pt2"], ONE_THREAD, lost=["pt2"]) == []
    with pytest.raises(SettingError, match="runtime pt2 loads pt2"):
        find_candidates(alone, ["pt2"], ONE_THREAD, lost=["onnx"])
