"""Weights: values that reach the model unchanged, or an error or a warning."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import IRREGULAR, large_file, put_irregular
from torch import Tensor, nn

from toolkit.checkpoints.import_weights import import_weights
from toolkit.checkpoints.model import build_model
from toolkit.checkpoints.storage import WEIGHTS, load_model, read_checkpoint
from toolkit.checkpoints.weight_files import read_safetensors, read_saved
from toolkit.checkpoints.weights import put_weights
from toolkit.errors import CheckpointError, ToolkitWarning
from toolkit.schema import InputSpec, ModelSpec
from toolkit.trust_store.factories import REFERENCE_FACTORY


def small_model() -> nn.Module:
    """Floats, and an integer: the number of batches that a batch norm has seen."""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


STATE = small_model().state_dict()
STEPS = "1.num_batches_tracked"


def put(**values: Tensor) -> nn.Module:
    """Load changed weights; `bias` and `steps` are short names."""
    names = {"bias": "0.bias", "steps": STEPS}
    model = small_model()
    changed = {names[name]: value for name, value in values.items()}
    put_weights(model, {**STATE, **changed}, where="file")
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrower_floats_are_converted_exactly(dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, -0.5, 3.25])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = put(bias=value.to(dtype))
    assert torch.equal(model.state_dict()["0.bias"], value.to(dtype).float())


def test_wider_floats_that_fit_are_converted_exactly() -> None:
    model = put(bias=torch.tensor([1.0, -0.5, 3.25], dtype=torch.float64))
    assert model.state_dict()["0.bias"].tolist() == [1.0, -0.5, 3.25]


def test_rounded_floats_are_announced() -> None:
    value = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    says = r"file: 1 weights, such as 0\.bias, are float64 and were rounded to float32"
    with pytest.warns(ToolkitWarning, match=says):
        model = put(bias=value)
    assert torch.equal(model.state_dict()["0.bias"], value.float())


def test_floats_that_become_infinite_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"0\.bias holds 1 NaN or infinite"):
        put(bias=torch.tensor([1.0, 1e300, 0.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]
)
def test_another_kind_of_dtype_is_refused(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"0\.bias is {name}, expected float32"):
        put(bias=torch.ones(3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_an_integer_is_not_made_of_another_kind(dtype: torch.dtype) -> None:
    with pytest.raises(CheckpointError, match=r"num_batches_tracked is .*, expected int64"):
        put(steps=torch.tensor(1).to(dtype))


def test_an_integer_is_converted_only_if_it_stays_the_same() -> None:
    assert put(steps=torch.tensor(7, dtype=torch.int32)).state_dict()[STEPS] == 7
    model = nn.Module()
    model.register_buffer("steps", torch.tensor(0, dtype=torch.int8))
    with pytest.raises(CheckpointError, match="steps is int64, expected int8"):
        put_weights(model, {"steps": torch.tensor(300)}, where="file")


UNUSUAL: dict[str, Callable[[], Tensor]] = {
    "sparse": lambda: torch.ones(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_without_plain_numbers_are_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match=r"0\.bias is a sparse, nested, quantised or empty"):
        put(bias=UNUSUAL[kind]())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("read", [read_safetensors, read_saved])
def test_weights_that_are_no_regular_file_are_refused(
    tmp_path: Path, read: Callable[[Path], object], kind: str
) -> None:
    path = tmp_path / "weights.pt"
    put_irregular(path, kind)
    with pytest.raises(CheckpointError, match=f"cannot read .*{IRREGULAR[kind]}"):
        read(path)


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    """torch would unpack them, however large they become."""
    buffer, packed = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 20)}, buffer)
    with (
        zipfile.ZipFile(buffer) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    path = tmp_path / "weights.pt"
    path.write_bytes(buffer.getvalue())
    assert read_saved(path)["weight"].numel() == 1 << 20
    path.write_bytes(packed.getvalue())
    with pytest.raises(CheckpointError, match=r"bytes that unpack to 4,\d\d\d,\d\d\d; expected"):
        read_saved(path)


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(
    own_checkpoint: Path,
) -> None:
    large_file(own_checkpoint / WEIGHTS, 1 << 42)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: it has 4,398,046,511,104"):
        read_checkpoint(own_checkpoint)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: it has 4,398,046,511,104"):
        load_model(own_checkpoint)


def test_a_reference_model_larger_than_the_memory_is_not_built() -> None:
    spec = ModelSpec(factory=REFERENCE_FACTORY, arguments={"height": 60_000, "width": 60_000})
    with pytest.raises(CheckpointError, match=r"cannot build .* MemoryError: its weights have"):
        build_model(spec)


def test_an_input_shape_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has more than 268,435,456 values"):
        import_weights(
            tmp_path / "weights.pt",
            out=tmp_path / "out",
            model=ModelSpec(factory=REFERENCE_FACTORY),
            input_spec=InputSpec(shape=(1, 1 << 20, 1 << 20), mean=(0.5,), std=(0.5,)),
            classes=10,
        )
