"""tract: another model, one thread, and no claim of precisions that it does not compute in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from colour import PIXELS, candidate_for, logits_of_pixels, request_for
from conftest import PATIENCE_S

from toolkit.artifacts.formats._onnx import write_onnx
from toolkit.errors import Unsupported
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import tract

pytest.importorskip("tract")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "colour.onnx"
    request = request_for(path)
    write_onnx(request.model, request.example, path)
    return path


def test_session_runs_any_batch_size(path: Path) -> None:
    images = PIXELS[:100]
    with RemoteSession(
        candidate_for(path, runtime="tract"), batch_size=1, timeout_s=PATIENCE_S
    ) as session:
        for batch_size in (1, 7, 100):
            found = np.concatenate(list(session.predict([images], batch_size=batch_size)))
            np.testing.assert_allclose(found, logits_of_pixels(images), atol=1e-4, rtol=0)
        assert session.load().attestation.threads == 1


def test_session_always_runs_and_attests_one_thread(path: Path) -> None:
    candidate = candidate_for(path, runtime="tract", threads=2)
    with RemoteSession(candidate, batch_size=1, timeout_s=PATIENCE_S) as session:
        assert session.load().attestation.threads == 1


def test_precision_is_that_of_the_weights_in_the_file(tmp_path: Path) -> None:
    """Biases, which no runtime keeps in int8, do not count."""
    path = tmp_path / "weights.onnx"
    for kind, precision in (("FLOAT", "fp32"), ("FLOAT16", "fp16"), ("INT8", None)):
        number = onnx.TensorProto.DataType.Value(kind)
        weights = [
            onnx.helper.make_tensor("w", number, [1, 1], [1]),
            onnx.helper.make_tensor("b", onnx.TensorProto.FLOAT, [1], [1]),
        ]
        graph = onnx.helper.make_graph([], "g", [], [], initializer=weights)
        onnx.save(onnx.helper.make_model(graph), path)
        if precision is None:
            with pytest.raises(Unsupported, match="is int8-weights; tract computes in float32"):
                tract.contents_of(path)
        else:
            assert tract.contents_of(path).precision == precision
