"""Arrays of numpy: names, order of dimensions, range of values; and files made to harm."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from datasets import checkpoint_of, pixels_of
from hostile import IRREGULAR, put_irregular
from numpy.typing import NDArray

from toolkit.data import Dataset, load_dataset
from toolkit.errors import DatasetError, ToolkitWarning
from toolkit.schema import Checkpoint

PIXELS = pixels_of(0, 6, 3, 8, 9)
LABELS = np.array([0, 1, 2, 0, 1, 2])
MODEL = checkpoint_of((3, 8, 9), 3)
FLOATS = checkpoint_of((2, 5), 3, dtype="float32")


def put(path: Path, packed: Any = False, /, **arrays: NDArray[Any]) -> Path:
    """Write an archive, or one `.npy` file for each array into a folder."""
    if path.suffix == ".npz":
        (np.savez_compressed if packed else np.savez)(path, **arrays)  # type: ignore[arg-type]
        return path
    path.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(path / f"{name}.npy", values)
    return path


def read(path: Path, model: Checkpoint | None = MODEL) -> tuple[Dataset, str]:
    """The data set, and all warnings as one text."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ToolkitWarning)
        dataset = load_dataset("test", path, checkpoint=model)
    return dataset, "; ".join(str(each.message) for each in found)


@pytest.mark.parametrize("place", ["some.npz", "folder"])
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_test", "y_test"),
        ("X_test", "Y_test"),
        ("xtest", "ytest"),
        ("test_images", "test_labels"),
        ("images_val", "labels_val"),
        ("x", "y"),
        ("data", "target"),
    ],
)
def test_arrays_are_found_by_their_names(
    tmp_path: Path, place: str, images: str, labels: str
) -> None:
    other = {"x_train": PIXELS[:2], "y_train": LABELS[:2]}
    path = put(tmp_path / place, **{images: PIXELS, labels: LABELS}, **other)
    found, said = read(path)
    assert np.array_equal(found.images[:], PIXELS)
    assert found.labels.tolist() == LABELS.tolist()
    assert (found.record.name, said) == (place.removesuffix(".npz"), "")


def test_archives_may_be_named_after_splits(tmp_path: Path) -> None:
    put(tmp_path / "train.npz", x=PIXELS[:2], y=LABELS[:2])
    put(tmp_path / "test.npz", x=PIXELS, y=LABELS)
    train, test = (load_dataset(split, tmp_path, checkpoint=MODEL) for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 6)
    assert not {*train.record.sha256} & {*test.record.sha256}


def test_both_splits_in_one_archive_have_checksums_of_their_own(tmp_path: Path) -> None:
    arrays = {"x_train": PIXELS[:3], "y_train": LABELS[:3], "x_test": PIXELS, "y_test": LABELS}
    path = put(tmp_path / "a.npz", **arrays)
    train, test = (load_dataset(split, path, checkpoint=MODEL) for split in ("train", "test"))
    assert not {*train.record.sha256.values()} & {*test.record.sha256.values()}
    assert [name for name in test.record.sha256 if "labels" in name] == ["a.npz: y_test (labels)"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("place", ["some.npz", "folder"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_orders_of_dimensions_are_read_and_recorded(
    tmp_path: Path, place: str, packed: bool, order: Any
) -> None:
    last = np.asarray(PIXELS.transpose(0, 2, 3, 1), order=order)
    path = put(tmp_path / place, packed, x_test=last, y_test=LABELS)
    for model in (MODEL, None):
        found, said = read(path, model)
        assert np.array_equal(found.images[:], PIXELS)
        assert np.array_equal(found.images[3], PIXELS[3])
        assert np.array_equal(found.images[np.array([4, 1])], PIXELS[[4, 1]])
        assert np.array_equal(found.head(2).images[:], PIXELS[:2])
        assert any("[N,H,W,C] of shape [8, 9, 3]" in note for note in found.record.notes)
        assert said == ""


def test_an_order_that_is_not_clear_is_said(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", x=pixels_of(0, 6, 3, 3, 3), y=LABELS)
    _, said = read(path, checkpoint_of((3, 3, 3), 3))
    assert "could be [N,C,H,W] or [N,H,W,C]; they are read as [N,C,H,W]" in said


def test_grey_images_need_no_channels(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", x=PIXELS[:, 0], y=LABELS)
    found, _ = read(path, checkpoint_of((1, 8, 9), 3))
    assert np.array_equal(found.images[:], PIXELS[:, :1])
    assert np.array_equal(found.images[0], PIXELS[0, :1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_images_are_the_same_images(tmp_path: Path, dtype: type[np.floating]) -> None:
    for values in ((PIXELS / 255).astype(dtype), PIXELS.astype(dtype)):
        found, said = read(put(tmp_path / "a.npz", x=values, y=LABELS))
        assert np.array_equal(found.images[:], PIXELS)
        assert found.images[:].dtype == np.uint8
        assert said == ""
        assert any(f"{np.dtype(dtype)} values from 0 to" in note for note in found.record.notes)


def test_floats_between_the_steps_of_8_bits_are_said(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(PIXELS.shape)
    found, said = read(put(tmp_path / "a.npz", x=values, y=LABELS))
    assert np.array_equal(found.images[:], np.rint(values * 255))
    assert "are rounded to 8 bits" in said


def test_numbers_of_16_bits_are_scaled_and_said(tmp_path: Path) -> None:
    found, said = read(put(tmp_path / "a.npz", x=PIXELS.astype(np.uint16) * 257, y=LABELS))
    assert np.array_equal(found.images[:], PIXELS)
    assert "scaled from 16 to 8 bits" in said
    found, said = read(put(tmp_path / "a.npz", x=PIXELS.astype(np.int64), y=LABELS))
    assert np.array_equal(found.images[:], PIXELS)
    assert said == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((PIXELS / 255 - 0.5) / 0.25, r"values from -2 to 2, expected those of images"),
        (PIXELS * 2.0, "expected those of images"),
        (PIXELS / 2, "not whole"),
        (PIXELS.astype(np.int32) * 2, "expected 0 to 255, or uint16"),
        (np.where(PIXELS > 9, PIXELS / 255, np.nan), "NaN or infinite"),
    ],
)
def test_values_that_are_no_pixels_are_refused(
    tmp_path: Path, values: NDArray[Any], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        read(put(tmp_path / "a.npz", x=values, y=LABELS))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (1, 16_0), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("place", ["some.npz", "folder"])
def test_samples_of_any_rank_are_read_for_a_model_of_floats(
    tmp_path: Path, shape: tuple[int, ...], dtype: type[np.number], place: str
) -> None:
    values = (np.random.default_rng(0).standard_normal((6, *shape)) * 100).astype(dtype)
    model = checkpoint_of(shape, 3, dtype="float32")
    found, _ = read(put(tmp_path / place, x=values, y=LABELS), model)
    assert found.images[:].dtype == np.float32
    assert np.array_equal(found.images[:], values.astype(np.float32))
    assert found.images[:2].flags.c_contiguous


def test_a_model_of_floats_gets_no_images_of_bytes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds images of bytes, but .* expects float32"):
        load_dataset("test", checkpoint=checkpoint_of((1, 28, 28), 10, dtype="float32"))
    bad = np.full((6, 2, 5), np.inf, np.float32)
    with pytest.raises(DatasetError, match="NaN or infinite"):
        read(put(tmp_path / "a.npz", x=bad, y=LABELS), FLOATS)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(6), r"labels of shape \[6, 6\], expected \[N\].*argmax"),
        (LABELS + 0.5, "not whole numbers"),
        (LABELS - 1, "label -1, expected 0 or more"),
        (LABELS[:4], r"shape \[6, 3, 8, 9\] but .*y has 4 labels"),
        (LABELS + 9, "label 11, out of range"),
        (np.full(6, np.nan), "not whole numbers"),
        (np.full(6, 1e300), "above 2"),
        (np.full(6, 2**64 - 1, np.uint64), "above 2"),
    ],
)
def test_labels_that_are_no_labels_are_refused(
    tmp_path: Path, labels: NDArray[Any], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        read(put(tmp_path / "a.npz", x=PIXELS, y=labels))


def test_labels_may_be_a_column_or_whole_floats(tmp_path: Path) -> None:
    for labels in (LABELS[:, None].astype(np.uint8), LABELS.astype(np.float32)):
        found, _ = read(put(tmp_path / "a.npz", x=PIXELS, y=labels))
        assert found.labels.tolist() == LABELS.tolist()


def test_arrays_under_other_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected arrays named x_test.*found first, second"):
        read(put(tmp_path / "a.npz", first=PIXELS, second=LABELS))
    with pytest.raises(DatasetError, match=r"expected one array of a kind, found x, images"):
        read(put(tmp_path / "b.npz", x=PIXELS, images=PIXELS, y=LABELS))
    np.save(tmp_path / "x_test.npy", PIXELS)
    with pytest.raises(DatasetError, match=r"found x_test"):
        read(tmp_path / "x_test.npy")


def test_a_plain_file_stays_on_disk(tmp_path: Path) -> None:
    path = put(tmp_path / "folder", x_test=PIXELS, y_test=LABELS)
    found, _ = read(path)
    assert len(pickle.dumps(found.images)) < 1000
    assert np.array_equal(pickle.loads(pickle.dumps(found.images))[:], PIXELS)  # noqa: S301 - own


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("place", ["some.npz", "folder"])
def test_objects_are_refused_and_never_unpickled(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Malicious()] * 6, object)
    path = put(tmp_path / place, x_test=objects, y_test=LABELS)
    with pytest.raises(DatasetError, match="Python objects, which are never unpickled"):
        read(path)
    assert not (tmp_path / "ran").exists()


def npy(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


WHOLE = npy(PIXELS)
BAD: dict[str, tuple[bytes, str]] = {
    "cut in the values": (WHOLE[:-1], r"expected 1,296 for shape|truncated"),
    "too long": (WHOLE + b"\0", "expected 1,296 for shape"),
    "cut in the header": (WHOLE[:40], "not an array of numpy"),
    "empty": (b"", "not an array of numpy"),
    "text": (b"hello", "not an array of numpy"),
    "count too high": (
        WHOLE.replace(b"(6, 3, 8, 9)", b"(9999, 9999)"),
        "expected 99,980,001 for shape",
    ),
    "negative": (WHOLE.replace(b"(6, 3, 8, 9)", b"(6,-3,-8, 9)"), "no negative sizes"),
    "text values": (npy(np.array(["a"] * 6)), r"holds text, expected numbers.*--class-names"),
    "complex": (npy(np.ones(6, complex)), "holds complex128, expected numbers"),
    "no values": (npy(PIXELS[:0]), "holds no values"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", BAD)
def test_damaged_arrays_are_refused_and_named(tmp_path: Path, fault: str, packed: bool) -> None:
    content, words = BAD[fault]
    if packed:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x_test.npy", content)
            archive.writestr("y_test.npy", npy(LABELS))
    else:
        (tmp_path / "x_test.npy").write_bytes(content)
        (tmp_path / "y_test.npy").write_bytes(npy(LABELS))
    with pytest.raises(DatasetError, match=words) as caught:
        read(tmp_path / "a.npz" if packed else tmp_path)
    assert "x_test" in str(caught.value)


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", True, x=PIXELS, y=LABELS)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-20], whole[:200]):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"a\.npz: not an archive of numpy"):
            read(path)
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 255
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match=r"a\.npz"):
        read(path)


def test_no_more_is_unpacked_than_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.npz", True, x=np.zeros((6, 3, 800, 900), np.uint8), y=LABELS)
    memory = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(DatasetError, match=r"its header announces 12,960,\d\d\d bytes"):
        read(path, checkpoint_of((3, 800, 900), 3))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", ["a.npz", "folder"])
def test_an_array_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = put(tmp_path / name, x_test=PIXELS, y_test=LABELS)
    put_irregular(path if name == "a.npz" else path / "x_test.npy", kind)
    with pytest.raises(DatasetError, match=rf"{IRREGULAR[kind]}|no test images"):
        read(path)
