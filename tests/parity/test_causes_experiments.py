"""Experiments: changing the checkpoint until it gives the candidate's logits names the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.data.preprocessing import normalise
from toolkit.parity.causes.experiments import Experiments
from toolkit.parity.causes.inputs import changed_inputs, spec_of
from toolkit.parity.causes.symptoms import Symptoms
from toolkit.schema import Cause, InputSpec

IMAGES, BATCH = 60, 20
SPEC = InputSpec(shape=(1, 12, 12), mean=(0.1307,), std=(0.3081,))
COLOUR = InputSpec(shape=(3, 12, 12), mean=(0.48, 0.45, 0.4), std=(0.22, 0.23, 0.24))


class Net(nn.Module):
    """Two convolutions with batch normalisation, a pool, and two linear layers."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv1 = nn.Conv2d(channels, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.fc1 = nn.Linear(128, 24)
        self.fc2 = nn.Linear(24, 10)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.norm.get_buffer("running_mean").fill_(0.1)
            self.norm.get_buffer("running_var").copy_(torch.linspace(0.02, 1, 8))
            self.fc2.weight.mul_(20)
        self.first: Callable[[Tensor], Tensor] = F.relu
        self.last: Callable[[Tensor], Tensor] = F.relu
        self.pool: Callable[[Tensor], Tensor] = lambda x: F.max_pool2d(x, 2)
        self.flatten: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)

    def forward(self, input: Tensor) -> Tensor:
        x = self.first(self.norm(self.conv1(input)))
        x = self.pool(self.relu(self.conv2(x)))
        logits: Tensor = self.fc2(self.last(self.fc1(self.flatten(x))))
        return logits


def pixels(spec: InputSpec) -> NDArray[np.uint8]:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (IMAGES, *spec.shape)).astype(np.uint8)
    images[:, :, :, :3] //= 4  # left and right differ, as do top and bottom
    images[:, :, :4] //= 2
    return images


def answers(net: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [net(each) for each in torch.from_numpy(inputs).split(BATCH)]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def search(
    candidate: nn.Module,
    *,
    inputs: NDArray[np.float32] | None = None,
    spec: InputSpec = SPEC,
    noise: float = 0.0,
) -> Cause | None:
    """Return the cause found for a candidate; with `noise`, for an int8 candidate."""
    healthy, images = Net(spec.shape[0]).eval(), pixels(spec)
    usual = normalise(images, spec)
    reference = answers(healthy, usual).astype(np.float64)
    logits = answers(candidate, usual if inputs is None else inputs).astype(np.float64)
    logits += noise * np.random.default_rng(1).standard_normal(logits.shape)
    symptoms = Symptoms(
        reference=reference,
        candidate=logits.astype(np.float32),
        floors=np.full(IMAGES, 3e-7 * float(np.abs(reference).max())),
        labels=reference.argmax(1),
        batch_size=BATCH,
        precision="int8" if noise else "fp32",
        expected_rms=noise or None,
    )
    return Experiments(healthy, images, spec, symptoms, budget_s=300).cause()


def changed(change: Callable[[Net], object], channels: int = 1) -> Net:
    net = Net(channels).eval()
    with torch.no_grad():
        change(net)
    return net


@pytest.mark.parametrize("spec", [SPEC, COLOUR], ids=["grey", "colour"])
def test_each_wrong_preprocessing_is_named_correctly(spec: InputSpec) -> None:
    images = pixels(spec)
    net = Net(spec.shape[0]).eval()
    seen = set()
    for each in changed_inputs(images, spec):
        cause = search(net, inputs=each.inputs, spec=spec)
        assert cause is not None, each.what
        same = [
            other.what
            for other in changed_inputs(images, spec)
            if np.allclose(other.inputs, each.inputs, atol=1e-4)
        ]
        assert any(what in cause.text for what in same), (each.what, cause)
        seen.add(cause.kind)
    assert {"normalised twice", "not normalised", "inverted", "H and W swapped", "flipped",
            "0..255 for 0..1", "1/256 for 1/255", "other normalisation"} <= seen  # fmt: skip
    assert ("channels swapped" in seen) == (spec is COLOUR)


@pytest.mark.parametrize("spec", [SPEC, COLOUR], ids=["grey", "colour"])
def test_any_other_mean_and_std_are_found(spec: InputSpec) -> None:
    other = replace(
        spec,
        mean=tuple(each + 0.021 for each in spec.mean),
        std=tuple(each * 1.13 for each in spec.std),
    )
    cause = search(Net(spec.shape[0]).eval(), inputs=normalise(pixels(spec), other), spec=spec)
    assert cause is not None
    assert cause.kind == "other normalisation"
    assert f"mean {', '.join(f'{each:.4g}' for each in other.mean)} and" in cause.text


def test_fitted_factor_and_offset_are_reported_as_mean_and_std() -> None:
    mean, std = spec_of(SPEC, np.array([1.0]), np.array([0.0]))
    assert np.allclose((*mean, *std), (*SPEC.mean, *SPEC.std))


OPERATORS: dict[str, tuple[Callable[[Net], object], str, str]] = {
    "no relu": (lambda net: setattr(net, "last", lambda x: x), "activation missing",
                "the ReLU after fc1 is missing"),
    "leaky": (lambda net: setattr(net, "first", lambda x: F.leaky_relu(x, 0.01)),
              "other activation", "the ReLU after norm is a leaky ReLU (0.01)"),
    "gelu": (lambda net: setattr(net, "last", F.gelu), "other activation", "is a GELU"),
    "average": (lambda net: setattr(net, "pool", lambda x: F.avg_pool2d(x, 2)), "other pooling",
                "the max pool after conv2 is an average pool"),
    "layout": (lambda net: setattr(net, "flatten", lambda x: x.permute(0, 2, 3, 1).flatten(1)),
               "layout of features", "flattened as [N,H,W,C]"),
    "no bias": (lambda net: net.fc1.bias.zero_(), "bias missing", "the bias of fc1 is missing"),
    "kernels": (lambda net: net.conv2.weight.copy_(net.conv2.weight.flip(2, 3)), "kernels turned",
                "the kernels of conv2 are turned by 180 degrees"),
    "layer": (lambda net: (net.fc1.weight.mul_(1.02), net.fc1.bias.mul_(1.02)), "scaled layer",
              "whole output of fc1, or the weights of the layer after it, is multiplied by 1.02"),
    "weights": (lambda net: net.fc1.weight.mul_(1.3), "scaled layer",
                "the whole output of conv2, or the weights of the layer after it,"),
    "first weights": (lambda net: net.conv1.weight.mul_(1.3), "scaled weights",
                      "the weights of conv1, not its bias, are multiplied by 1.3"),
    "batch": (lambda net: net.norm.train(), "depends on the batch", "statistics of the batch"),
    "epsilon": (lambda net: setattr(net.norm, "eps", 1e-3), "other epsilon", "epsilon of 0.001"),
    "saturation": (lambda net: setattr(net, "first", lambda x: F.relu(x).clamp(max=1.1)),
                   "saturation", "after norm saturate: values above 1.1 ("),
    "half": (lambda net: setattr(net, "last", lambda x: F.relu(x).half().float()),
             "activations rounded to fp16", "activations after fc1 are rounded to fp16"),
    "weights half": (lambda net: [each.copy_(each.half().float()) for each in net.parameters()],
                     "weights rounded to fp16", "the weights and biases are rounded to float16"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_changed_operator_is_named_correctly(name: str) -> None:
    change, kind, evidence = OPERATORS[name]
    cause = search(changed(change))
    assert cause is not None
    assert cause.kind == kind, cause
    assert evidence in cause.text


@pytest.mark.parametrize("name", ["no relu", "average", "no bias", "saturation", "weights"])
def test_changed_operator_of_an_int8_file_is_found(name: str) -> None:
    change, kind, _ = OPERATORS[name]
    net = changed(change)
    cause = search(net, noise=0.03)
    assert cause is not None
    assert cause.kind == kind, cause


def test_products_in_bfloat16_are_found_by_size_and_shape() -> None:
    class Narrow(Net):
        def forward(self, input: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(input).float()

    cause = search(Narrow().eval())
    assert cause is not None
    assert cause.kind == "activations rounded to bf16"


def test_search_leaves_the_model_unchanged_and_finds_no_cause_for_a_healthy_one() -> None:
    assert search(Net().eval()) is None
    assert search(Net().eval(), noise=0.03) is None


def test_unknown_changes_have_no_cause() -> None:
    """One weight, two channels, another training: only the file can show it."""

    def one(net: Net) -> None:
        net.conv2.weight[3, 2, 1, 1] *= -1

    def channels(net: Net) -> None:
        net.conv1.weight.copy_(net.conv1.weight[[1, 0, *range(2, 8)]])

    def noise(net: Net) -> None:
        for each in net.parameters():
            each.mul_(1 + 0.01 * torch.randn_like(each))

    for change in (one, channels, noise):
        assert search(changed(change)) is None, change
