"""The reference: reused if possible, computed again if anything that it depends on has changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE_S

from toolkit.checkpoints.model import build_model
from toolkit.checkpoints.storage import save_checkpoint
from toolkit.data import Dataset, load_dataset
from toolkit.errors import CheckpointError
from toolkit.parity.kept_references import keep_references, read_references
from toolkit.parity.make_reference import ReferenceMaker
from toolkit.parity.reference import Reference, References
from toolkit.parity.special import special_images
from toolkit.schema import CHECKPOINT_SCHEMA_VERSION, Checkpoint, InputSpec, ModelSpec, Settings
from toolkit.sessions.candidates import Subject

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
) -> tuple[References, bool]:
    """Return the references, and whether they were reused."""
    notes: list[str] = []
    reference = ReferenceMaker(
        subject=subject,
        dataset=dataset,
        settings=Settings(threads=threads),
        timeout_s=PATIENCE_S,
        progress=lambda label, done, total, note="", /: notes.append(note),
    ).make()
    return reference, notes == ["images, kept"]


def test_reference_is_reused_the_second_time(subject: Subject) -> None:
    first, kept_first = make(subject)
    second, kept_second = make(subject)
    assert (kept_first, kept_second) == (False, True)
    for one, other in ((first.data, second.data), (first.special, second.special)):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.floors, other.floors)
        assert one.logits.dtype == other.logits.dtype == np.float64
        assert one.precision == other.precision == "fp64"
        assert 0 < one.floors.min() <= one.floors.max() < 1e-4
    np.testing.assert_array_equal(first.special_images, second.special_images)
    np.testing.assert_array_equal(second.data.labels, DATASET.labels)


def test_reference_depends_on_data_threads_and_spec(subject: Subject) -> None:
    """None of them may reuse the reference of another."""
    maker = ReferenceMaker(
        subject=subject, dataset=DATASET, settings=Settings(threads=1), timeout_s=PATIENCE_S
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


SPECIAL = special_images(DATASET.images, DATASET.labels)


def some_reference(images: int) -> Reference:
    random = np.random.default_rng(images)
    logits = random.normal(size=(images, 10))
    return Reference(
        logits=logits, labels=logits.argmax(1), floors=random.uniform(1e-7, 1e-6, images)
    )


KEPT = References(
    data=some_reference(60),
    special=some_reference(len(SPECIAL) - 1),
    special_images=SPECIAL[1:],
    special_rows=np.arange(1, len(SPECIAL)),
)


def test_kept_reference_round_trips(tmp_path: Path) -> None:
    keep_references(tmp_path / "kept.npz", KEPT)
    again = read_references(tmp_path / "kept.npz", DATASET, SPECIAL)
    assert again is not None
    np.testing.assert_array_equal(again.data.logits, KEPT.data.logits)
    np.testing.assert_array_equal(again.data.floors, KEPT.data.floors)
    np.testing.assert_array_equal(again.special.logits, KEPT.special.logits)
    np.testing.assert_array_equal(again.special_images, SPECIAL[1:])
    assert again.data.precision == "fp64"


def test_references_of_other_special_images_are_not_used(tmp_path: Path) -> None:
    keep_references(tmp_path / "kept.npz", KEPT)
    assert read_references(tmp_path / "kept.npz", DATASET, SPECIAL[::-1]) is None


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "other count"])
def test_damaged_cache_file_is_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "kept.npz"
    keep_references(path, KEPT)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
    elif damage == "other count":
        assert read_references(path, DATASET.head(59), SPECIAL) is None
        return
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "truncated": content[:middle], "flipped": flipped}[damage])
    assert read_references(path, DATASET, SPECIAL) is None


def test_old_references_are_deleted_when_the_cache_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_references(tmp_path / "0.npz", KEPT)
    monkeypatch.setattr(
        "toolkit.parity.kept_references._KEPT_BYTES", 2.5 * (tmp_path / "0.npz").stat().st_size
    )
    for number in range(5):
        keep_references(tmp_path / f"{number}.npz", KEPT)
        os.utime(tmp_path / f"{number}.npz", (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.npz", "4.npz"]


def test_outdated_cached_logits_are_not_used(subject: Subject, empty_cache: Path) -> None:
    """This is the situation after a change of the factory's code under the same name."""
    references, _ = make(subject)
    (path,) = empty_cache.rglob("*.npz")
    data = replace(references.data, logits=references.data.logits + 1e-6)
    keep_references(path, replace(references, data=data))
    again, kept = make(subject)
    assert kept is False
    np.testing.assert_allclose(again.data.logits, references.data.logits, atol=1e-12)


def test_unwritable_cache_is_ignored(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert make(subject)[0].data.logits.shape == (60, 10)


FIXED_DTYPE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, input):
        return self.fc(input.float().flatten(1))
"""


def own_subject(folder: Path, name: str, code: str) -> Subject:
    """The subject of a custom model: `code` defines `Net`."""
    (folder / f"{name}.py").write_text(code)
    model = ModelSpec(factory=f"{name}:Net")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    record = Checkpoint(
        schema_version=CHECKPOINT_SCHEMA_VERSION,
        name=name,
        model=model,
        input=InputSpec(shape=(1, 28, 28), mean=(0.1,), std=(0.3,)),
        classes=10,
        sha256="",
    )
    # Not by `import_weights`, which refuses such models.
    checkpoint = save_checkpoint(folder / name, build_model(model, trusted=model.factory), record)
    return Subject(folder=folder / name, checkpoint=checkpoint, artifacts=(), model=model.factory)


def test_a_model_that_fixes_its_dtype_has_a_float32_reference(module_folder: Path) -> None:
    own = own_subject(module_folder, "fixed_dtype", FIXED_DTYPE)
    references, _ = make(own)
    assert references.data.precision == "fp32"
    assert references.data.logits.dtype == np.float64
    assert make(own)[1] is True


NET = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)
        self.norm = nn.BatchNorm1d(784, affine=False, track_running_stats=False)

    def forward(self, input):
        x = input.flatten(1)
        {line}
        return self.fc(x)
"""
NO_REFERENCE = {
    "is random": "x = F.dropout(x, 0.01, training=True)",
    "other images are in its batch": "x = self.norm(x)",
    "NaN or infinite": "x = x / (x.sum(1, keepdim=True) - x.sum(1, keepdim=True))",
    "smaller than PyTorch's own float32": "return self.fc(x) + 1e9",
}


@pytest.mark.parametrize("words", NO_REFERENCE)
def test_unusable_checkpoint_is_refused_as_reference(module_folder: Path, words: str) -> None:
    own = own_subject(module_folder, "unfit", NET.format(line=NO_REFERENCE[words]))
    with pytest.raises(CheckpointError, match=words):
        make(own)


def test_batch_dependence_of_one_percent_is_detected(module_folder: Path) -> None:
    line = "x = x - 0.01 * x.mean(0, keepdim=True)"
    own = own_subject(module_folder, "leaky", NET.format(line=line))
    with pytest.raises(CheckpointError, match="other images are in its batch"):
        make(own)


def test_ill_conditioned_image_does_not_excuse_others(
    module_folder: Path,
) -> None:
    """The model standardises each image; one test image is almost blank."""
    line = "x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)"
    own = own_subject(module_folder, "standardised", NET.format(line=line))
    images = np.asarray(DATASET.images[:]).copy()
    images[5] = 200
    images[5, 0, 3, 3] = 201
    dataset = replace(DATASET, images=images)
    references, _ = make(own, dataset)
    floors = references.data.floors
    assert floors[5] > 10 * np.median(floors)
    assert np.delete(floors, 5).max() < 1e-5
    assert len(references.special_images) < len(SPECIAL)  # a blank one has no answer there


def test_reference_depends_on_the_kernels(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = ReferenceMaker(
        subject=subject, dataset=DATASET, settings=Settings(threads=1), timeout_s=PATIENCE_S
    )
    before = maker.path()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert maker.path() != before
    monkeypatch.delenv("ATEN_CPU_CAPABILITY")
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")  # pinned in every worker
    assert maker.path() == before
