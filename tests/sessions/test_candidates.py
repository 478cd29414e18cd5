"""Candidates: every artifact once, in every runtime that could load it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CHECKPOINT

from toolkit.errors import ArtifactError, SettingError
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
    """Return the subject as if all its artifacts had this precision."""
    artifacts = (
        replace(each, record=replace(each.record, precision=precision))
        for each in subject.artifacts
    )
    return replace(subject, artifacts=tuple(artifacts))


def not_installed(row: Runtime, name: str | None = None) -> Runtime:
    return replace(row, name=name or row.name, distributions=("no-such-package",))


@pytest.fixture
def only_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the runtimes that only some machines have from the table."""
    for name in RUNTIMES.keys() - {*dict(ALL), "no-op"}:
        monkeypatch.delitem(RUNTIMES, name)


@pytest.mark.usefixtures("only_known")
def test_default_runtimes_are_the_installed_ones_with_their_artifacts(subject: Subject) -> None:
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL


def test_all_selects_the_runtimes_that_load_an_artifact(subject: Subject) -> None:
    """This includes opt-in runtimes, installed or not."""
    only = replace(subject, artifacts=subject.artifacts[:1])
    assert only.artifacts[0].record.format == "torchscript"
    assert pairs(find_candidates(only, ["all"], ONE_THREAD)) == [
        ("eager", "checkpoint"),
        ("torchscript", "torchscript"),
        ("torchscript-frozen", "torchscript"),
        ("compile", "checkpoint"),
    ]


def test_runtimes_of_another_device_must_be_named(
    subject: Subject,
) -> None:
    """A row that says `unsupported` fails a run, so it appears only if it was requested."""
    cuda = Settings(threads=1, device="cuda")
    for names in ([], ["all"]):
        for settings in (ONE_THREAD, cuda):
            rows = {each.runtime for each in find_candidates(subject, names, settings)}
            assert all(settings.device in row.devices for row in rows)
    assert pairs(find_candidates(subject, ["cudagraph"], ONE_THREAD)) == [
        ("cudagraph", "checkpoint")
    ]
    assert ("tensorrt", "onnx") in pairs(find_candidates(subject, ["all"], cuda))


def test_artifact_without_a_runtime_on_the_device_keeps_its_row() -> None:
    """It says `unsupported`; without it the artifact would pass without a comparison."""
    for names in ([], ["all"]):
        found = choose_runtimes(names, [("litert", "fp32"), ("onnx", "fp32")], "cuda")
        assert {"eager", "onnxruntime", "litert"} <= {row.name for row in found}
        assert "ncnn" not in {row.name for row in found}


def test_precision_unsupported_by_a_named_runtime_is_reported(subject: Subject) -> None:
    with pytest.raises(SettingError, match=r"tract loads onnx in fp32, fp16, .* given are .*int8"):
        find_candidates(with_precision(subject, "int8"), ["tract"], ONE_THREAD)


@pytest.mark.usefixtures("only_known")
def test_missing_runtime_is_kept_if_no_other_loads_the_artifact(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its row the artifact would pass without a comparison."""
    monkeypatch.setitem(RUNTIMES, "onnxruntime", not_installed(RUNTIMES["onnxruntime"]))
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL


@pytest.mark.usefixtures("only_known")
def test_missing_runtime_is_dropped_if_another_loads_the_artifact(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "other", not_installed(RUNTIMES["onnxruntime"], "other"))
    assert pairs(find_candidates(subject, [], ONE_THREAD)) == ALL
    assert pairs(find_candidates(subject, ["other"], ONE_THREAD)) == [("other", "onnx")]


def test_runtime_named_twice_is_used_once(subject: Subject) -> None:
    assert pairs(find_candidates(subject, ["pt2", "pt2"], ONE_THREAD)) == [("pt2", "pt2")]


def test_artifacts_with_the_same_bytes_are_one_candidate_and_all_recorded(
    exports: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(exports, tmp_path / "copy"))
    both = find_subject([exports, copy], checkpoint=CHECKPOINT, model=None)
    once = find_subject([exports], checkpoint=CHECKPOINT, model=None)
    assert find_candidates(both, [], ONE_THREAD) == find_candidates(once, [], ONE_THREAD)
    assert both.artifacts[: len(once.artifacts)] == once.artifacts
    assert len(both.artifacts) == 2 * len(once.artifacts)


def test_artifacts_with_different_bytes_are_separate_candidates(subject: Subject) -> None:
    onnx = next(item for item in subject.artifacts if item.record.format == "onnx")
    other = replace(onnx, record=replace(onnx.record, sha256="0" * 64))
    both = subject_of(CHECKPOINT, [onnx, other], model=None)
    names = [("onnxruntime", "onnx"), ("onnxruntime", "onnx")]
    assert pairs(find_candidates(both, ["onnxruntime"], ONE_THREAD)) == names


def test_a_checkpoint_without_artifacts_runs_by_itself() -> None:
    alone = subject_of(CHECKPOINT, [], model=None)
    assert pairs(find_candidates(alone, [], ONE_THREAD)) == [("eager", "checkpoint")]


def test_named_runtime_may_have_no_artifact_only_if_its_export_failed() -> None:
    alone = subject_of(CHECKPOINT, [], model=None)
    assert find_candidates(alone, ["pt2"], ONE_THREAD, lost=["pt2"]) == []
    with pytest.raises(SettingError, match="runtime pt2 loads pt2"):
        find_candidates(alone, ["pt2"], ONE_THREAD, lost=["onnx"])


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("onnx2", "which no runtime here loads"),
        ("checkpoint", "expected the format of an exported"),
    ],
)
def test_artifact_that_no_runtime_loads_does_not_pass(
    subject: Subject, format: str, text: str
) -> None:
    stored = subject.artifacts[0]
    other = replace(stored, record=replace(stored.record, format=format))
    given = replace(subject, artifacts=(*subject.artifacts[1:], other))
    for names in ([], ["all"]):
        with pytest.raises(ArtifactError, match=text):
            find_candidates(given, names, ONE_THREAD)


def test_artifact_that_no_runtime_loads_is_left_out_if_runtimes_are_named(
    subject: Subject,
) -> None:
    stored = subject.artifacts[0]
    other = replace(stored, record=replace(stored.record, format="onnx2"))
    given = replace(subject, artifacts=(*subject.artifacts, other))
    assert pairs(find_candidates(given, ["onnxruntime"], ONE_THREAD)) == [("onnxruntime", "onnx")]
