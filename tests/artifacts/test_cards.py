"""Cards: what they say is what the file takes, and their programs give the model's logits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CHECKPOINT, REPOSITORY
from numpy.typing import NDArray
from PIL import Image

from toolkit.artifacts.cards.card import card_of, card_text
from toolkit.artifacts.cards.contract import METADATA_FILE, contract_of, metadata_of
from toolkit.artifacts.cards.reading import reading_code
from toolkit.artifacts.cards.snippets import RUNNERS, TEMPLATES, Runner, runners_of, snippet
from toolkit.artifacts.export import export
from toolkit.artifacts.formats import FORMATS
from toolkit.artifacts.formats.coreml import LARGEST_BATCH
from toolkit.artifacts.manifest import find_artifacts, read_manifest
from toolkit.checkpoints.storage import load_model, read_checkpoint
from toolkit.data import load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.packages import installed_version
from toolkit.schema import Artifact, Card, Checkpoint, InputSpec, from_json, to_json
from toolkit.sessions.runtimes import RUNTIMES

RECORD = read_checkpoint(CHECKPOINT)
FAST = {("onnx", "onnxruntime"), ("torchscript", "torchscript")}
HERE = [each for each in RUNNERS if each.system is None]
CLOSE = 1e-4  # logit units; float32 rounding changes these logits by less than 1e-5
COLOUR = InputSpec(
    shape=(3, 16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), resize=(24,), crop=(16, 16)
)


def artifact(format: str = "onnx", **changes: Any) -> Artifact:
    record = Artifact(
        format=format,
        precision="fp32",
        path=f"net{FORMATS[format].suffix}",
        size_bytes=1,
        sha256="0" * 64,
        checkpoint_sha256=RECORD.id.weights_sha256,
        spec_sha256=RECORD.id.spec_sha256,
        input_shape=RECORD.input.shape,
        classes=10,
    )
    return replace(record, **changes)


def data_of(text: str) -> Card:
    (block,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return from_json(Card, json.loads(block))


def program_of(text: str, runner: Runner) -> str:
    (block,) = re.findall(
        rf"^## Run it with {re.escape(runner.title)}\n.*?^```python\n(.*?)^```$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    return str(block)


def read_with(card: Card, path: Path) -> NDArray[Any]:
    """Call the `read` of a card's programs."""
    names: dict[str, Any] = {"np": np, "Image": Image}
    exec(reading_code(card.contract), names)
    return np.asarray(names["read"](path))


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(
            each,
            id=f"{each.format}-{each.runtime}",
            marks=[] if (each.format, each.runtime) in FAST else [pytest.mark.slow],
        )
        for each in HERE
    ],
)
def test_program_of_a_card_gives_the_logits_of_the_model(
    runner: Runner, exports: Path, tmp_path: Path
) -> None:
    for name in (runner.format, runner.runtime):
        row = FORMATS.get(name) or RUNTIMES[name]
        if row.missing() if name in FORMATS else row.version() is None:  # type: ignore[union-attr]
            pytest.skip(f"{name} is not installed")
    folder = exports
    if not FORMATS[runner.format].usual:
        folder = tmp_path / "exports"
        export(CHECKPOINT, out=folder, formats=[runner.format])
    # More than one call of ExecuTorch takes, and no multiple of a batch size.
    images = load_dataset("test").images[: 5 if (runner.format, runner.runtime) in FAST else 301]
    names = [str(tmp_path / f"{number}.png") for number in range(len(images))]
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels[0]).save(name)
    card = (folder / f"mnist-cnn{FORMATS[runner.format].suffix}.md").read_text()
    program, logits_path = tmp_path / "classify.py", tmp_path / "logits.npy"
    check = f"assert 'toolkit' not in sys.modules\nnp.save({str(logits_path)!r}, logits)\n"
    program.write_text(program_of(card, runner) + check)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", program, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    model, _ = load_model(CHECKPOINT)
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(normalise(images, RECORD.input))).numpy()
    logits = np.load(logits_path)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < CLOSE
    printed = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    found = {name: int(number) for name, number in printed if name in names}
    assert [found[name] for name in names] == expected.argmax(1).tolist()


def test_every_format_has_a_program_and_every_template_is_used() -> None:
    assert {each.format for each in RUNNERS} == set(FORMATS)
    assert {f"{each.format}-{each.runtime}.txt" for each in RUNNERS} == {
        each.name for each in TEMPLATES.iterdir()
    }
    for each in RUNNERS:
        assert each.format in RUNTIMES[each.runtime].formats
        for precision in FORMATS[each.format].precisions:
            card = card_of(artifact(each.format, precision=precision), RECORD)
            taken = RUNTIMES[each.runtime].precisions
            assert (each in runners_of(card)) == (taken is None or precision in taken)
        compile(snippet(card_of(artifact(each.format), RECORD), each), "classify.py", "exec")


def test_a_program_is_left_out_if_its_runtime_does_not_take_the_precision() -> None:
    card = card_of(artifact(precision="int8-dynamic"), RECORD)
    assert [each.runtime for each in runners_of(card)] == ["onnxruntime"]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_data_of_a_card_are_those_of_the_artifact(format: str) -> None:
    card = card_of(artifact(format), RECORD)
    assert data_of(card_text(card)) == card
    assert (card.file, card.format, card.sha256) == (
        f"net{FORMATS[format].suffix}",
        format,
        "0" * 64,
    )
    assert card.contract.preprocessing == RECORD.input
    assert (card.contract.checkpoint, card.contract.toolkit) == (
        RECORD.id,
        installed_version("toolkit"),
    )


def test_batch_sizes_are_those_that_the_exporters_write() -> None:
    executorch = pytest.importorskip("toolkit.artifacts.formats.executorch")
    largest = {"executorch": executorch.LARGEST_BATCH, "coreml": LARGEST_BATCH}
    for name, size in largest.items():
        assert card_of(artifact(name), RECORD).batch_sizes == f"1 to {size}"
    assert card_of(artifact("litert", batch_sizes=(100, 1)), RECORD).batch_sizes == "100 or 1"
    assert card_of(artifact("onnx"), RECORD).batch_sizes == "any"


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (24, 24), (17, 90)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_a_card_reads_images_as_torchvision_does(
    size: tuple[int, int], interpolation: Any, tmp_path: Path
) -> None:
    from torchvision import transforms

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    spec = replace(COLOUR, interpolation=interpolation)
    theirs = transforms.Compose(
        [
            transforms.Resize(24, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    found = read_with(card_of(artifact(), replace(RECORD, input=spec)), tmp_path / "image.png")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs(Image.fromarray(pixels)).numpy(), atol=1e-6)


def test_a_card_puts_colours_and_sizes_as_the_model_wants_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    spec = InputSpec(shape=(3, 16, 16), mean=(0, 0, 0), std=(1, 1, 1), colours="BGR")
    found = read_with(card_of(artifact(), replace(RECORD, input=spec)), tmp_path / "image.png")
    np.testing.assert_array_equal(found, pixels[:, :, ::-1].transpose(2, 0, 1) / np.float32(255))
    wide = replace(spec, shape=(3, 20, 10), resize=(20, 10), colours="RGB", antialias=False)
    found = read_with(card_of(artifact(), replace(RECORD, input=wide)), tmp_path / "image.png")
    assert found.shape == (3, 20, 10)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("L", (29, 28)).save(tmp_path / "image.png")
    with pytest.raises(AssertionError, match=r"image.png.*28, 29"):
        read_with(card_of(artifact(), RECORD), tmp_path / "image.png")


def test_a_file_with_the_preprocessing_inside_gets_bytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    record = replace(RECORD, input=replace(COLOUR, colours="BGR"))
    card = card_of(artifact(embeds_preprocessing=True), record)
    found = read_with(card, tmp_path / "image.png")
    assert card.contract.dtype == str(found.dtype) == "uint8"
    np.testing.assert_array_equal(found, pixels[4:20, 4:20].transpose(2, 0, 1))
    text = card_text(card)
    assert "scales and normalises by itself" in text
    assert "255" not in program_of(text, runners_of(card)[0])


def test_samples_that_are_no_images_are_read_from_arrays(tmp_path: Path) -> None:
    spec = InputSpec(shape=(2, 8), mean=(1, 2), std=(2, 4), dtype="float32")
    values = np.arange(16, dtype=np.float32).reshape(2, 8)
    np.save(tmp_path / "sample.npy", values)
    card = card_of(artifact(), replace(RECORD, input=spec))
    found = read_with(card, tmp_path / "sample.npy")
    np.testing.assert_array_equal(found, (values - [[1], [2]]) / [[2], [4]])
    assert "Image" not in program_of(card_text(card), runners_of(card)[0])


HOSTILE = ("a`b", '"; import os #', "```\n# heading", "\x1b[31mred", "\udc80", "ä 😀", "\\", "'''")


def test_names_of_classes_are_data_in_a_card() -> None:
    record = replace(RECORD, class_names=(*HOSTILE, "i", "j"))
    card = card_of(artifact(path='o"dd\\\n.onnx'), record)
    text = card_text(card)
    assert all(each.isprintable() or each == "\n" for each in text)
    assert data_of(text).contract.class_names == record.class_names
    names: dict[str, Any] = {}
    for runner in runners_of(card):
        program = program_of(text, runner)
        compile(program, "classify.py", "exec")
        (line,) = [each for each in program.splitlines() if each.startswith("CLASSES = ")]
        exec(line, names)
        assert tuple(names["CLASSES"]) == record.class_names


def with_names(folder: Path, names: tuple[str, ...]) -> Path:
    """Give a checkpoint names of its classes."""
    record = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**record, "class_names": names}))
    return folder


def test_class_names_travel_into_manifest_card_and_file(
    own_checkpoint: Path, tmp_path: Path
) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    out = tmp_path / "out"
    export(own_checkpoint, out=out, formats=["torchscript"])
    assert read_manifest(out).class_names == ()
    done = export(with_names(own_checkpoint, names), out=out, formats=["torchscript"])
    assert done.written == ("checkpoint.torchscript",)  # the file contains the names
    assert read_manifest(out).class_names == names
    path = out / "checkpoint.torchscript"
    assert data_of(Path(f"{path}.md").read_text()).contract.class_names == names
    assert json.loads(torchscript_metadata(path)["toolkit.class_names"]) == list(names)
    assert export(own_checkpoint, out=out, formats=["torchscript"]).written == ()


def test_a_missing_or_changed_card_is_written_again(own_exports: Path) -> None:
    card, other = (own_exports / f"mnist-cnn.{each}.md" for each in ("onnx", "pt2"))
    text, modified = card.read_text(), other.stat().st_mtime_ns
    for damage in (card.unlink, lambda: card.write_text("other")):
        damage()
        assert export(CHECKPOINT, out=own_exports, formats=["onnx"]).written == ()
        assert card.read_text() == text
    assert other.stat().st_mtime_ns == modified


def test_a_card_is_not_an_artifact(exports: Path) -> None:
    assert len(list(exports.glob("*.md"))) == 3
    assert {each.path.suffix for each in find_artifacts([exports])} == {
        *(".torchscript", ".onnx", ".pt2")
    }


def torchscript_metadata(path: Path) -> dict[str, str]:
    files = {METADATA_FILE: b""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.load(path, _extra_files=files)
    return dict(json.loads(files[METADATA_FILE]))


def pt2_metadata(path: Path) -> dict[str, str]:
    files = {METADATA_FILE: ""}
    torch.export.load(path, extra_files=files)
    return dict(json.loads(files[METADATA_FILE]))


def aotinductor_metadata(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("wrapper_metadata.json")]
        return dict(json.loads(archive.read(name)))


def onnxruntime_metadata(path: Path) -> dict[str, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(session.get_modelmeta().custom_metadata_map)


def openvino_metadata(path: Path) -> dict[str, str]:
    import openvino

    found = openvino.Core().read_model(path / "model.xml").get_rt_info()["toolkit"]
    return {f"toolkit.{name}": value.value for name, value in found.items()}


def litert_metadata(path: Path) -> dict[str, str]:
    from ai_edge_litert.tools import flatbuffer_utils

    found: list[dict[str, str]] = []
    for file in sorted(path.iterdir()):
        model = flatbuffer_utils.read_model(file)
        found.append(
            {
                each.name.decode(): bytes(model.buffers[each.buffer].data).decode()
                for each in model.metadata
            }
        )
    assert all(each.items() >= metadata_of(contract_of(RECORD)).items() for each in found)
    return found[0]


def coreml_metadata(path: Path) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the versions of other packages
        import coremltools

        model = coremltools.models.MLModel(str(path), skip_model_load=True)
    return dict(model.user_defined_metadata)


READERS = {
    "torchscript": torchscript_metadata,
    "onnx": onnxruntime_metadata,
    "ort": onnxruntime_metadata,
    "pt2": pt2_metadata,
    "aotinductor": aotinductor_metadata,
    "openvino": openvino_metadata,
    "litert": litert_metadata,
    "coreml": coreml_metadata,
}
NO_PLACE = {"executorch", "ncnn", "mnn"}


@pytest.mark.parametrize(
    ("format", "precision"),
    [
        *((each, "fp32") for each in ("torchscript", "onnx", "pt2")),
        *(
            pytest.param(name, each, marks=pytest.mark.slow)
            for name in READERS
            for each in FORMATS[name].precisions
            if not (FORMATS[name].usual and each == "fp32")
        ),
    ],
)
def test_the_contract_is_in_the_file(
    format: str, precision: Any, exports: Path, tmp_path: Path
) -> None:
    row = FORMATS[format]
    if row.missing():
        pytest.skip(f"{format} is not installed")
    folder = exports
    if not (row.usual and precision == "fp32"):
        folder = tmp_path
        export(CHECKPOINT, out=folder, formats=[format], precisions=[precision])
    (path,) = [each for each in folder.iterdir() if each.name.endswith(row.suffix)]
    expected = metadata_of(contract_of(RECORD))
    assert READERS[format](path).items() >= expected.items()
    assert json.loads(expected["toolkit.preprocessing"])["mean"] == [0.1307]


def test_formats_without_a_place_for_the_contract_are_known() -> None:
    assert set(READERS) | NO_PLACE == set(FORMATS)


def test_a_contract_can_be_read_back() -> None:
    record: Checkpoint = replace(RECORD, class_names=HOSTILE, input=COLOUR)
    contract = contract_of(record)
    found = {
        name.removeprefix("toolkit."): json.loads(value)
        for name, value in metadata_of(contract).items()
    }
    assert from_json(type(contract), found) == contract
    assert to_json(contract).keys() == found.keys()


def test_the_program_in_the_docs_is_that_of_the_card(exports: Path) -> None:
    (runner, *_) = [each for each in RUNNERS if each.format == "onnx"]
    text = (REPOSITORY / "docs" / "deploying.md").read_text()
    assert program_of((exports / "mnist-cnn.onnx.md").read_text(), runner) in text
