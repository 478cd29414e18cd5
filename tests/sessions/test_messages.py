"""Messages of a worker: what is sent arrives unchanged, and nonsense is an error that is caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import faulty
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from toolkit.errors import Crashed, FailedRun
from toolkit.sessions.candidates import Subject
from toolkit.sessions.messages import outcome_of, pack, round_of, unpack
from toolkit.sessions.remote import RemoteSession


@given(arrays.arrays(arrays.floating_dtypes(sizes=(32, 64)), arrays.array_shapes(max_dims=2)))
def test_logits_arrive_bit_for_bit(logits: NDArray[np.floating]) -> None:
    found = unpack(pack(logits))
    assert (found.dtype, found.shape, found.tobytes()) == (
        logits.dtype,
        logits.shape,
        logits.tobytes(),
    )


NONSENSE: list[Any] = [
    *(5, None, "x", {}, [], ("ok",), ("ok", 1, 2), ("error",), ("error", "zzz", "r", "t")),
    *(("error", [], "r", "t"), ("other", "crashed", "r", "t"), b"ok"),
]


@pytest.mark.parametrize("reply", NONSENSE, ids=repr)
def test_reply_that_is_none_is_an_error(reply: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        outcome_of(reply)


@pytest.mark.parametrize(
    "packed",
    [
        {"logits": b"", "shape": [1], "dtype": "O"},
        {"logits": b"1234", "shape": [7, -3], "dtype": "<f4"},
        {"logits": b"12345678", "shape": [1], "dtype": "<U2"},
        {"logits": b"1234", "shape": [1], "dtype": "<i4"},
        {"logits": 7, "shape": [1], "dtype": "<f4"},
        {"shape": [1], "dtype": "<f4"},
    ],
)
def test_logits_that_are_none_are_an_error(packed: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        unpack(packed)


@pytest.mark.parametrize(
    "samples", [[["x"]], [[0]], [[-5]], [[float("nan")]], [[float("inf")]], [5], 5, None]
)
def test_times_that_are_none_are_an_error(samples: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        round_of({"samples_ns": samples, "page_faults": 0})


@given(st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=5))
def test_a_worker_that_sends_nonsense_is_a_failed_row(reply: Any) -> None:
    class Channel:
        def receive(self, timeout_s: float) -> Any:
            return reply

    session = RemoteSession.__new__(RemoteSession)
    session._failure, session._process, session._timeout_s = None, None, 1.0
    session._channel = Channel()
    session.stderr_tail = lambda: ""  # type: ignore[method-assign]
    with pytest.raises(FailedRun, match="the worker's answer cannot be understood"):
        session._receive()


def test_attestation_that_is_none_ends_the_worker(subject: Subject) -> None:
    session = RemoteSession(faulty(subject, ""), batch_size=2, timeout_s=1.0)
    with session, pytest.raises(Crashed, match="cannot be understood"):
        session._decoded(unpack, {"logits": b"123", "shape": [1, 1], "dtype": "<f4"})
