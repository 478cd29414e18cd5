"""`toolkit import`: its options, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from conftest import Cli
from torch import nn

from toolkit.checkpoints.storage import read_checkpoint
from toolkit.schema import InputSpec, ModelSpec


def net(classes: int = 10, *, scale: float = 1.0, wide: bool = False, name: str = "") -> nn.Module:
    """The factory that these tests name."""
    width = 8 if wide else 4
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )


def table() -> nn.Module:
    return nn.Linear(13, 3)


MODEL = ("--model", "test_import:net")
INPUT = ("--input-shape", "3,8,8", "--mean", 0.5, "--std", "0.25")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def imported(cli: Cli, weights: Path, *options: object) -> Result:
    return cli("import", weights, *options, "--out", weights.parent / "out", "--force")


def test_one_mean_and_std_are_those_of_all_channels(cli: Cli, weights: Path) -> None:
    done = imported(cli, weights, *MODEL, *INPUT, "--classes", 10)
    assert done.exit_code == 0, done.stderr
    assert "next: toolkit export" in done.stdout
    record = read_checkpoint(weights.parent / "out")
    assert record.input == InputSpec(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    assert record.class_names == ()


def test_arguments_of_the_factory_are_recorded(cli: Cli, weights: Path) -> None:
    torch.save(net(3, wide=True).state_dict(), weights)
    options = ("classes=3", "scale=0.5", "wide=true", "name=small net")
    arguments = [each for text in options for each in ("--model-argument", text)]
    done = imported(cli, weights, *MODEL, *arguments, *INPUT, "--classes", 3)
    assert done.exit_code == 0, done.stderr
    assert read_checkpoint(weights.parent / "out").model == ModelSpec(
        factory="test_import:net",
        arguments={"classes": 3, "scale": 0.5, "wide": True, "name": "small net"},
    )
    again = cli("export", weights.parent / "out", "--out", weights.parent / "x", "--format", "onx")
    assert "unknown format" in again.stderr  # and not: not trusted


@pytest.mark.parametrize("text", ["v1_1", "1_1", "²", "nan", "1e999", "9" * 5000, "--5"])
def test_an_argument_that_only_resembles_a_number_stays_text(
    cli: Cli, weights: Path, text: str
) -> None:
    options = ("--model-argument", f"name={text}")
    done = imported(cli, weights, *MODEL, *options, *INPUT, "--classes", 10)
    assert done.exit_code == 0, done.stderr
    assert read_checkpoint(weights.parent / "out").model.arguments == {"name": text}


@pytest.mark.parametrize("text", ["²", "--5", "9" * 5000])
def test_an_output_that_only_resembles_a_number_is_a_name(
    cli: Cli, weights: Path, text: str
) -> None:
    done = imported(cli, weights, *MODEL, *INPUT, "--classes", 10, f"--output={text}")
    assert done.exit_code == 2
    assert "internal error" not in done.stderr
    assert "output" in done.stderr


def test_more_class_names_than_a_path_may_have_characters(cli: Cli, weights: Path) -> None:
    torch.save(net(1000).state_dict(), weights)
    names = ",".join(f"class {number}" for number in range(1000))
    argument = ("--model-argument", "classes=1000")
    done = imported(cli, weights, *MODEL, *argument, *INPUT, "--class-names", names)
    assert done.exit_code == 0, done.stderr
    assert len(read_checkpoint(weights.parent / "out").class_names) == 1000


@pytest.mark.parametrize("text", ["classes", "=3", "a b=3", "weights=None"])
def test_an_argument_that_cannot_be_read_is_refused(cli: Cli, weights: Path, text: str) -> None:
    done = imported(cli, weights, *MODEL, *INPUT, "--classes", 10, "--model-argument", text)
    assert done.exit_code == 2
    assert "--model-argument" in done.stderr


def test_options_of_the_preprocessing_are_recorded(cli: Cli, weights: Path) -> None:
    done = imported(
        *(cli, weights, *MODEL, "--classes", 10, "--mean", "0.1,0.2,0.3", "--std", 1),
        *("--resize", "12,10", "--crop", 8, "--interpolation", "bicubic", "--no-antialias"),
        *("--colors", "bgr"),
    )
    assert done.exit_code == 0, done.stderr
    assert read_checkpoint(weights.parent / "out").input == InputSpec(
        shape=(3, 8, 8),
        mean=(0.1, 0.2, 0.3),
        std=(1.0,) * 3,
        colours="BGR",
        resize=(12, 10),
        crop=(8, 8),
        interpolation="bicubic",
        antialias=False,
    )


def test_torchvision_model_and_preset_need_no_shape_mean_or_std(cli: Cli, weights: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(num_classes=7).state_dict(), weights)
    done = imported(
        *(cli, weights, "--model", "torchvision.models:squeezenet1_1", "--classes", 7),
        *("--model-argument", "num_classes=7", "--preprocess", "torchvision:squeezenet1_1"),
        *("--crop", 64, "--resize", 72),
    )
    assert done.exit_code == 0, done.stderr
    record = read_checkpoint(weights.parent / "out")
    assert (record.input.shape, record.input.resize) == ((3, 64, 64), (72,))
    assert record.input.mean == (0.485, 0.456, 0.406)
    assert record.class_names == ()  # there are 1000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((*MODEL, "--classes", 10, "--mean", 0, "--std", 1), "--input-shape missing"),
        ((*MODEL, "--classes", 10, "--input-shape", "3,8,8"), "--mean and --std missing"),
        ((*MODEL, *INPUT), "--classes missing"),
        ((*INPUT, "--classes", 10), "Missing option '--model'"),
        ((*MODEL, *INPUT, "--classes", 1), "--classes 1: expected 2 or more; a binary model"),
        ((*MODEL, *INPUT, "--classes", 10, "--input-shape", "1,16000"), "not that of an image"),
        ((*MODEL, *INPUT, "--classes", 10, "--preprocess", "nothing"), "expected torchvision:MOD"),
        ((*MODEL, *INPUT, "--classes", 10, "--key", "ema"), "--key 'ema': expected no key"),
        ((*MODEL, *INPUT, "--classes", 10, "--output", "logits"), "has no output 'logits'"),
        ((*MODEL, *INPUT, "--class-names", "cat"), "'cat' is no file"),
        ((*MODEL, *INPUT, "--class-names", "a,a"), "class names: 'a' is there twice"),
        ((*MODEL, *INPUT, "--class-names", "a,"), "class names: a name is empty"),
        ((*MODEL, *INPUT, "--class-names", "a,b", "--classes", 10), "2 class names for 10 classes"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_line(
    cli: Cli, weights: Path, options: tuple[object, ...], says: str
) -> None:
    done = imported(cli, weights, *options)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (weights.parent / "out").exists()


NAMES = [f"class {index}" for index in range(10)]
FILES = {
    "names.txt": "\n".join(NAMES) + "\n",
    "list.json": json.dumps(NAMES),
    "id2label.json": json.dumps({str(index): name for index, name in enumerate(NAMES)}),
    "class_to_idx.json": json.dumps({name: index for index, name in enumerate(NAMES)}),
}


@pytest.mark.parametrize("file", [*FILES, None])
def test_class_names_are_recorded_in_the_order_of_the_logits(
    cli: Cli, weights: Path, file: str | None
) -> None:
    given: object = ", ".join(NAMES)
    if file is not None:
        given = weights.parent / file
        given.write_text(FILES[file])
    done = imported(cli, weights, *MODEL, *INPUT, "--class-names", given)
    assert done.exit_code == 0, done.stderr
    record = read_checkpoint(weights.parent / "out")
    assert (record.class_names, record.classes) == (tuple(NAMES), 10)


@pytest.mark.parametrize("content", ["{", '{"a": 5}', "7", '{"1": "a"}', "[1, 2]"])
def test_a_file_that_holds_no_names_is_refused(cli: Cli, weights: Path, content: str) -> None:
    path = weights.parent / "names.json"
    path.write_text(content)
    done = imported(cli, weights, *MODEL, *INPUT, "--class-names", path)
    assert done.exit_code == 2
    assert "expected one name per line, or JSON" in done.stderr


def test_float_samples_of_any_shape(cli: Cli, weights: Path) -> None:
    torch.save(table().state_dict(), weights)
    done = imported(
        *(cli, weights, "--model", "test_import:table", "--input-shape", 13, "--classes", 3),
        *("--input-dtype", "float32"),
    )
    assert done.exit_code == 0, done.stderr
    assert read_checkpoint(weights.parent / "out").input == InputSpec(
        shape=(13,), mean=(0.0,) * 13, std=(1.0,) * 13, dtype="float32"
    )


def test_what_was_done_to_the_weights_is_printed(cli: Cli, weights: Path) -> None:
    torch.save({"epoch": 3, "model": net().state_dict()}, weights)
    done = imported(cli, weights, *MODEL, *INPUT, "--classes", 10)
    assert done.exit_code == 0, done.stderr
    assert f"Warning: {weights}: the weights under the key 'model' are used" in done.stderr


def test_class_names_may_begin_with_a_byte_order_mark(cli: Cli, weights: Path) -> None:
    names = [f"class {number}" for number in range(10)]
    for file, text in (("a.txt", "\r\n".join(names)), ("a.json", json.dumps(names))):
        path = weights.parent / file
        path.write_bytes(text.encode("utf-8-sig"))
        done = imported(cli, weights, *MODEL, *INPUT, "--class-names", path)
        assert done.exit_code == 0, done.stderr
        assert read_checkpoint(weights.parent / "out").class_names == tuple(names)


def test_empty_file_of_class_names_is_refused(cli: Cli, weights: Path) -> None:
    (weights.parent / "empty.txt").write_text("\n")
    done = imported(cli, weights, *MODEL, *INPUT, "--class-names", weights.parent / "empty.txt")
    assert done.exit_code == 2
    assert "empty.txt is empty; expected one name per line" in done.stderr


def test_mean_of_pixels_up_to_255_is_refused_with_the_right_values(cli: Cli, weights: Path) -> None:
    values = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375")
    done = imported(cli, weights, *MODEL, *INPUT[:2], *values, "--classes", 10)
    assert done.exit_code == 2
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in done.stderr
