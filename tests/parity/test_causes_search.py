"""The whole search, on real files: symptoms, the artifact and its checkpoint → the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from conftest import CHECKPOINT
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.checkpoints.model import NamedClassifier, example_input
from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.checkpoints.storage import load_model
from toolkit.data import Dataset, load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.files import sha256_of
from toolkit.parity.causes import Symptoms, find_cause
from toolkit.schema import Artifact, Cause, Settings
from toolkit.sessions.candidates import Candidate, Subject, checkpoint_candidate, subject_of
from toolkit.sessions.runtimes import RUNTIMES, Source

IMAGES = 300
MEAN, STD = 0.1307, 0.3081


class Altered(nn.Module):
    """The reference CNN with replaced functions."""

    def __init__(
        self,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        last: Callable[[Tensor], Tensor] = F.relu,
        pool: Callable[[Tensor], Tensor] = lambda x: F.max_pool2d(x, 2),
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        net, _ = load_model(CHECKPOINT)
        assert isinstance(net, ReferenceCNN)
        self.net = net
        self._before, self._last, self._pool, self._after = before, last, pool, after

    def forward(self, input: Tensor) -> Tensor:
        x = F.relu(self.net.conv1(self._before(input)))
        x = self._pool(F.relu(self.net.conv2(x))).flatten(1)
        return self._after(self.net.fc2(self._last(self.net.fc1(x))))


def with_weights(change: Callable[[ReferenceCNN], object]) -> nn.Module:
    altered = Altered()
    with torch.no_grad():
        change(altered.net)
    return altered.net


def one_weight(net: ReferenceCNN) -> None:
    net.fc1.weight[5, 77] *= -3


class Bench:
    """The reference checkpoint, some test images, and its logits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        whole = load_dataset("test")
        self.dataset: Dataset = replace(
            whole, images=whole.images[:IMAGES], labels=whole.labels[:IMAGES]
        )
        self.subject: Subject = subject_of(CHECKPOINT, (), model=None)
        net, self.record = load_model(CHECKPOINT)
        self.inputs = normalise(np.asarray(self.dataset.images), self.record.input)
        self.reference = self.answers(net).astype(np.float64)

    def answers(self, net: nn.Module) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [net(each) for each in torch.from_numpy(self.inputs).split(100)]
        return np.asarray(torch.cat(parts).numpy())

    def candidate(self, net: nn.Module) -> Candidate:
        path = self.folder / "faulty.onnx"
        example = example_input((1, 28, 28), batch_size=2)
        opset = write_onnx(NamedClassifier(net).eval(), example, path)
        healthy = checkpoint_candidate(self.subject, "eager", Settings(threads=1))
        artifact: Artifact = replace(
            healthy.source.artifact,
            format="onnx",
            path=path.name,
            size_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            opset=opset,
        )
        source = Source(path=path, artifact=artifact)
        return replace(healthy, runtime=RUNTIMES["onnxruntime"], source=source)

    def cause(self, net: nn.Module) -> Cause | None:
        symptoms = Symptoms(
            reference=self.reference,
            candidate=self.answers(net.eval()),
            floors=np.full(IMAGES, 5e-6),
            labels=self.dataset.labels,
            batch_size=100,
            precision="fp32",
        )
        return find_cause(
            symptoms=symptoms,
            subject=self.subject,
            candidate=self.candidate(net),
            dataset=self.dataset,
            timeout_s=300,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_one_changed_weight_is_found_in_the_file(bench: Bench) -> None:
    cause = bench.cause(with_weights(one_weight))
    assert cause is not None
    assert cause.kind == "few weights changed"
    assert "fc1.weight differs in 1 of 1,179,648 values: [5, 77] is" in cause.text


def test_a_healthy_candidate_has_no_cause(bench: Bench) -> None:
    assert bench.cause(Altered().net) is None


FAULTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "bias dropped": (lambda: with_weights(
        lambda net: net.get_parameter("conv2.bias").zero_()), "bias missing"),
    "last layer scaled": (lambda: with_weights(
        lambda net: (net.fc2.weight.mul_(1.02), net.fc2.bias.mul_(1.02))), "scale"),
    "channels": (lambda: with_weights(
        lambda net: net.conv1.weight.copy_(net.conv1.weight[[1, 0, *range(2, 32)]])),
        "channels swapped"),
    "noise": (lambda: with_weights(
        lambda net: [each.mul_(1 + 1e-3 * torch.rand(each.shape)) for each in net.parameters()]),
        "weights noisy"),
    "not normalised": (lambda: Altered(before=lambda x: x * STD + MEAN), "not normalised"),
    "normalised twice": (lambda: Altered(before=lambda x: (x - MEAN) / STD), "normalised twice"),
    "average pool": (lambda: Altered(pool=lambda x: F.avg_pool2d(x, 2)), "other pooling"),
    "no relu": (lambda: Altered(last=lambda x: x), "activation missing"),
    "dropout's scale": (lambda: Altered(last=lambda x: F.relu(x) * 2), "scaled layer"),
    "softmax": (lambda: Altered(after=lambda x: x.softmax(1)), "softmax"),
    "something else": (lambda: Altered(last=lambda x: F.relu(x) + 0.01 * x.sin()),
                       "graph changed"),
}  # fmt: skip


@pytest.mark.slow
def test_table_of_faults_and_their_causes(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Each cause is named correctly; the table is printed."""
    lines, wrong = [], []
    for name, (build, kind) in FAULTS.items():
        cause = bench.cause(build())
        found = cause.kind if cause else "none"
        lines.append(f"{name:20} {kind:20} {found:20} {cause.text if cause else ''}")
        wrong += [name] * (found != kind)
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert not wrong
