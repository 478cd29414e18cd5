"""Frozen TorchScript: the same logits from the first, profiled calls on, at every batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour import PIXELS, candidate_for, logits_of_pixels, request_for
from conftest import PATIENCE_S

from toolkit.artifacts.formats.torchscript import export
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
