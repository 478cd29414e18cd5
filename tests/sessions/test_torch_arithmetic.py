"""fp32 is computed in float32, whatever flags a model's code sets; exceptions are attested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colour import IMAGES, ColourNet, InPlace, logits_of, request_for, source_of
from torch import Tensor, nn

from toolkit.artifacts.formats.pt2 import export as export_pt2
from toolkit.schema import Settings
from toolkit.sessions.runtimes import _torch_arithmetic as torch_arithmetic
from toolkit.sessions.runtimes._torch import TorchSession
from toolkit.sessions.runtimes._torch_arithmetic import pin_arithmetic, read_arithmetic
from toolkit.sessions.runtimes.pt2 import load as load_pt2

CPU = torch.device("cpu")
BACKENDS: Any = torch.backends


@pytest.fixture(autouse=True)
def flags_come_back() -> Iterator[None]:
    yield
    pin_arithmetic()


def set_medium() -> None:
    torch.set_float32_matmul_precision("medium")


def set_convolutions() -> None:
    BACKENDS.mkldnn.conv.fp32_precision = "bf16"


def set_everything() -> None:
    BACKENDS.fp32_precision = "tf32"
    BACKENDS.mkldnn.fp32_precision = "bf16"
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    BACKENDS.cuda.matmul.allow_tf32 = True


def set_dtype() -> None:
    torch.set_default_dtype(torch.bfloat16)


def set_environment() -> None:
    os.environ["ONEDNN_DEFAULT_FPMATH_MODE"] = "BF16"


CHANGES = [set_medium, set_convolutions, set_everything, set_dtype, set_environment]


def flags() -> dict[str, object]:
    return {
        "conv": BACKENDS.mkldnn.conv.fp32_precision,
        "matmul": BACKENDS.mkldnn.matmul.fp32_precision,
        "cudnn": BACKENDS.cudnn.conv.fp32_precision,
        "cuda": BACKENDS.cuda.matmul.fp32_precision,
        "precision": torch.get_float32_matmul_precision(),
        "rnn": BACKENDS.cudnn.rnn.fp32_precision,
        "dtype": torch.get_default_dtype(),
        "environment": os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE"),
    }


@pytest.mark.parametrize("change", CHANGES)
def test_flags_set_by_model_code_are_pinned_again_after_loading(change: Any) -> None:
    pin_arithmetic()
    wanted = flags()
    model = ColourNet()
    change()
    assert flags() != wanted
    session = TorchSession("eager", model, model.parameters(), CPU)
    assert flags() == wanted
    assert session.attestation.arithmetic == "float32"


def test_pinning_twice_is_idempotent() -> None:
    pin_arithmetic()
    pin_arithmetic()
    assert read_arithmetic(CPU) == "float32"


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bfloat16"), (torch.float16, "TF32")])
def test_shortened_factors_are_detected_from_numbers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, word: str
) -> None:
    """Factors are shortened as in hardware; float16 has as many digits as TF32."""
    plain = torch.nn.functional.conv2d

    def shortened(images: Tensor, kernels: Tensor, *, padding: int) -> Tensor:
        return plain(images.to(dtype).float(), kernels, padding=padding)

    monkeypatch.setattr(torch.nn.functional, "conv2d", shortened)
    assert read_arithmetic(CPU) == word


def test_small_product_error_means_unknown_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "linear", lambda given, *_: given * (1 + 1e-5))
    assert read_arithmetic(CPU) == "unknown"


def test_active_autocast_is_detected() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert read_arithmetic(CPU) == "bfloat16"


def test_gpu_flag_is_used_without_a_product() -> None:
    pin_arithmetic()
    BACKENDS.cudnn.conv.fp32_precision = "tf32"
    assert read_arithmetic(torch.device("cuda")) == "TF32"


def test_arithmetic_changed_by_a_call_is_attested_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sneaky(ColourNet):
        def forward(self, x: Tensor) -> Tensor:
            monkeypatch.setattr(torch_arithmetic, "_largest_error", lambda _: 2**-9)
            return super().forward(x)

    model = Sneaky().eval()
    session = TorchSession("eager", model, model.parameters(), CPU)
    assert session.attestation.arithmetic == "float32"
    session.run(IMAGES)
    assert session.attestation.arithmetic == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "precision", "arithmetic"),
    [(torch.float64, "fp64", "float64"), (torch.float16, "fp16", "float16")],
)
def test_arithmetic_follows_the_parameter_dtype(
    dtype: torch.dtype, precision: str, arithmetic: str
) -> None:
    model = ColourNet().to(dtype)
    found = TorchSession("eager", model, model.parameters(), CPU).attestation
    assert (found.precision, found.arithmetic) == (precision, arithmetic)


def test_compiled_code_is_attested_as_asked() -> None:
    model = ColourNet()
    session = TorchSession("aotinductor", model, model.parameters(), CPU, compiled=True)
    assert session.attestation.evidence["arithmetic"] == "as asked"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_session_owns_its_input(dtype: torch.dtype) -> None:
    model = InPlace().eval().to(dtype)
    session = TorchSession("eager", model, model.parameters(), CPU)
    inputs = IMAGES.copy()
    wanted = logits_of(IMAGES.copy(), InPlace())
    for _ in range(3):
        np.testing.assert_allclose(session.run(inputs), wanted, atol=1e-5)
    np.testing.assert_array_equal(inputs, IMAGES)


class Half(nn.Module):
    """Activations go through float16."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ColourNet()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.half().float())
        return logits


@pytest.mark.parametrize(
    ("model", "precision"), [(ColourNet(), "fp32"), (Half(), "fp16"), (InPlace(), "fp32")]
)
def test_pt2_attests_the_narrowest_activations(
    tmp_path: Path, model: nn.Module, precision: str
) -> None:
    path = tmp_path / "model.pt2"
    export_pt2(request_for(path, model=model))
    session = load_pt2(source_of(path, "pt2"), Settings(threads=1))
    inputs = IMAGES.copy()
    np.testing.assert_allclose(session.run(inputs), logits_of(IMAGES.copy(), model), atol=1e-5)
    np.testing.assert_array_equal(inputs, IMAGES)
    assert session.attestation.precision == precision
