"""The table of runtimes: where each runs, and what is refused before a worker starts."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from conftest import PATIENCE_S

from toolkit.errors import Unsupported
from toolkit.schema import Device, Settings
from toolkit.sessions.candidates import EAGER, Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession
from toolkit.sessions.runtimes import RUNTIMES, Runtime

EVERYWHERE = [replace(row, systems=None) for row in RUNTIMES.values()]


@pytest.mark.parametrize("row", EVERYWHERE, ids=list(RUNTIMES))
def test_only_devices_in_the_table_are_accepted(row: Runtime) -> None:
    for device in get_args(Device):
        if device in row.devices:
            row.refuse(Settings(threads=1, device=device))
            continue
        with pytest.raises(Unsupported, match=f"not on {device}; use --device {row.devices[0]}"):
            row.refuse(Settings(threads=1, device=device))


@pytest.mark.parametrize("row", EVERYWHERE, ids=list(RUNTIMES))
def test_several_streams_are_accepted_unless_limited_to_one(row: Runtime) -> None:
    several = Settings(threads=1, streams=2, device=row.devices[0])
    if not row.one_stream:
        row.refuse(several)
        return
    with pytest.raises(Unsupported, match="2 streams were requested; use --streams 1"):
        row.refuse(several)


def test_format_that_only_the_cpu_loads_is_refused_elsewhere() -> None:
    row = RUNTIMES["onnxruntime"]
    row.refuse(Settings(threads=1), "ort")
    row.refuse(Settings(threads=1, device="cuda"), "onnx")
    with pytest.raises(Unsupported, match=r"loads ort on cpu only, not on cuda; .* --format onnx"):
        row.refuse(Settings(threads=1, device="cuda"), "ort")


def test_runtime_for_another_system_is_refused() -> None:
    row = replace(RUNTIMES[EAGER], systems=("plan9", "beos"))
    assert not row.runs_on("cpu")
    with pytest.raises(Unsupported, match="eager runs only on plan9, beos, but this is "):
        row.refuse(Settings(threads=1))


def test_impossible_settings_give_a_failed_row_without_a_process(subject: Subject) -> None:
    row = replace(RUNTIMES[EAGER], devices=("cpu",))
    candidate = checkpoint_candidate(subject, EAGER, Settings(threads=1, device="cuda"))
    with RemoteSession(
        replace(candidate, runtime=row), batch_size=1, timeout_s=PATIENCE_S
    ) as session:
        for _ in range(2):  # the first failure stays
            with pytest.raises(Unsupported, match="eager runs only on cpu, not on cuda"):
                session.load()
        assert session.pid is None
