"""Rounding to narrower formats: numpy compared with torch, and each variant with its formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts.rounding.number_formats import KINDS, Kind, int8_steps, round_to
from toolkit.artifacts.rounding.torch_model import (
    VARIANTS,
    RoundedProducts,
    apply_variant,
    round_tensor,
)
from toolkit.data import load_dataset
from toolkit.errors import Unsupported
from toolkit.schema import Settings
from toolkit.sessions.candidates import Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession

SPREAD = np.random.default_rng(0).standard_normal((64, 50)) * 10.0 ** np.linspace(-3, 3, 50)


def by_torch(values: NDArray[np.float32], kind: Kind) -> NDArray[np.float32]:
    """Round with torch's own conversions, or its fake quantisation."""
    tensor = torch.from_numpy(values)
    if kind == "int8":
        steps = torch.from_numpy(int8_steps(values)).flatten()
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(tensor, steps, zeros, 0, -127, 127).numpy()
    if kind == "tf32":  # fp16's fraction, float32's exponent
        fraction, exponent = torch.frexp(tensor)
        return torch.ldexp(fraction.half().float(), exponent).numpy()
    return tensor.to({"fp16": torch.float16, "bf16": torch.bfloat16}[kind]).float().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_values_match_torch(kind: Kind, dtype: type[np.floating]) -> None:
    values = SPREAD.astype(np.float32)
    rounded = round_to(values.astype(dtype), kind)
    assert rounded.dtype == dtype
    assert not np.array_equal(rounded, values)
    if kind == "int8":
        np.testing.assert_allclose(rounded, by_torch(values, kind), rtol=1e-6)
    else:
        np.testing.assert_array_equal(rounded, by_torch(values, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_rounded_like_arrays(kind: Kind) -> None:
    values = SPREAD.astype(np.float32)
    for axis in (0, 1):
        rounded = round_tensor(torch.from_numpy(values), kind, axis=axis).numpy()
        np.testing.assert_array_equal(rounded, round_to(values, kind, axis=axis))


def test_ties_go_to_the_even_value() -> None:
    assert round_to(np.array([1 + 2**-11, 1 + 3 * 2**-11]), "tf32").tolist() == [1, 1 + 2**-9]
    assert round_to(np.array([1 + 2**-8, 1 + 3 * 2**-8]), "bf16").tolist() == [1, 1 + 2**-6]


@pytest.mark.parametrize("kind", ["fp16", "bf16", "tf32"])
def test_special_values_are_unchanged(kind: Kind) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)
    np.testing.assert_array_equal(round_to(special, kind), special)
    np.testing.assert_array_equal(round_tensor(torch.from_numpy(special), kind), special)
    assert np.signbit(round_to(special, kind)[-1])


def test_large_values_overflow_in_fp16_only() -> None:
    large = np.array([7e4], np.float32)
    assert np.isinf(round_to(large, "fp16")).all()
    assert np.isfinite(round_to(large, "bf16")).all()


def test_int8_has_one_step_per_channel_and_keeps_zero_channels() -> None:
    weights = np.array([[1.27, 0.004], [0.0, 0.0], [127.0, 0.6]])
    expected = np.array([[1.27, 0.0], [0.0, 0.0], [127.0, 1.0]])
    np.testing.assert_allclose(round_to(weights, "int8"), expected)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="kind 'fp8', expected one of fp16, bf16, tf32, int8"):
        round_to(SPREAD, "fp8")  # type: ignore[arg-type]


class Small(nn.Module):
    """A convolution, a transposed one, a matrix that is a bare parameter, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.wide = nn.ConvTranspose2d(3, 2, 2)
        self.matrix = nn.Parameter(torch.randn(7, 5))
        self.last = nn.Linear(2 * 7 * 5, 4)

    def forward(self, input: Tensor) -> Tensor:
        """Images `[N,1,8,8]` → `[N,4]`."""
        x = self.wide(self.conv(input)) @ self.matrix
        output: Tensor = self.last(x.relu().flatten(1))
        return output


def small(dtype: torch.dtype) -> tuple[Small, Tensor]:
    torch.manual_seed(0)
    return Small().to(dtype), torch.randn(6, 1, 8, 8, dtype=dtype)


def by_hand(
    model: Small, inputs: Tensor, weight: Callable[..., Tensor], value: Callable[[Tensor], Tensor]
) -> Tensor:
    """The model's formula with explicit rounding."""
    x = F.conv2d(value(inputs), weight(model.conv.weight), model.conv.bias)
    x = F.conv_transpose2d(value(x), weight(model.wide.weight, axis=1), model.wide.bias)
    x = (value(x) @ weight(model.matrix)).relu().flatten(1)
    return F.linear(value(x), weight(model.last.weight), model.last.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variant_matches_its_formula(variant: str, dtype: torch.dtype) -> None:
    part, kind = VARIANTS[variant]
    plain, inputs = small(dtype)

    def rounded(tensor: Tensor, axis: int = 0) -> Tensor:
        return torch.from_numpy(round_to(tensor.numpy(), kind, axis=axis))

    value = rounded if part == "products" else lambda tensor: tensor
    with torch.no_grad():
        expected = by_hand(plain, inputs, rounded, value)
    with torch.inference_mode():
        found = apply_variant(small(dtype)[0], variant)(inputs)
        unrounded = plain(inputs)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-6)
    assert (found - unrounded).abs().max() > 1e-4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_products_inside_fused_attention_are_rounded(mode: Callable[[], object]) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    inputs = torch.randn(3, 5, 8)

    def rounded(tensor: Tensor) -> Tensor:
        return round_tensor(tensor, "bf16")

    def heads(tensor: Tensor) -> Tensor:
        return tensor.reshape(3, 5, 2, 4).transpose(1, 2)

    with torch.no_grad():
        whole = F.linear(rounded(inputs), rounded(attention.in_proj_weight), attention.in_proj_bias)
        query, key, values = (heads(each) for each in whole.chunk(3, -1))
        # Torch's own formula scales both operands by the square root.
        scale = 4**-0.25
        scores = rounded(query * scale) @ rounded(key * scale).mT
        mixed = (rounded(scores.softmax(-1)) @ rounded(values)).transpose(1, 2).reshape(3, 5, 8)
        expected = F.linear(
            rounded(mixed), rounded(attention.out_proj.weight), attention.out_proj.bias
        )
    model = RoundedProducts(_SelfAttention(attention), "bf16")
    with mode():  # type: ignore[attr-defined]
        found = model(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()


class _SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.attention(input, input, input, need_weights=False)[0]
        return output


def test_a_worker_runs_eager_in_a_variant(subject: Subject) -> None:
    images = load_dataset("test").images[:50]
    settings = Settings(threads=1)
    found: dict[str | None, NDArray[np.floating]] = {}
    for variant in (None, "weights:int8", "products:bf16"):
        candidate = checkpoint_candidate(subject, "eager", settings, precision="fp64")
        source = replace(candidate.source, variant=variant)
        with RemoteSession(
            replace(candidate, source=source), batch_size=50, timeout_s=60
        ) as session:
            (found[variant],) = session.predict([images], batch_size=50)
            assert session.load().attestation.precision == "fp64"
    for variant in ("weights:int8", "products:bf16"):
        assert 1e-3 < np.abs(found[variant] - found[None]).max() < 1


def test_an_unknown_variant_is_named(subject: Subject) -> None:
    candidate = checkpoint_candidate(subject, "eager", Settings(threads=1))
    source = replace(candidate.source, variant="weights:fp8")
    with (
        RemoteSession(replace(candidate, source=source), batch_size=1, timeout_s=60) as session,
        pytest.raises(Unsupported, match="variant 'weights:fp8', expected one of weights:fp16"),
    ):
        session.load()
