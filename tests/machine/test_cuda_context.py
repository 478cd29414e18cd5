"""The CUDA context is created if there is a driver; otherwise nothing happens."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from toolkit.machine import cuda_context


class Driver:
    """A stand-in for the driver; `fails` names the call that fails."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[str] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*_: object) -> int:
            self.calls.append(name)
            return int(name == self._fails)

        return call


@pytest.mark.parametrize(
    ("fails", "calls"),
    [
        ("", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]),
        ("cuInit", ["cuInit"]),
        ("cuDeviceGet", ["cuInit", "cuDeviceGet"]),
    ],
)
def test_context_creation_stops_at_the_first_failing_driver_call(
    monkeypatch: pytest.MonkeyPatch, fails: str, calls: list[str]
) -> None:
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    cuda_context._make_context()
    assert driver.calls == calls


def test_missing_driver_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    cuda_context._make_context()
