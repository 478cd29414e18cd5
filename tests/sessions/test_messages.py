"""Samples cross the channel as they are, of either dtype and any rank."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.sessions.messages import pack_images, samples_of


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 2, 7), (4, 3, 6, 8)])
def test_samples_arrive_as_they_were_sent(dtype: str, shape: tuple[int, ...]) -> None:
    sent = (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    packed = pack_images(sent)
    found = samples_of(sent.tobytes(), list(shape), dtype)
    assert (packed["images"], packed["shape"]) == (sent.tobytes(), list(shape))
    assert found.dtype == dtype
    assert np.array_equal(found, sent)
