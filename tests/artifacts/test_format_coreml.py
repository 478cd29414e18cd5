"""Core ML: the specification of the package, and a session with a stand-in for Apple's model."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from colour import CLASSES, SHAPE, candidate_for, request_for
from conftest import PATIENCE_S
from numpy.typing import NDArray

from toolkit.artifacts.formats.coreml import LARGEST_BATCH, export
from toolkit.errors import Unsupported
from toolkit.packages import installed_version
from toolkit.schema import Precision
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes.coreml import CoremlSession, largest_batch, precision_of

if installed_version("coremltools") is None:
    pytest.skip("pip install 'toolkit[coreml]'", allow_module_level=True)


def spec_of(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    return coremltools.utils.load_spec(str(path))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Precision]:
    path = tmp_path_factory.mktemp("coreml") / "colour.mlpackage"
    export(request_for(path, request.param))
    return path, request.param


def test_package_has_the_expected_names_batch_and_precision(
    exported: tuple[Path, Precision],
) -> None:
    path, precision = exported
    spec = spec_of(path)
    assert [each.name for each in spec.description.input] == ["input"]
    assert [each.name for each in spec.description.output] == ["logits"]
    assert list(spec.description.input[0].type.multiArrayType.shape) == [1, *SHAPE]
    assert (precision_of(spec), largest_batch(spec)) == (precision, LARGEST_BATCH)


class StandIn:
    """An `MLModel` that returns the mean of each image, and refuses what Core ML would refuse."""

    compute_unit = SimpleNamespace(name="CPU_ONLY")

    def __init__(self, spec: object) -> None:
        self._spec = spec

    def get_spec(self) -> object:
        return self._spec

    def predict(self, data: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        assert 1 <= len(data["input"]) <= LARGEST_BATCH
        means = data["input"].mean((1, 2, 3), keepdims=False)
        return {"logits": np.repeat(means[:, None], CLASSES, axis=1)}


def test_session_splits_batches_above_the_limit(
    exported: tuple[Path, Precision],
) -> None:
    session = CoremlSession(StandIn(spec_of(exported[0])), "9.0")
    inputs = np.random.default_rng(0).random((LARGEST_BATCH + 1, *SHAPE), np.float32)
    logits = session.run(inputs)
    assert logits.shape == (LARGEST_BATCH + 1, CLASSES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[:, 0], inputs.mean((1, 2, 3)), rtol=1e-5)
    assert session.attestation.precision == exported[1]
    assert session.attestation.provider == "CPU_ONLY"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS can")
def test_systems_other_than_macos_are_unsupported(exported: tuple[Path, Precision]) -> None:
    candidate = candidate_for(exported[0], runtime="coreml", precision=exported[1])
    with (
        RemoteSession(candidate, batch_size=1, timeout_s=PATIENCE_S) as session,
        pytest.raises(Unsupported, match="coreml runs only on darwin, but this is linux"),
    ):
        session.load()
