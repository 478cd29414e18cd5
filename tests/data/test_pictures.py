"""Pictures are read as they are meant: one decision for a data set; nothing is lost in silence."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from datasets import checkpoint_of, picture, pixels_of, put_pictures
from numpy.typing import NDArray
from PIL import Image

from toolkit.data import load_dataset, survey
from toolkit.errors import DatasetError, ToolkitWarning
from toolkit.schema import Checkpoint

GREY = pixels_of(0, 8, 8)
GREY[0, :2] = (0, 255)
MODELS = {channels: checkpoint_of((channels, 8, 8), 2) for channels in (1, 3)}


def put(folder: Path, some: list[Image.Image], *, ending: str = "png") -> Path:
    """Write pictures of two classes as test images."""
    for number, each in enumerate(some):
        place = folder / "test" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        each.save(place / f"{number}.{ending}")
    return folder


def read(folder: Path, model: Checkpoint | None) -> tuple[NDArray[np.uint8], str]:
    """The pixels, and all warnings as one text."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        images = load_dataset("test", folder, checkpoint=model).images[:]
    assert all(issubclass(each.category, ToolkitWarning) for each in found)
    return images, "; ".join(str(each.message) for each in found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_to_8_bits_and_said(
    tmp_path: Path, ending: str, channels: int
) -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    images, said = read(put(tmp_path, [deep] * 2, ending=ending), MODELS[channels])
    assert np.array_equal(images, np.broadcast_to(GREY, (2, channels, 8, 8)))
    assert "2 of 2 pictures: 16 bits per value, scaled to 8 bits" in said


def test_16_bits_between_two_steps_are_rounded(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    images, _ = read(put(tmp_path, [Image.fromarray(values)] * 2), MODELS[1])
    assert np.array_equal(images[0, 0], np.rint(values / 257))


def test_16_bit_pictures_that_use_few_of_them_are_said(tmp_path: Path) -> None:
    dark = Image.fromarray(GREY.astype(np.uint16) * 16)
    _, said = read(put(tmp_path, [dark] * 2), MODELS[1])
    assert "no value above 4,080, so they will be nearly black" in said


def png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """An RGB picture with 16 bits per value, which Pillow reads but does not write."""
    import struct
    import zlib

    height, width, _ = pixels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checked

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_16_bit_colours_are_scaled_and_said(tmp_path: Path) -> None:
    colours = pixels_of(1, 8, 8, 3)
    content = png_of_16_bits(colours.astype(np.uint16) * 257)
    put_pictures(tmp_path / "test", {"a": [content], "b": [content]})
    images, said = read(tmp_path, MODELS[3])
    assert np.array_equal(images[0], colours.transpose(2, 0, 1))
    assert "16 bits per value" in said


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floats"), (np.int32, "32-bit numbers")])
def test_pictures_of_an_unknown_range_are_refused_by_name(
    tmp_path: Path, dtype: type[np.number], words: str
) -> None:
    folder = put(tmp_path, [Image.fromarray((GREY / 255).astype(dtype))] * 2, ending="tif")
    with pytest.raises(DatasetError, match=rf"2 of 2 pictures .*0\.tif: its pixels are {words}"):
        load_dataset("test", folder, checkpoint=MODELS[3])


@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_grey_picture_among_colours_is_read_as_colours(tmp_path: Path, place: int) -> None:
    some = [picture(number) for number in range(4)]
    some[place] = Image.fromarray(GREY)
    for model in (MODELS[3], None):
        images, said = read(put(tmp_path, some), model)
        assert images.shape == (4, 3, 8, 8)
        assert said == ""
    order = [0, 2, 1, 3]  # by class
    assert np.array_equal(images[order.index(place)], np.broadcast_to(GREY, (3, 8, 8)))


def test_channels_are_one_decision_for_both_splits(tmp_path: Path) -> None:
    grey, colour = [Image.fromarray(GREY)], [picture(1)]
    put_pictures(tmp_path / "train", {"a": grey, "b": grey})
    put_pictures(tmp_path / "test", {"a": grey, "b": colour})
    assert load_dataset("train", tmp_path).images.shape == (2, 3, 8, 8)
    assert load_dataset("test", tmp_path).images.shape == (2, 3, 8, 8)


def test_colours_for_a_grey_model_are_said(tmp_path: Path) -> None:
    images, said = read(put(tmp_path, [picture(0), Image.fromarray(GREY)]), MODELS[1])
    assert images.shape == (2, 1, 8, 8)
    assert np.array_equal(images[0, 0], np.asarray(picture(0).convert("L")))
    assert "1 of 2 pictures: in colour, read as grey" in said


@pytest.mark.parametrize(
    ("mode", "ending", "words"),
    [
        ("LA", "png", "transparency is dropped"),
        ("RGBA", "png", "transparency is dropped"),
        ("P", "png", "a palette, read as the colours in it"),
        ("CMYK", "jpg", "CMYK, converted to RGB without a colour profile"),
    ],
)
def test_what_a_conversion_drops_is_said(
    tmp_path: Path, mode: str, ending: str, words: str
) -> None:
    some = [picture(number).convert(mode) for number in range(2)]
    folder = put(tmp_path, some, ending=ending)
    images, said = read(folder, MODELS[3])
    assert f"2 of 2 pictures: {words} (the first: 0.{ending})" in said
    with Image.open(folder / "test" / "a" / f"0.{ending}") as image:  # as ImageFolder does
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(images[0], expected.transpose(2, 0, 1))


def test_a_transparent_palette_is_said_without_words_of_pillow(tmp_path: Path) -> None:
    some = picture(0).convert("P")
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    some.save(folder / "0.png", transparency=bytes(range(256)))
    images, said = read(tmp_path, checkpoint_of((3, 8, 8), 1))
    assert np.array_equal(images[0], np.asarray(some.convert("RGB")).transpose(2, 0, 1))
    assert "transparency" in said


def test_exif_orientation_is_not_applied_and_said(tmp_path: Path) -> None:
    turned = picture(0, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, name in enumerate("ab"):
        place = tmp_path / "test" / name
        place.mkdir(parents=True)
        turned.save(place / "0.png", exif=exif if number else b"")
    images, said = read(tmp_path, MODELS[3])
    assert "1 of 2 pictures: their EXIF orientation is not applied" in said
    assert np.array_equal(images[1], images[0])


def test_damaged_files_are_named_with_their_count_before_the_work(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    whole = buffer.getvalue()
    some = [whole, b"", whole[:-30], b"text", whole]
    put_pictures(tmp_path / "test", {"a": some, "b": [whole]})
    with pytest.raises(DatasetError) as caught:
        load_dataset("test", tmp_path, checkpoint=MODELS[3])
    message = str(caught.value)
    assert "3 of 6 pictures cannot be used" in message
    for name in ("1.png", "2.png", "3.png"):
        assert name in message
    assert "0.png" not in message


def test_a_jpeg_that_is_cut_off_is_found_by_its_end(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(0, 64, 64).save(buffer, "JPEG")
    for content, good in ((buffer.getvalue(), True), (buffer.getvalue()[:-400], False)):
        place = tmp_path / "test" / "a"
        place.mkdir(parents=True, exist_ok=True)
        (place / "0.jpg").write_bytes(content)
        model = checkpoint_of((3, 64, 64), 1)
        if good:
            assert load_dataset("test", tmp_path, checkpoint=model).images[:].any()
        else:
            with pytest.raises(DatasetError, match=r"0\.jpg: cannot be read as an image"):
                load_dataset("test", tmp_path, checkpoint=model)


def test_of_a_large_set_some_headers_are_read_and_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_MOST_HEADERS", 3)
    folder = put(tmp_path, [picture(number) for number in range(9)])
    found = load_dataset("test", folder, checkpoint=MODELS[3])
    assert "the headers of 3 of 9 pictures were read" in found.record.notes
    assert found.images[:].shape == (9, 3, 8, 8)


def test_progress_is_said_if_it_takes_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int, int]] = []

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        calls.append((label, done, total))

    folder = put(tmp_path, [picture(number) for number in range(4)])
    load_dataset("test", folder, checkpoint=MODELS[3], progress=progress)
    assert calls == []
    monkeypatch.setattr(survey, "_QUIET_S", 0.0)
    monkeypatch.setattr(survey, "_EVERY", 2)
    load_dataset("test", folder, checkpoint=MODELS[3], progress=progress)
    assert calls == [("pictures", 2, 4), ("pictures", 4, 4), ("pictures", 4, 4)]


def test_how_pictures_are_read_is_recorded(tmp_path: Path) -> None:
    folder = put(tmp_path, [picture(0), Image.fromarray(GREY)])
    notes = load_dataset("test", folder, checkpoint=MODELS[3]).record.notes
    assert notes == ("pictures are read as RGB, 8 bits per value (in the files: 1 L, 1 RGB)",)
