"""CIFAR as it comes, and pickles that are read as data."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import checkpoint_of, pixels_of
from numpy.typing import NDArray

from toolkit.data import load_dataset
from toolkit.data.pickles import NotPlainDataError, PickledArray, read_pickle
from toolkit.errors import DatasetError

PIXELS = pixels_of(0, 4, 3, 32, 32)
LABELS = [1, 0, 2, 1]
NAMES = ("airplane", "automobile", "bird")


def binary(coarse: bool) -> bytes:
    """Rows as the binary version stores them."""
    rows = [
        bytes([9, label] if coarse else [label]) + image.tobytes()
        for label, image in zip(LABELS, PIXELS, strict=True)
    ]
    return b"".join(rows)


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()


def as_python_2_wrote_it(pixels: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A batch, byte for byte in the form of the files that are distributed."""
    content = pixels.tobytes()
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text("batch_label") + b"q\x02" + text("testing batch 1 of 1") + b"q\x03",
            text("labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([n]) for n in labels) + b"e",
            text("data")
            + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08",
            b"K\x00\x85q\x09" + text("b") + b"q\x0a\x87q\x0bRq\x0c(K\x01M",
            struct.pack("<H", len(labels)) + b"M\x00\x0c\x86q\x0dcnumpy\ndtype\nq\x0e" + text("u1"),
            b"q\x0fK\x00K\x01\x87q\x10Rq\x11(K\x03" + text("|") + b"q\x12NNNJ\xff\xff\xff\xffJ",
            b"\xff\xff\xff\xffK\x00tq\x13b\x89T" + struct.pack("<i", len(content)) + content,
            b"q\x14tb" + text("filenames") + b"q\x15]q\x16(" + text("a.png") + b"q\x17eu.",
        ]
    )


def put_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / f"{name}.bin").write_bytes(binary(coarse=False))
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def put_python(folder: Path, *, protocol: int | None = None) -> Path:
    folder.mkdir(parents=True)
    flat = PIXELS.reshape(4, -1)
    batch = {b"labels": LABELS, b"data": flat, b"filenames": [b"a.png"] * 4}
    content = as_python_2_wrote_it(flat, LABELS)
    if protocol is not None:
        content = pickle.dumps(batch, protocol)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(content)
    meta = {"label_names": list(NAMES), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 2 if protocol is None else protocol))
    return folder


@pytest.mark.parametrize("inside", [True, False])
def test_the_binary_version_is_read(tmp_path: Path, inside: bool) -> None:
    folder = put_binary(tmp_path / "cifar-10-batches-bin")
    found = load_dataset("test", folder if inside else tmp_path)
    assert np.array_equal(found.images[:], PIXELS)
    assert (found.labels.tolist(), found.class_names) == (LABELS, NAMES)
    assert len(load_dataset("train", folder)) == 20


def test_fine_labels_of_cifar_100_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(binary(coarse=True))
    found = load_dataset("test", tmp_path)
    assert np.array_equal(found.images[:], PIXELS)
    assert (found.labels.tolist(), found.class_names) == (LABELS, ())


@pytest.mark.parametrize("protocol", [None, 2, 3, 4])
def test_the_version_for_python_is_read_without_unpickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int | None
) -> None:
    folder = put_python(tmp_path / "cifar-10-batches-py", protocol=protocol)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for path in (folder, tmp_path):
        found = load_dataset("test", path)
        assert np.array_equal(found.images[:], PIXELS)
        assert (found.labels.tolist(), found.class_names) == (LABELS, NAMES)


def test_labels_follow_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    folder = put_binary(tmp_path / "cifar-10-batches-bin")
    model = checkpoint_of((3, 32, 32), 3, class_names=NAMES[::-1])
    assert load_dataset("test", folder, checkpoint=model).labels.tolist() == [1, 2, 0, 1]
    other = checkpoint_of((3, 32, 32), 3, class_names=("plane", "car", "bird"))
    assert load_dataset("test", folder, checkpoint=other).labels.tolist() == LABELS


class Malicious:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = put_python(tmp_path / "cifar-10-batches-py")
    content = pickle.dumps({"labels": LABELS, "data": Malicious()}, protocol)
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(DatasetError, match=r"test_batch: not a file .* use the binary version"):
        load_dataset("test", folder)
    assert not (tmp_path / "ran").exists()


def test_only_the_known_names_of_numpy_are_data() -> None:
    for value in (np.float32(1), np.random.default_rng, complex(1, 2), {1, 2}, Path):
        with pytest.raises(NotPlainDataError, match="not plain data"):
            read_pickle(pickle.dumps(value))
    found = read_pickle(pickle.dumps(PIXELS, 3))
    assert isinstance(found, PickledArray)
    assert (found.shape, found.dtype, found.content) == (PIXELS.shape, "u1", PIXELS.tobytes())


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    value = {"a": [1, 300, 70_000, -5, 2**40, None, True, False], "b": ("x", ("y",), ()), "c": {}}
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02(.",
        b"K\x01K",
        b"h\x09.",
        b"(K\x01u.",
        b"}K\x01s.",
        b"\x85.",
        b"e.",
    ],
)
def test_damaged_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(NotPlainDataError):
        read_pickle(content)


def test_damaged_files_are_refused_and_named(tmp_path: Path) -> None:
    folder = put_binary(tmp_path / "cifar-10-batches-bin")
    (folder / "test_batch.bin").write_bytes(binary(coarse=False)[:-1])
    with pytest.raises(DatasetError, match=r"test_batch\.bin: 12,291 bytes, expected a multiple"):
        load_dataset("test", folder)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DatasetError, match=r"cannot read .*data_batch_3\.bin: No such file"):
        load_dataset("train", folder)
    other = put_python(tmp_path / "cifar-10-batches-py")
    short = as_python_2_wrote_it(PIXELS.reshape(4, -1)[:3], LABELS)
    (other / "test_batch").write_bytes(short)
    with pytest.raises(DatasetError, match=r"test_batch: expected 3,072 bytes of uint8 for each"):
        load_dataset("test", other)
    (other / "test_batch").write_bytes(pickle.dumps([1, 2], 2))
    with pytest.raises(DatasetError, match="holds a list, expected a dictionary"):
        load_dataset("test", other)
