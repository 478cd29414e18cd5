"""The reference: kept where it may be, computed again where anything it stands on has changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toolkit.candidates import Subject
from toolkit.checkpoint import import_weights
from toolkit.data import Dataset, load_dataset
from toolkit.model import build_model
from toolkit.parity import Reference
from toolkit.reference import ReferenceMaker, keep_reference, read_reference
from toolkit.schema import InputSpec, ModelSpec, Settings

DATASET = load_dataset("test").head(60)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def module_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which a test's own model factory is imported, here and in workers."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def make(
    subject: Subject, dataset: Dataset = DATASET, *, threads: int = 1
) -> tuple[Reference, bool]:
    """The reference, and whether it was a kept one."""
    notes: list[str] = []
    reference = ReferenceMaker(
        subject=subject,
        dataset=dataset,
        settings=Settings(threads=threads),
        timeout_s=60,
        progress=lambda label, done, total, note="", /: notes.append(note),
    ).make()
    return reference, notes == ["images, kept"]


def test_the_second_time_the_reference_is_the_kept_one(subject: Subject) -> None:
    first, kept_first = make(subject)
    second, kept_second = make(subject)
    assert (kept_first, kept_second) == (False, True)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert first.logits.dtype == second.logits.dtype == np.float64
    assert (first.noise_floor, first.precision) == (second.noise_floor, "fp64")
    assert 0 < first.noise_floor < 1e-4
    np.testing.assert_array_equal(second.labels, DATASET.labels)


def test_other_data_other_threads_and_another_spec_are_other_references(subject: Subject) -> None:
    """None of them may find what is kept for another."""
    maker = ReferenceMaker(
        subject=subject, dataset=DATASET, settings=Settings(threads=1), timeout_s=60
    )
    spec = replace(subject.checkpoint.input, mean=(0.5,))
    others = [
        replace(maker, dataset=DATASET.head(59)),
        replace(maker, settings=Settings(threads=2)),
        replace(
            maker, subject=replace(subject, checkpoint=replace(subject.checkpoint, input=spec))
        ),
    ]
    assert len({each.path() for each in (maker, *others)}) == 4


KEPT = Reference(
    logits=np.random.default_rng(0).normal(size=(60, 10)), labels=DATASET.labels, noise_floor=1e-6
)


def test_a_kept_reference_reads_back(tmp_path: Path) -> None:
    keep_reference(tmp_path / "kept.npz", KEPT)
    again = read_reference(tmp_path / "kept.npz", DATASET)
    assert again is not None
    np.testing.assert_array_equal(again.logits, KEPT.logits)
    assert (again.noise_floor, again.precision) == (1e-6, "fp64")


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "other count"])
def test_a_damaged_file_is_no_reference(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "kept.npz"
    keep_reference(path, KEPT)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
    elif damage == "other count":
        assert read_reference(path, DATASET.head(59)) is None
        return
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "truncated": content[:middle], "flipped": flipped}[damage])
    assert read_reference(path, DATASET) is None


def test_old_references_go_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_reference(tmp_path / "0.npz", KEPT)
    monkeypatch.setattr("toolkit.reference._KEPT_BYTES", 2.5 * (tmp_path / "0.npz").stat().st_size)
    for number in range(5):
        keep_reference(tmp_path / f"{number}.npz", KEPT)
        os.utime(tmp_path / f"{number}.npz", (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.npz", "4.npz"]


def test_kept_logits_that_the_checkpoint_no_longer_gives_are_not_used(
    subject: Subject, empty_cache: Path
) -> None:
    """As after a change in the code of the model factory, under the same name."""
    reference, _ = make(subject)
    (path,) = empty_cache.rglob("*.npz")
    np.savez(path, logits=reference.logits + 1e-6, noise_floor=1e-6, precision="fp64")
    again, kept = make(subject)
    assert kept is False
    np.testing.assert_allclose(again.logits, reference.logits, atol=1e-12)


def test_a_cache_that_cannot_be_written_does_not_matter(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert make(subject)[0].logits.shape == (60, 10)


FIXED_DTYPE = """
from torch import nn

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, input):
        return self.fc(input.float().flatten(1))
"""


def test_a_model_that_fixes_its_dtype_has_a_float32_reference(
    subject: Subject, module_folder: Path
) -> None:
    (module_folder / "fixed_dtype.py").write_text(FIXED_DTYPE)
    model = ModelSpec(factory="fixed_dtype:Fixed")
    torch = pytest.importorskip("torch")
    torch.save(build_model(model, trusted=model.factory).state_dict(), module_folder / "w.pt")
    checkpoint = import_weights(
        module_folder / "w.pt",
        out=module_folder / "fixed",
        model=model,
        input_spec=InputSpec(shape=(1, 28, 28), mean=(0.1,), std=(0.3,)),
        classes=10,
    )
    own = Subject(
        folder=module_folder / "fixed", checkpoint=checkpoint, artifacts=(), model=model.factory
    )
    reference, _ = make(own)
    assert reference.precision == "fp32"
    assert reference.logits.dtype == np.float64
    assert make(own)[1] is True
