"""Preprocessing of torchvision → the input spec, or a refusal that names the transform."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

from toolkit.checkpoints.input_spec import Preprocessing, check_input_spec
from toolkit.checkpoints.presets import read_preprocessing
from toolkit.errors import CheckpointError, ToolkitWarning
from toolkit.schema import InputSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = v2.ToDtype(torch.float32, scale=True)
IMAGENET = InputSpec(shape=(3, 224, 224), mean=MEAN, std=STD, resize=(256,), crop=(224, 224))


@pytest.mark.parametrize(
    "name", ["torchvision:MobileNet_V3_Small_Weights.IMAGENET1K_V1", "torchvision:resnet18"]
)
def test_preset_of_torchvision_is_read_without_a_download(name: str) -> None:
    found = read_preprocessing(name)
    assert found.spec() == IMAGENET
    assert len(found.class_names) == 1000
    assert found.class_names[0] == "tench"


def test_preset_with_other_sizes_and_interpolation() -> None:
    spec = read_preprocessing("torchvision:EfficientNet_B3_Weights.IMAGENET1K_V1").spec()
    assert (spec.resize, spec.crop, spec.interpolation) == ((320,), (300, 300), "bicubic")


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:nothing",
        "torchvision:Nothing_Weights.DEFAULT",
        "torchvision:ResNet18_Weights.NOTHING",
        "torchvision",
        "torchvision:fcn_resnet50",
        "torchvision:fasterrcnn_resnet50_fpn",
    ],
)
def test_preset_that_is_none_of_a_classifier_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"--preprocess '?{name}"):
        read_preprocessing(name)


USUAL = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
WRITTEN_DOWN: dict[str, tuple[object, InputSpec]] = {
    "v1": (transforms.Compose([*USUAL, transforms.Normalize(MEAN, STD)]), IMAGENET),
    "v2": (
        v2.Compose(
            [
                v2.RGB(),
                v2.Resize(256),
                v2.CenterCrop(224),
                v2.ToImage(),
                SCALE,
                v2.Normalize(MEAN, STD),
            ]
        ),
        IMAGENET,
    ),
    "nested": (
        nn.Sequential(
            v2.ToImage(),
            v2.Compose([v2.Resize([256]), v2.CenterCrop([224])]),
            SCALE,
            v2.Normalize(list(MEAN), list(STD)),
        ),
        IMAGENET,
    ),
    "without a crop": (
        transforms.Compose(
            [
                transforms.Resize((32, 48), InterpolationMode.NEAREST, antialias=False),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float32),
            ]
        ),
        InputSpec(
            shape=(3, 32, 48),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            resize=(32, 48),
            interpolation="nearest",
            antialias=False,
        ),
    ),
    "grey": (
        v2.Compose(
            [
                v2.Grayscale(),
                v2.CenterCrop(28),
                transforms.ToTensor(),
                v2.Normalize((0.1307,), (0.3081,)),
            ]
        ),
        InputSpec(shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,), crop=(28, 28)),
    ),
    "pixels of 0..255": (
        v2.Compose(
            [
                v2.CenterCrop(24),
                v2.ToImage(),
                v2.ToDtype(torch.uint8, scale=True),
                v2.ToDtype(torch.float32),
                v2.Normalize((127.5, 127.5, 0.0), (255.0, 51.0, 255.0)),
            ]
        ),
        InputSpec(shape=(3, 24, 24), mean=(0.5, 0.5, 0.0), std=(1.0, 0.2, 1.0), crop=(24, 24)),
    ),
}


@pytest.mark.parametrize("kind", WRITTEN_DOWN)
def test_transform_is_written_down(kind: str) -> None:
    transform, spec = WRITTEN_DOWN[kind]
    found = read_preprocessing(transform).spec()
    assert found == spec
    check_input_spec(found, "here")


def test_written_transform_gives_the_same_pixels() -> None:
    """Scale, mean and std are those of the transform, for pixels of 0..1 and of 0..255."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    for kind in ("pixels of 0..255", "v1"):
        transform, spec = WRITTEN_DOWN[kind]
        steps = [each for each in transform.transforms if "Resize" not in repr(each)]  # type: ignore[attr-defined]
        steps = [each for each in steps if "Crop" not in repr(each)]
        expected = v2.Compose(steps)(Image.fromarray(pixels))
        scaled = torch.from_numpy(pixels).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (spec.mean, spec.std))
        assert torch.allclose((scaled - mean) / std, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([v2.RandomHorizontalFlip(), *USUAL], "RandomHorizontalFlip is random, so it is for train"),
        ([v2.Lambda(lambda x: x), *USUAL], "Lambda cannot be written down"),
        ([v2.Pad(2), *USUAL], "Pad cannot be written down"),
        ([v2.Resize(256), v2.CenterCrop(224)], "no step that scales pixels"),
        ([v2.CenterCrop(224), v2.Resize(256), SCALE], "it resizes twice, or after the crop"),
        ([*USUAL, v2.CenterCrop(2)], "crops twice"),
        ([v2.Resize(9, max_size=12), SCALE], "max_size cannot be written down"),
        ([v2.Resize(9, InterpolationMode.BOX), SCALE], "interpolation 'box' cannot be written"),
        ([v2.Grayscale(3), SCALE], "Grayscale with 3 channels"),
        ([SCALE, v2.Normalize(MEAN, STD), v2.Normalize(MEAN, STD)], "normalises twice"),
        ([v2.ToDtype(torch.float16, scale=True)], r"ToDtype to torch\.float16 cannot be"),
        ([v2.ToDtype({torch.Tensor: torch.float32}, scale=True)], "ToDtype to .* cannot be"),
        ([lambda x: x], "function cannot be written down"),
    ],
)
def test_transform_that_cannot_be_written_down_is_refused_by_name(
    steps: list[object], says: str
) -> None:
    with pytest.raises(CheckpointError, match=f"--preprocess Compose: .*{says}"):
        read_preprocessing(transforms.Compose(steps))


def test_resize_of_floats_is_said() -> None:
    steps = transforms.Compose([transforms.ToTensor(), transforms.Resize((8, 8))])
    with pytest.warns(ToolkitWarning, match="resizes after scaling"):
        assert read_preprocessing(steps).spec().resize == (8, 8)


TRANSFORM = transforms.Compose([*USUAL, transforms.Normalize(MEAN, STD)])


def make_transform() -> object:
    return TRANSFORM


def failing_transform() -> object:
    raise KeyError("no such variant")


@pytest.mark.parametrize("name", ["TRANSFORM", "make_transform"])
def test_transform_of_a_module_is_read(name: str) -> None:
    assert read_preprocessing(f"test_presets:{name}").spec() == IMAGENET


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("test_presets:nothing", "AttributeError: .*nothing"),
        ("no_such_module:x", "ModuleNotFoundError: .*no_such_module"),
        ("test_presets:failing_transform", "KeyError: 'no such variant'"),
        ("test_presets:MEAN", "TypeError: it is a tuple"),
    ],
)
def test_transform_that_is_not_found_is_refused(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=f"--preprocess {name}: {says}.*; expected package"):
        read_preprocessing(name)


def test_transform_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_transform.py").write_text(
        "from torchvision.transforms import v2\n"
        "import torch\n"
        "made = v2.Compose([v2.CenterCrop(8), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOOLKIT_FACTORY_FOLDERS", "[]")
    assert read_preprocessing("my_transform:made").spec().crop == (8, 8)


def test_options_override_a_preprocessing() -> None:
    given = Preprocessing(crop=(192,), resize=(219,), colours="BGR", antialias=False, mean=(0.5,))
    found = given.over(read_preprocessing("torchvision:resnet18")).spec()
    assert found == InputSpec(
        shape=(3, 192, 192),
        mean=(0.5,) * 3,
        std=STD,
        colours="BGR",
        resize=(219,),
        crop=(192, 192),
        antialias=False,
    )


def test_float_samples_are_used_as_they_are_by_default() -> None:
    assert Preprocessing(shape=(1, 16000), dtype="float32").spec() == InputSpec(
        shape=(1, 16000), mean=(0.0,), std=(1.0,), dtype="float32"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Preprocessing(shape=(3, 8, 8)), "--mean and --std missing; .*--preprocess"),
        (Preprocessing(shape=(3, 8, 8), mean=(0.5,)), "--std missing"),
        (Preprocessing(mean=(0.5,), std=(0.5,)), "--input-shape missing; .*--preprocess"),
        (Preprocessing(mean=(0.5,), std=(0.5,), resize=(8,)), "--input-shape missing"),
    ],
)
def test_what_is_missing_is_named_by_its_option(given: Preprocessing, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        given.spec()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": (1, 16000)}, r"is not that of an image .*audio.*--input-dtype float32"),
        ({"shape": (13,)}, r"is not that of an image .*features \[F\]"),
        ({"shape": (2, 3, 8, 8)}, "is not that of an image"),
        ({"shape": ()}, r"input shape \[\]"),
        ({"crop": (7, 8)}, r"crop \[7, 8\] is not the size of the input, \[8, 8\]"),
        ({"resize": (9,)}, r"resize \[9\] does not give .*add --crop 8,8"),
        ({"resize": (7,), "crop": (8, 8)}, r"resize \[7\] is smaller than crop \[8, 8\]"),
        ({"resize": (9, 7), "crop": (8, 8)}, "is smaller than crop"),
        ({"resize": (1, 2, 3)}, "expected one or two positive sizes"),
        ({"resize": (0,)}, "expected one or two positive sizes"),
        ({"dtype": "float32", "resize": (8,)}, "float32 samples are not resized"),
        ({"colours": "BGR", "shape": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}, "need 3 channels"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "must be finite"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change: dict[str, object], says: str) -> None:
    fields = {"shape": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, **change}
    with pytest.raises(CheckpointError, match=says) as caught:
        check_input_spec(InputSpec(**fields), "here")  # type: ignore[arg-type]
    assert re.match("here: ", str(caught.value))
