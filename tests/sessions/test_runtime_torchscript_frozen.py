"""Frozen TorchScript: the same logits from the first, profiled calls on, at every batch size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from colour import CLASSES, PIXELS, SHAPE, candidate_for, logits_of_pixels, request_for
from conftest import PATIENCE_S
from torch import nn

from toolkit.artifacts.formats.torchscript import export
from toolkit.errors import Unsupported
from toolkit.sessions.remote import RemoteSession


@pytest.mark.parametrize("threads", [1, 2])
def test_warm_up_calls_give_the_same_logits_as_later_calls(tmp_path: Path, threads: int) -> None:
    path = tmp_path / "colour.torchscript"
    export(request_for(path))
    images = PIXELS
    candidate = candidate_for(path, runtime="torchscript-frozen", threads=threads)
    with RemoteSession(candidate, batch_size=2, timeout_s=PATIENCE_S) as session:
        for batch_size in (1, 7, 100, 250) * 2:
            found = np.concatenate(list(session.predict([images], batch_size=batch_size)))
            np.testing.assert_allclose(found, logits_of_pixels(images), atol=1e-4, rtol=0)
        attested = session.load().attestation
    assert (attested.runtime, attested.precision) == ("torchscript-frozen", "fp32")


class UnevenPooling(nn.Module):
    """The size of its input is not a multiple of the size of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.AdaptiveAvgPool2d(SHAPE[1] - 1), nn.Flatten()
        )
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(images))
        return logits


def test_operator_that_the_rewritten_graph_cannot_run_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "uneven.torchscript"
    model = UnevenPooling().eval()
    model(torch.zeros(1, *SHAPE))
    export(replace(request_for(path), model=model))
    candidate = candidate_for(path, runtime="torchscript-frozen", threads=1)
    with (
        RemoteSession(candidate, batch_size=2, timeout_s=PATIENCE_S) as session,
        pytest.raises(Unsupported, match=r"not divisible by the output size.*runtime torchscript"),
    ):
        list(session.predict([PIXELS], batch_size=2))
