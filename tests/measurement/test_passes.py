"""Passes with planted faults in real workers: what is kept, what is reported, who continues."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_S, faulty

from toolkit.data import load_dataset
from toolkit.errors import FailedRun, Interrupted, WrongOutput
from toolkit.measurement import passes as passes_module
from toolkit.measurement.bench import Bench
from toolkit.measurement.conclusions import conclude
from toolkit.measurement.passes import Passes, Tally
from toolkit.measurement.plan import Plan
from toolkit.report.progress import Progress, silent
from toolkit.results import read_results, start_results
from toolkit.schema import GpuState, Measurement, Results, Round, Settings
from toolkit.sessions.candidates import Candidate, Subject, checkpoint_candidate
from toolkit.sessions.remote import RemoteSession, open_sessions

pytestmark = pytest.mark.usefixtures("no_child_is_left")

BATCH = 50
DATASET = load_dataset("test").head(5 * BATCH)
SHORT = Plan(min_time_s=0.001, min_rounds=6, round_s=0.001, passes=2)


def null(subject: Subject) -> Candidate:
    return checkpoint_candidate(subject, "no-op", Settings(threads=1))


def passes_of(
    candidates: Sequence[Candidate],
    *,
    plan: Plan = SHORT,
    progress: Progress = silent,
    seed: int = 0,
) -> Passes:
    """Passes of these candidates, ready to run."""
    return Passes(
        tallies=[Tally(candidate=each, batch_size=BATCH) for each in candidates],
        images=DATASET.images[:],
        plan=plan,
        timeout_s=PATIENCE_S,
        progress=progress,
        seed=seed,
    )


def concluded(subject: Subject, passes: Passes) -> Results:
    return conclude(start_results(subject, DATASET), passes, baseline=None)


def rounds_of(row: Measurement) -> list[int]:
    return [len(each.rounds) for each in row.passes]


def test_every_pass_has_fresh_processes_and_the_same_rounds(subject: Subject) -> None:
    seen: list[list[str]] = []
    passes = passes_of([faulty(subject, "", name="a"), faulty(subject, "", name="b")])
    for _ in passes.each():
        attested = [tally.attestation for tally in passes.tallies]
        seen.append([each.provider for each in attested if each is not None])
    assert [len(pids) for pids in seen] == [2, 2]
    assert len({pid for pids in seen for pid in pids}) == 4
    for tally in passes.tallies:
        assert [len(each.rounds) for each in tally.passes] == [3, 3]
        for each in tally.passes:
            assert each.calls_per_round is not None
            assert {len(each.samples_s) for each in each.rounds} == {1}
            assert {len(one.samples_s[0]) for one in each.rounds} == {each.calls_per_round}
            assert each.repeated is not None
            assert each.warm_up is not None
            assert each.warm_up.calls >= 1 + 3
            assert (each.peak_memory_bytes or 0) > 1e6
            assert min(each.import_s, each.load_s, each.first_inference_s) > 0
    assert len(passes.interference) == 2
    assert not passes.stopped


class ClockThatRises:
    """Simulate a GPU whose clock needs twenty readings to reach 2 GHz."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> GpuState:
        self.looks += 1
        return GpuState(clock_hz=1e8 * min(self.looks, 20))


def test_gpu_clock_is_awaited_and_recorded_with_each_round(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ClockThatRises()
    monkeypatch.setattr(passes_module, "open_reader", lambda: reader)
    one = faulty(subject, "other device")  # its session attests CUDA
    on_cuda = replace(
        one,
        runtime=replace(one.runtime, devices=("cpu", "cuda")),
        settings=replace(one.settings, device="cuda"),
    )
    passes = passes_of([on_cuda])
    passes.run()
    assert passes.tallies[0].failure is None
    found = passes.tallies[0].passes[0]
    rounds = [*found.rounds, found.repeated]
    assert len(rounds) == 4
    for each in rounds:
        assert each is not None
        assert len(each.gpu) >= 2
        assert {state.clock_hz for state in each.gpu} == {2e9}


def test_gpu_is_not_read_for_the_cpu(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ClockThatRises()
    monkeypatch.setattr(passes_module, "open_reader", lambda: reader)
    passes = passes_of([null(subject)])
    passes.run()
    assert reader.looks == 0
    assert {each.gpu for one in passes.tallies[0].passes for each in one.rounds} == {()}


def test_open_sessions_are_used_only_in_the_first_pass(subject: Subject) -> None:
    seen: list[str] = []
    candidates = [faulty(subject, "")]
    passes = passes_of(candidates)
    with open_sessions(candidates, batch_size=BATCH, timeout_s=PATIENCE_S) as sessions:
        sessions[0].load()
        for _ in passes.each(sessions):
            attested = passes.tallies[0].attestation
            seen.append(attested.provider if attested else "")
        assert seen[0] == str(sessions[0].pid)
        assert not psutil.pid_exists(int(seen[0]))
    assert len(set(seen)) == len(seen) == 2


def test_crashed_candidate_keeps_its_rounds_and_others_continue(
    subject: Subject,
) -> None:
    plan = replace(SHORT, min_rounds=24)
    passes = passes_of([faulty(subject, "segfault after 40 calls"), null(subject)], plan=plan)
    passes.run()
    crashed, other = concluded(subject, passes).measurements
    assert (crashed.status, crashed.reason, crashed.images_per_s) == ("crashed", "SIGSEGV", None)
    assert "Segmentation fault" in crashed.stderr_tail
    assert len(crashed.passes) == 1
    assert 1 <= rounds_of(crashed)[0] < 12
    assert crashed.latency_s == ()
    assert other.status == "measured"
    assert rounds_of(other) == [12, 12]


def test_a_worker_killed_between_rounds_keeps_its_rounds(subject: Subject) -> None:
    plan = Plan(min_time_s=0.001, min_rounds=8, round_s=0.001, passes=1)
    candidates = [faulty(subject, ""), null(subject)]
    with open_sessions(candidates, batch_size=BATCH, timeout_s=PATIENCE_S) as sessions:

        def kill_after_three_rounds(label: str, done: int, total: int, note: str = "", /) -> None:
            if (label, done) == ("rounds", 3) and sessions[0].pid is not None:
                os.kill(sessions[0].pid, signal.SIGSEGV)

        passes = passes_of(candidates, plan=plan, progress=kill_after_three_rounds)
        passes.run(sessions)
    killed, survivor = concluded(subject, passes).measurements
    assert (killed.status, killed.reason, killed.images_per_s) == ("crashed", "SIGSEGV", None)
    assert rounds_of(killed) == [3]
    assert survivor.status == "measured"
    assert rounds_of(survivor) == [8]


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("nan later", "failed", "timed calls gave logits that differ by up to nan"),
        ("other logits later", "failed", "timed calls gave logits that differ by up to 1"),
        ("wrong shape later", "crashed", "returned float32 [50, 9], expected float32 logits"),
        ("clock goes backwards", "crashed", "ClockError: the clock went backwards"),
        ("raise at load", "crashed", "RuntimeError: cannot load this"),
    ],
)
def test_failure_during_timing_gives_a_failed_row(
    subject: Subject, fault: str, status: str, reason: str
) -> None:
    """The logits are right when they are checked, and wrong when the calls are timed."""
    passes = passes_of([faulty(subject, fault), null(subject)])
    passes.run()
    results = concluded(subject, passes)
    wrong, right = results.measurements
    assert (wrong.status, right.status) == (status, "measured")
    assert reason in str(wrong.reason)
    assert (wrong.images_per_s, wrong.repeat_ratio) == (None, None)
    assert results.exit_code == (1 if status == "failed" else 3)
    assert results.ranking == ()


def test_later_process_with_other_outputs_fails(subject: Subject) -> None:
    passes = passes_of([faulty(subject, "other logits in each process"), null(subject)])
    passes.run()
    failure = passes.tallies[0].failure
    assert isinstance(failure, WrongOutput)
    assert "this worker gave logits that differ by up to" in failure.reason
    assert [len(each.rounds) for each in passes.tallies[0].passes] == [3, 0]


def test_caching_runtime_gives_a_warning(subject: Subject) -> None:
    plan = replace(SHORT, passes=3, min_rounds=9, round_s=0.01)
    passes = passes_of(
        [faulty(subject, "cache"), faulty(subject, "slow", name="honest")], plan=plan
    )
    passes.run()
    results = concluded(subject, passes)
    cached, honest = results.measurements
    assert cached.repeat_ratio is not None
    assert cached.repeat_ratio.low > 1.1
    assert honest.repeat_ratio is not None
    assert honest.repeat_ratio.low < 1.1
    (warning,) = (each for each in results.warnings if each.code == "cached")
    assert cached.name in warning.message
    assert honest.name not in warning.message


def interrupt_at(number: int) -> Progress:
    """Raise Ctrl-C in the round with this number, counted over all passes."""

    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        if (label, done) == ("rounds", number):
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_in_a_later_pass_keeps_the_measurements(subject: Subject, tmp_path: Path) -> None:
    work = Bench(plan=SHORT, timeout_s=PATIENCE_S, progress=interrupt_at(5))
    tallies = [Tally(candidate=each, batch_size=BATCH) for each in (faulty(subject, ""),)]
    with pytest.raises(Interrupted) as caught:
        work.measure(tallies, DATASET, start_results(subject, DATASET), out=tmp_path)
    results = caught.value.results
    assert results.interrupted
    assert [rounds_of(row) for row in results.measurements] == [[3, 2]]
    assert read_results(tmp_path / "results.json") == results
    assert "Interrupted" in (tmp_path / "results.md").read_text()


def test_ctrl_c_before_the_first_round_keeps_nothing(subject: Subject) -> None:
    def progress(label: str, done: int, total: int, note: str = "", /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        passes_of([null(subject)], progress=progress).run()
    assert not isinstance(caught.value, Interrupted)


def test_no_time_left_is_reported(subject: Subject) -> None:
    passes = passes_of([null(subject)], plan=replace(SHORT, max_time_s=0.001))
    passes.run()
    assert passes.stopped
    (row,) = concluded(subject, passes).measurements
    assert (row.status, row.images_per_s) == ("too_short", None)
    assert (
        "0 rounds are too few for an interval; allow more time with `toolkit bench --max-time`"
    ) in str(row.reason)


class Clock:
    """A clock that advances by a hundredth of a second per reading, and otherwise only on request.
    Results do not depend on the load of the machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read_s(self) -> float:
        self.now_s += 0.01
        return self.now_s

    def stopwatch(self) -> ReadWatch:
        return ReadWatch(self)


class ReadWatch:
    """A replacement for `Stopwatch`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start_s = clock.read_s()

    def elapsed_s(self) -> float:
        return self._clock.read_s() - self._start_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that passes use."""
    found = Clock()
    monkeypatch.setattr(passes_module, "Stopwatch", found.stopwatch)
    return found


def test_hanging_candidate_does_not_use_up_the_time_of_others(
    subject: Subject, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate is killed after the time limit of the whole measurement."""

    class Hanging(RemoteSession):
        def measure(self, *, calls: int, repeat: bool = False) -> Round:
            self._timeout_s = 2 if self.candidate.runtime.name == "faulty" else PATIENCE_S
            try:
                return super().measure(calls=calls, repeat=repeat)
            except FailedRun:
                clock.now_s += 100
                raise

    monkeypatch.setattr(passes_module, "RemoteSession", Hanging)
    plan = replace(SHORT, max_time_s=100)
    passes = passes_of([faulty(subject, "hang later"), null(subject)], plan=plan)
    passes.run()
    hung, other = concluded(subject, passes).measurements
    assert (hung.status, hung.reason) == ("timed_out", "after 2 s")
    assert (other.status, rounds_of(other)) == ("measured", [3, 3])
    assert not passes.stopped


def test_failing_batch_size_does_not_affect_others(subject: Subject) -> None:
    candidate = faulty(subject, "exit at 20 images")
    passes = passes_of([candidate])
    passes.tallies = [Tally(candidate=candidate, batch_size=size) for size in (10, 20, 30)]
    passes.run()
    rows = concluded(subject, passes).measurements
    assert [row.status for row in rows] == ["measured", "crashed", "measured"]


class Recorded(RemoteSession):
    """A session that records who is timed."""

    log: list[str]

    def measure(self, *, calls: int, repeat: bool = False) -> Round:
        self.log.append(self.candidate.runtime.name)
        return super().measure(calls=calls, repeat=repeat)


def order_of(subject: Subject, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the order in which candidates were timed, for each round of two passes."""
    log: list[str] = []
    monkeypatch.setattr(Recorded, "log", log, raising=False)
    monkeypatch.setattr(passes_module, "RemoteSession", Recorded)

    def mark(label: str, done: int, total: int, note: str = "", /) -> None:
        log.append("|")

    candidates = [faulty(subject, "", name=name) for name in "abc"]
    passes_of(candidates, seed=seed, progress=mark).run()
    pieces = [piece.split() for piece in " ".join(log).split("|")]
    timed = [piece for piece in pieces if len(set(piece)) == len(piece) == 3]
    return timed[:-1]  # the last round, on a repeated input, is left out


def test_order_changes_between_rounds_and_depends_on_the_seed(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, other = (order_of(subject, seed, monkeypatch) for seed in (1, 1, 2))
    assert len(first) == 6
    assert first == again != other
    assert any(one != next_one for one, next_one in pairwise(first))


def test_each_stream_is_timed_separately_and_attested(subject: Subject) -> None:
    passes = passes_of([faulty(subject, "", streams=2)])
    passes.run()
    (row,) = concluded(subject, passes).measurements
    assert row.session is not None
    assert row.session.streams == 2
    for each in row.passes:
        for one in each.rounds:
            assert [len(calls) for calls in one.samples_s] == [each.calls_per_round] * 2


def test_differing_streams_give_an_unsupported_row(subject: Subject) -> None:
    passes = passes_of([faulty(subject, "other streams", streams=2), null(subject)])
    passes.run()
    unlike, other = concluded(subject, passes).measurements
    assert (unlike.status, other.status) == ("unsupported", "measured")
    assert "run differently" in str(unlike.reason)
    assert unlike.passes == ()


def test_more_threads_than_cores_warns_and_continues(subject: Subject) -> None:
    from toolkit.machine.environment import usable_cores

    passes = passes_of([faulty(subject, "", threads=usable_cores() + 1)])
    passes.run()
    results = concluded(subject, passes)
    assert [row.status for row in results.measurements] == ["measured"]
    assert "threads" in {each.code for each in results.warnings}


@pytest.mark.usefixtures("clock")
def test_unreached_target_width_continues_until_max_time(subject: Subject) -> None:
    plan = replace(SHORT, target_width=1e-9, max_time_s=6.0)
    passes = passes_of([null(subject), faulty(subject, "")], plan=plan)
    passes.run()
    assert passes.stopped
    assert all(len(tally.passes) > 2 for tally in passes.tallies)
    assert {row.status for row in concluded(subject, passes).measurements} == {"measured"}


def test_measurement_ends_when_all_candidates_have_failed(subject: Subject) -> None:
    plan = replace(SHORT, passes=50)
    passes = passes_of([faulty(subject, "raise at load"), faulty(subject, "nan later")], plan=plan)
    passes.run()
    assert [len(tally.passes) for tally in passes.tallies] == [0, 1]
