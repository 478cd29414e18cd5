"""torch.compile: a missing compiler becomes a row, and uncompiled code is not attested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINT, PATIENCE_S

from toolkit.data import load_dataset
from toolkit.errors import Unsupported
from toolkit.schema import Settings
from toolkit.sessions.candidates import checkpoint_candidate, subject_of
from toolkit.sessions.remote import RemoteSession

IMAGES = load_dataset("test").images[:40]


@pytest.mark.slow
def test_compiled_logits_match_eager_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    subject = subject_of(CHECKPOINT, [], model=None)
    logits = []
    for runtime in ("eager", "compile"):
        candidate = checkpoint_candidate(subject, runtime, Settings(threads=1))
        with RemoteSession(candidate, batch_size=40, timeout_s=PATIENCE_S) as session:
            logits += list(session.predict([IMAGES], batch_size=40))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4, rtol=0)
    assert not np.array_equal(logits[0], logits[1])  # other code rounds differently
    assert list(tmp_path.rglob("*.cpp"))


def test_missing_compiler_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    subject = subject_of(CHECKPOINT, [], model=None)
    candidate = checkpoint_candidate(subject, "compile", Settings(threads=1))
    with (
        RemoteSession(candidate, batch_size=1, timeout_s=PATIENCE_S) as session,
        pytest.raises(Unsupported, match=r"needs a C\+\+ compiler"),
    ):
        session.load()
