"""The bundled MNIST, valid and damaged IDX files, and pixels that equal torchvision's."""

from __future__ import annotations

import gzip
import hashlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import checkpoint_of
from hostile import IRREGULAR, gzip_bomb, idx_header, put_irregular
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from toolkit import data
from toolkit.data import Dataset, Split, check_fits, load_dataset
from toolkit.data.idx import read_idx
from toolkit.data.preprocessing import normalise
from toolkit.errors import DatasetError
from toolkit.schema import DatasetRecord, InputSpec

IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1], np.uint8)
Pixels = NDArray[np.uint8]


def idx_bytes(values: Pixels, *, kind: int = 0x08, shape: tuple[int, ...] | None = None) -> bytes:
    """The IDX file of `values`; `kind` and `shape` go into its header."""
    shape = values.shape if shape is None else shape
    return (
        bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()
    )


def write_pair(folder: Path, images: bytes, labels: bytes, *, prefix: str = "t10k") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def dataset_of(images: Pixels, labels: list[int]) -> Dataset:
    record = DatasetRecord(name="mine", split="test", images=len(images), sha256={})
    return Dataset(images=images, labels=np.asarray(labels, np.int64), record=record)


def no_socket(*arguments: object, **options: object) -> None:
    raise AssertionError("a socket was made")


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_bundled_mnist_is_complete_and_needs_no_network(
    split: Split, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", no_socket)
    dataset = load_dataset(split)
    assert dataset.images.shape == (count, 1, 28, 28)
    assert dataset.images[:1].dtype == np.uint8
    assert dataset.labels.shape == (count,)
    assert dataset.labels.dtype == np.int64
    assert (len(dataset), dataset.classes) == (count, 10)
    assert np.unique(dataset.labels).tolist() == list(range(10))
    assert (dataset.record.name, dataset.record.split) == ("mnist", split)
    assert dataset.record.images == count


def test_record_has_checksums_of_the_uncompressed_bytes() -> None:
    """The checksums of the uncompressed files that MNIST's authors published."""
    dataset = load_dataset("test")
    images, labels = dataset.images[:, 0], dataset.labels.astype(np.uint8)
    assert dataset.record.sha256 == {
        "t10k-images-idx3-ubyte": hashlib.sha256(idx_bytes(images)).hexdigest(),
        "t10k-labels-idx1-ubyte": hashlib.sha256(idx_bytes(labels)).hexdigest(),
    }
    assert dataset.record.sha256["t10k-labels-idx1-ubyte"].startswith("ff7bcfd416de")


def test_a_changed_bundled_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {**data.MNIST_SHA256, "t10k-labels-idx1-ubyte": "0" * 64}
    monkeypatch.setattr(data, "MNIST_SHA256", expected)
    with pytest.raises(DatasetError, match=r"t10k-labels.*the bundled data was changed"):
        load_dataset("test")


@pytest.mark.parametrize("size", [1, 3, 7, 10])
def test_chunks_are_the_images_in_order(size: int) -> None:
    dataset = dataset_of(np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1), [0] * 7)
    chunks = list(dataset.chunks(size))
    assert np.array_equal(np.concatenate(chunks), dataset.images[:])
    assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert 0 < len(chunks[-1]) <= size


def test_head_is_recorded_as_a_subset() -> None:
    whole = load_dataset("test")
    head = whole.head(250)
    assert (len(head), head.record.images, head.record.name) == (250, 250, "mnist[:250]")
    assert np.array_equal(head.images[:], whole.images[:250])
    assert np.array_equal(head.labels, whole.labels[:250])
    assert whole.head(10_000) is whole


@pytest.mark.parametrize("suffix", ["", ".gz"])
@settings(deadline=None)
@given(values=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)))
def test_idx_files_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, values: Pixels
) -> None:
    path, content = tmp_path_factory.mktemp("idx") / f"file{suffix}", idx_bytes(values)
    path.write_bytes(gzip.compress(content, mtime=0) if suffix else content)
    found = read_idx(path, dimensions=(values.ndim,))
    assert np.array_equal(found.values, values)
    assert found.values.dtype == np.uint8
    assert found.sha256 == hashlib.sha256(content).hexdigest()


GOOD = idx_bytes(IMAGES)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"not an IDX file: magic number 0x\(empty\)"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "not an IDX file: magic number 0x89504e47"),
    "little-endian magic": (b"\x03\x08\0\0" + GOOD[4:], "not an IDX file.*expected 0x00000803"),
    "unknown type": (idx_bytes(IMAGES, kind=0x0A), "not an IDX file"),
    "float32": (idx_bytes(IMAGES, kind=0x0D), "holds float32 values, expected uint8"),
    "one dimension": (idx_bytes(LABELS), "has 1 dimensions, expected 3 or 4"),
    "five dimensions": (idx_bytes(IMAGES[None, None]), "has 5 dimensions, expected 3 or 4"),
    "cut in the header": (GOOD[:9], "truncated in its header"),
    "cut in the values": (GOOD[:-1], "75 bytes, expected 76 .*truncated or its count is wrong"),
    "too long": (GOOD + b"\0", "(77|more than 76) bytes, expected 76 "),
    "no images": (idx_bytes(IMAGES[:0]), r"shape \[0, 4, 5\] holds no values"),
    "count too high": (idx_bytes(IMAGES, shape=(4, 4, 5)), "76 bytes, expected 96"),
    "count of all ones": (
        idx_bytes(IMAGES, shape=(2**32 - 1, 4, 5)),
        "76 bytes, expected|announces 85,899,345,900 bytes",
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", BAD)
def test_bad_idx_file_is_refused_and_named(tmp_path: Path, fault: str, packed: bool) -> None:
    content, message = BAD[fault]
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_idx(path, dimensions=(3, 4))
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_dimensions_whose_product_overflows_are_refused(tmp_path: Path, name: str) -> None:
    content = idx_bytes(IMAGES[:0], shape=(2**16,) * 4)
    (tmp_path / name).write_bytes(
        gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    )
    with pytest.raises(DatasetError):
        read_idx(tmp_path / name, dimensions=(3, 4))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD,
        gzip.compress(GOOD, mtime=0)[:-4],
        gzip.compress(GOOD, mtime=0)[:25],
        gzip.compress(GOOD, mtime=0) + b"more",
    ],
)
def test_incomplete_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty file contains no gzip member, so it is empty rather than truncated."""
    (tmp_path / "images.gz").write_bytes(content)
    with pytest.raises(DatasetError, match="incomplete gzip file" if content else "not an IDX"):
        read_idx(tmp_path / "images.gz", dimensions=(3,))


def test_no_more_is_unpacked_than_the_header_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked, read = [], gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        found = read(self, size)
        unpacked.append(len(found))
        return found

    gzip_bomb(tmp_path / "images.gz", idx_header(3, 4, 5), 1 << 24)
    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DatasetError, match="more than 76 bytes, expected 76"):
        read_idx(tmp_path / "images.gz", dimensions=(3,))
    assert sum(unpacked) == 77


def test_a_header_that_announces_more_than_fits_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gzip_bomb(tmp_path / "images.gz", idx_header(1 << 24, 1, 1), 1 << 24)
    memory = psutil.virtual_memory()._replace(available=1 << 23)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(DatasetError, match="its header announces 16,777,216 bytes"):
        read_idx(tmp_path / "images.gz", dimensions=(3,))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_idx_file_that_is_no_regular_file_is_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    put_irregular(tmp_path / name, kind)
    with pytest.raises(DatasetError, match=f"cannot read .*{IRREGULAR[kind]}"):
        read_idx(tmp_path / name, dimensions=(3,))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"cannot read .*No such file"):
        read_idx(tmp_path / "images", dimensions=(3,))


@pytest.mark.parametrize("place", [".", "raw", "FashionMNIST/raw"])
def test_all_folder_layouts_are_read(tmp_path: Path, place: str) -> None:
    """Files directly in the folder, and torchvision's layout given by its root or its `<Name>`."""
    write_pair(tmp_path / "mine" / place, GOOD, idx_bytes(LABELS))
    dataset = load_dataset("test", tmp_path / "mine")
    assert np.array_equal(dataset.images[:], IMAGES[:, None])
    assert dataset.labels.tolist() == [2, 0, 1]
    assert (dataset.record.name, dataset.record.images) == ("mine", 3)


@pytest.mark.parametrize("prefix", ["t10k", "test", "emnist-digits-test"])
def test_test_split_may_be_named_t10k_or_test(tmp_path: Path, prefix: str) -> None:
    write_pair(tmp_path, GOOD, idx_bytes(LABELS), prefix=prefix)
    write_pair(tmp_path, idx_bytes(IMAGES[:2]), idx_bytes(LABELS[:2]), prefix="train")
    assert len(load_dataset("test", tmp_path)) == 3
    assert len(load_dataset("train", tmp_path)) == 2


def test_colour_images_keep_their_channels(tmp_path: Path) -> None:
    colour = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    (tmp_path / "test-images-idx4-ubyte").write_bytes(idx_bytes(colour))
    (tmp_path / "test-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:2]))
    assert np.array_equal(load_dataset("test", tmp_path).images[:], colour)


def test_compressed_and_plain_copies_count_as_one_file(tmp_path: Path) -> None:
    write_pair(tmp_path, GOOD, idx_bytes(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"never looked at")
    assert len(load_dataset("test", tmp_path)) == 3


def test_ambiguous_files_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, GOOD, idx_bytes(LABELS), prefix="t10k")
    write_pair(tmp_path, GOOD, idx_bytes(LABELS), prefix="test")
    with pytest.raises(DatasetError, match="found t10k-images-idx3-ubyte, test-images-idx3-ubyte"):
        load_dataset("test", tmp_path)


def test_missing_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no folder .*nowhere"):
        load_dataset("test", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no test images; found nothing in it\. --data takes"):
        load_dataset("test", tmp_path)
    (tmp_path / "test-images-idx3-ubyte").write_bytes(GOOD)
    with pytest.raises(DatasetError, match=r"labels-idx1\*ubyte\[\.gz\], found none"):
        load_dataset("test", tmp_path)
    with pytest.raises(DatasetError, match=r"\*train\*images.*found none"):
        load_dataset("train", tmp_path)


def test_number_of_labels_must_match_images(tmp_path: Path) -> None:
    write_pair(tmp_path, GOOD, idx_bytes(LABELS[:2]))
    with pytest.raises(DatasetError, match=r"holds 3 images but .* holds 2 labels"):
        load_dataset("test", tmp_path)


def test_data_set_that_does_not_fit_the_checkpoint_is_refused() -> None:
    dataset = dataset_of(IMAGES[:, None], [2, 0, 1])
    check_fits(dataset, checkpoint_of((1, 4, 5), 3))
    check_fits(dataset, checkpoint_of((1, 4, 5), 10))
    for shape in ((1, 5, 4), (3, 4, 5)):
        with pytest.raises(DatasetError, match=r"images of shape \[1, 4, 5\], but .* expects"):
            check_fits(dataset, checkpoint_of(shape, 3))
    with pytest.raises(DatasetError, match=r"has label 2, out of range .* with 2 classes"):
        check_fits(dataset, checkpoint_of((1, 4, 5), 2))
    with pytest.raises(DatasetError, match=r"has label -1, out of range"):
        check_fits(dataset_of(IMAGES[:, None], [2, -1, 1]), checkpoint_of((1, 4, 5), 3))
    with pytest.raises(DatasetError, match=r"has label 3, .*count from 1: save them less 1"):
        check_fits(dataset_of(IMAGES[:, None], [2, 3, 1]), checkpoint_of((1, 4, 5), 3))


def torchvision_of(images: Pixels, spec: InputSpec) -> NDArray[np.float32]:
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform: Callable[..., object] = Compose([ToTensor(), Normalize(spec.mean, spec.std)])
    return np.stack([np.asarray(transform(np.moveaxis(image, 0, -1))) for image in images])


def test_normalised_pixels_equal_torchvision_bit_for_bit() -> None:
    """Real digits in grey, and as three channels with ImageNet's numbers."""
    images = load_dataset("test").images[:200].copy()
    grey = InputSpec(shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,))
    colours = InputSpec(shape=(3, 28, 28), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    for spec, pixels in ((grey, images), (colours, images.repeat(3, axis=1))):
        found = normalise(pixels, spec)
        assert found.dtype == np.float32
        assert np.array_equal(found, torchvision_of(pixels, spec))


@settings(deadline=None)
@given(values=hnp.arrays(np.uint8, (2, 3, 2, 2)), mean=st.floats(0, 1), std=st.floats(0.1, 2))
def test_each_channel_has_its_own_mean_and_std(values: Pixels, mean: float, std: float) -> None:
    spec = InputSpec(shape=(3, 2, 2), mean=(mean, 0.0, 0.5), std=(1.0, std, 0.25))
    exact = (values / 255 - np.reshape(spec.mean, (3, 1, 1))) / np.reshape(spec.std, (3, 1, 1))
    before = values.copy()
    assert normalise(values, spec) == pytest.approx(exact, abs=1e-5)
    assert np.array_equal(values, before)


def test_normalised_images_are_contiguous_for_any_input_layout() -> None:
    channels_last = np.zeros((2, 4, 5, 3), np.uint8)
    spec = InputSpec(shape=(3, 4, 5), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert normalise(np.moveaxis(channels_last, -1, 1), spec).flags.c_contiguous


@settings(deadline=None)
@given(
    samples=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
        elements=st.floats(-1e3, 1e3, width=32),
    )
)
def test_float_samples_of_any_rank_are_not_divided_by_255(samples: NDArray[np.float32]) -> None:
    channels = samples.shape[1]
    mean, std = tuple(range(channels)), tuple(range(1, channels + 1))
    spec = InputSpec(shape=samples.shape[1:], mean=mean, std=std, dtype="float32")
    column = (1, channels, *[1] * (samples.ndim - 2))
    mean32, std32 = (np.array(each, np.float32).reshape(column) for each in (mean, std))
    found = normalise(samples, spec)
    assert np.array_equal(found, (samples - mean32) / std32)
    assert found.dtype == np.float32
    as_they_are = InputSpec(
        shape=samples.shape[1:], mean=(0.0,) * channels, std=(1.0,) * channels, dtype="float32"
    )
    assert np.array_equal(normalise(samples, as_they_are), samples)


def torchvision_root(folder: Path) -> Path:
    """A root of `torchvision.datasets` with MNIST and Fashion-MNIST."""
    for name, first in (("MNIST", 0), ("FashionMNIST", 100)):
        place = folder / name / "raw"
        for prefix in ("train", "t10k"):
            write_pair(place, idx_bytes(IMAGES + first), idx_bytes(LABELS), prefix=prefix)
    return folder


def test_one_of_the_data_sets_in_a_root_of_torchvision_is_named(tmp_path: Path) -> None:
    root = torchvision_root(tmp_path)
    with pytest.raises(DatasetError, match=r"several data sets.*--data \S+/FashionMNIST"):
        load_dataset("test", root)
    found = load_dataset("test", root / "FashionMNIST")
    assert np.array_equal(found.images[:], IMAGES[:, None] + 100)
    assert found.record.name == "FashionMNIST"


def test_one_set_of_emnist_is_named_by_the_last_part_of_the_path(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    for name, first in (("balanced", 0), ("letters", 100)):
        for split in ("train", "test"):
            prefix = f"emnist-{name}-{split}"
            write_pair(raw, idx_bytes(IMAGES + first), idx_bytes(LABELS), prefix=prefix)
    with pytest.raises(DatasetError, match=r"name one of them, such as --data \S+EMNIST/balanced"):
        load_dataset("test", tmp_path / "EMNIST")
    found = load_dataset("test", tmp_path / "EMNIST" / "letters")
    assert np.array_equal(found.images[:], IMAGES[:, None] + 100)
    assert found.record.name == "letters"


def test_one_message_names_all_layouts_and_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "more").mkdir()
    with pytest.raises(DatasetError) as caught:
        load_dataset("test", tmp_path)
    message = str(caught.value)
    for words in ("more/, notes.txt", "<class>/<picture>", "IDX", "CIFAR-10", ".npz", ".csv"):
        assert words in message
    with pytest.raises(DatasetError, match=r"found a file named notes\.txt"):
        load_dataset("test", tmp_path / "notes.txt")
