"""Hostile files end every command with one line and exit code 2, and never make it wait."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import CHECKPOINT, Cli, write_idx, write_images
from hostile import IRREGULAR, gzip_bomb, idx_header, large_file, move_out, put_irregular
from safetensors.torch import load_file, save_file

from toolkit.data import load_dataset
from toolkit.files import RECORD_BYTES, RESULTS_BYTES
from toolkit.trust_store.factories import REFERENCE_FACTORY

pytestmark = pytest.mark.timeout(600)  # such a file may hang the command

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IMPORT = ("--model", REFERENCE_FACTORY, "--input-shape", "1,28,28", "--classes", 10)


@dataclass(frozen=True)
class Place:
    """A file that a command reads: `damaged` may be changed before `command` is run."""

    damaged: Path
    command: tuple[object, ...]


@pytest.fixture
def places(own_exports: Path, own_checkpoint: Path, tmp_path: Path) -> Callable[[str], Place]:
    """Healthy files for one command; each place is a new copy."""
    data = tmp_path / "data"
    data.mkdir()
    images = load_dataset("test").images[:20]
    write_idx(data / IMAGES, np.asarray(images[:, 0]))
    write_idx(data / LABELS, load_dataset("test").labels[:20].astype(np.uint8))
    pictures = write_images(tmp_path / "pictures", np.asarray(images[:10]), range(10))
    shutil.copy(CHECKPOINT / "weights.safetensors", tmp_path / "w.safetensors")
    torch.save(load_file(CHECKPOINT / "weights.safetensors"), tmp_path / "w.pt")
    results = tmp_path / "results.json"
    results.write_text("{}")
    verify, on = ("verify", own_exports), ("--checkpoint", own_checkpoint)
    out = ("--out", tmp_path / "out", "--mean", 0.1307, "--std", 0.3081)

    def place(name: str) -> Place:
        found = {
            "manifest": Place(own_exports / "manifest.json", verify),
            "artifact": Place(own_exports / "mnist-cnn.onnx", verify),
            "record": Place(own_checkpoint / "checkpoint.json", (*verify, *on)),
            "weights": Place(own_checkpoint / "weights.safetensors", (*verify, *on)),
            "record to export": Place(own_checkpoint / "checkpoint.json", ("export", *on[1:])),
            "images": Place(data / IMAGES, (*verify, "--data", data)),
            "labels": Place(data / LABELS, (*verify, "--data", data)),
            "picture": Place(
                pictures / "test" / "class 0" / "0000.png", (*verify, "--data", pictures)
            ),
            "results": Place(results, ("compare", results, results)),
            "settings": Place(results, ("bench", "--settings", results)),
            "state_dict": Place(tmp_path / "w.pt", ("import", tmp_path / "w.pt", *IMPORT, *out)),
            "safetensors": Place(
                tmp_path / "w.safetensors", ("import", tmp_path / "w.safetensors", *IMPORT, *out)
            ),
        }
        return found[name]

    return place


PLACES = (
    *("manifest", "artifact", "record", "weights", "record to export", "images", "labels"),
    *("picture", "results", "settings", "state_dict", "safetensors"),
)
INNER = ("manifest", "artifact", "record", "weights")  # files of a folder that a user names


def one_line(result: Result) -> str:
    """Return the only line of a refusal."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "internal error" not in line
    return str(line)


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", PLACES)
def test_a_file_that_is_not_one_is_refused(
    places: Callable[[str], Place], cli: Cli, name: str, kind: str
) -> None:
    place = places(name)
    put_irregular(place.damaged, kind)
    line = one_line(cli(*place.command))
    if name in (*INNER, "record to export") and kind == "/dev/zero":
        assert "it is a link to /dev/zero, outside" in line
    elif kind != "a folder" or name not in ("results", "settings", "artifact"):  # may be folders
        assert IRREGULAR[kind] in line


@pytest.mark.parametrize("name", INNER)
def test_a_link_that_leaves_its_folder_is_refused(
    places: Callable[[str], Place], cli: Cli, tmp_path: Path, name: str
) -> None:
    """Although the bytes are right."""
    place = places(name)
    move_out(place.damaged, tmp_path / "elsewhere")
    assert "it is a link to" in one_line(cli(*place.command))


@pytest.mark.parametrize("name", PLACES)
def test_an_empty_file_is_refused(places: Callable[[str], Place], cli: Cli, name: str) -> None:
    place = places(name)
    place.damaged.write_bytes(b"")
    one_line(cli(*place.command))


JSON = ("manifest", "record", "results", "settings")


@pytest.mark.parametrize("name", JSON)
def test_deep_json_is_refused(places: Callable[[str], Place], cli: Cli, name: str) -> None:
    place = places(name)
    place.damaged.write_text('{"schema_version":' + "[" * 200_000)
    assert "nested too deeply" in one_line(cli(*place.command))


@pytest.mark.parametrize("name", JSON)
def test_huge_json_is_refused_before_it_is_read(
    places: Callable[[str], Place], cli: Cli, name: str
) -> None:
    place = places(name)
    large_file(place.damaged, max(RECORD_BYTES, RESULTS_BYTES) + 1)
    assert "bytes, expected at most" in one_line(cli(*place.command))


def test_a_control_character_in_a_record_does_not_reach_the_terminal(
    places: Callable[[str], Place], cli: Cli
) -> None:
    place = places("manifest")
    text = place.damaged.read_text().replace('"mnist-cnn.onnx"', r'"a\u001b[2J\ud800.onnx"')
    place.damaged.write_text(text)
    assert r"a\x1b[2J\ud800.onnx" in one_line(cli(*place.command))


def test_a_gzip_bomb_is_unpacked_no_further_than_its_header_says(
    places: Callable[[str], Place], cli: Cli
) -> None:
    place = places("images")
    place.damaged.unlink()
    gzip_bomb(place.damaged.with_suffix(".gz"), idx_header(20, 28, 28), 1 << 28)
    assert "more than 15696 bytes, expected 15696" in one_line(cli(*place.command))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_header_that_announces_too_much_is_refused(
    places: Callable[[str], Place], cli: Cli, suffix: str
) -> None:
    place = places("images")
    place.damaged.unlink()
    path = place.damaged.with_name(f"{place.damaged.name}{suffix}")
    if suffix:
        gzip_bomb(path, idx_header(10**6, 1000, 1000), 1 << 20)
    else:
        path.write_bytes(idx_header(10**6, 1000, 1000) + bytes(1 << 20))
    assert "shape [1000000, 1000, 1000]" in one_line(cli(*place.command))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool, torch.uint8])
@pytest.mark.parametrize("name", ["state_dict", "safetensors"])
def test_weights_of_another_kind_of_dtype_are_refused(
    places: Callable[[str], Place], cli: Cli, name: str, dtype: torch.dtype
) -> None:
    place = places(name)
    state = load_file(CHECKPOINT / "weights.safetensors")
    state["fc2.bias"] = state["fc2.bias"].to(dtype)
    if name == "safetensors":
        save_file(state, place.damaged)
    else:
        torch.save(state, place.damaged)
    kind = str(dtype).removeprefix("torch.")
    assert f"fc2.bias is {kind}, expected float32" in one_line(cli(*place.command))


def test_a_pixel_bomb_is_refused(places: Callable[[str], Place], cli: Cli) -> None:
    place = places("picture")
    content = bytearray(place.damaged.read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)  # width and height
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    place.damaged.write_bytes(content)
    assert "DecompressionBombError" in one_line(cli(*place.command))
