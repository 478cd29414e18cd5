"""MLPerf LoadGen inside the worker: it sends the queries, measures time, and judges.

In: sessions' `run`, their inputs, settings. Out: LoadGen's verdict and numbers, and a random
part of the answers, for comparison with untimed ones.

LoadGen has its own clock and rules (https://github.com/mlcommons/inference, loadgen/). Nothing here
times or judges what it reports.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.errors import Crashed, NotInstalled
from toolkit.schema import Inputs, ScenarioSettings
from toolkit.sessions.loadgen_log import LoadResult, read_result
from toolkit.timing import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    Run = Callable[[Inputs], NDArray[np.floating]]

PACKAGE = "mlperf_loadgen"
INSTALL = "pip install 'toolkit[loadgen]'"
_KEPT_BATCHES = 128  # per stream, whose answers are compared
_TRIAL_S = 0.5
_SPARE = 1.25  # a run may be this much faster than the trial and still reach the requested duration
# LoadGen creates all queries before the first one, which takes 220 bytes per sample including
# Python's view of them. An offline run that would need more than these is INVALID by its duration.
_MOST_SAMPLES = 10_000_000
_LEAST_LATENCY_S = 10e-6


class Sample(Protocol):
    """LoadGen's `QuerySample`: `index` identifies the image, `id` the expected answer."""

    id: int
    index: int


Answer = Callable[[Sequence[Sample]], object]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One batch of answers from the timed run: its images, and their logits `[N,K]`."""

    indices: list[int]
    logits: NDArray[np.floating]


def require_loadgen() -> Any:
    """Return LoadGen's module.

    Raises:
        NotInstalled: The message has the install command.
    """
    try:
        return importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise NotInstalled(INSTALL) from error


def run_scenario(
    runs: Sequence[Run],
    library: Inputs,
    wanted: ScenarioSettings,
    *,
    batch_size: int,
    folder: Path,
) -> tuple[LoadResult, list[Kept]]:
    """Let LoadGen query the sessions' `runs`, one per stream, for images of `library` `[N,C,H,W]`.

    Batches have at most `batch_size` images. single-stream sends one image after another to the
    first of `runs`. LoadGen's files go to `folder`.

    Raises:
        NotInstalled: LoadGen is missing.
        Crashed: LoadGen's number of samples differs from the number of answers.
        Exception: An exception of a session.
    """
    loadgen = require_loadgen()
    streams = [Stream(run, library, batch_size=batch_size) for run in runs]
    settings = _test_settings(loadgen, wanted, _speed(streams, loadgen, wanted))

    def answer(samples: Sequence[Sample]) -> None:
        loadgen.QuerySamplesComplete(
            [loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]
        )

    def start(issue: Callable[[list[Sample]], None]) -> None:
        with _system(loadgen, issue, len(library)) as (system, images):
            loadgen.StartTestWithLogSettings(
                system, images, settings, _log_settings(loadgen, folder), str(folder / "no.config")
            )

    for stream in streams:
        stream.forget()
    if wanted.scenario == "single-stream":
        start(lambda samples: streams[0].answer(samples, answer))
    else:
        serve(streams, start, answer)
    result = read_result(folder, wanted.scenario)
    answered = sum(stream.answered for stream in streams)
    if answered != result.samples:
        raise Crashed(f"{answered} samples were answered, but LoadGen counts {result.samples}")
    return result, [each for stream in streams for each in stream.kept]


class Stream:
    """Answers samples with one session, and keeps a random part of the answers."""

    def __init__(self, run: Run, library: Inputs, *, batch_size: int) -> None:
        self.batch_size = batch_size
        self.images = len(library)
        self._run = run
        self._library = library
        self._random = random.Random(0)
        self.forget()

    def forget(self) -> None:
        """Start again: nothing answered, nothing kept."""
        self.answered = self._batches = 0
        self.kept: list[Kept] = []

    def answer(self, samples: Sequence[Sample], answer: Answer) -> None:
        """Run one batch; each batch is kept with the same probability (reservoir sampling)."""
        indices = [sample.index for sample in samples]
        logits = self._run(self._library[indices])
        answer(samples)
        self.answered += len(samples)
        self._batches += 1
        place = len(self.kept)
        if place == _KEPT_BATCHES:
            place = self._random.randrange(self._batches)
        if place < _KEPT_BATCHES:
            self.kept[place : place + 1] = [Kept(indices=indices, logits=logits)]


def serve(
    streams: Sequence[Stream],
    start: Callable[[Callable[[list[Sample]], None]], None],
    answer: Answer,
) -> None:
    """Call `start` with a function that takes samples, and answer them in the streams' threads.

    A stream takes waiting samples, up to its batch size. This ends when `start` ends. If a stream
    raises, it ends at once with that exception, because LoadGen would wait forever for the missing
    answers.
    """
    waiting: SimpleQueue[list[Sample] | None] = SimpleQueue()
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def issue(samples: list[Sample]) -> None:
        size = streams[0].batch_size
        for first in range(0, len(samples), size):
            waiting.put(samples[first : first + size])

    def issue_all() -> None:
        start(issue)
        for _ in streams:
            waiting.put(None)

    works = [lambda each=each: _serve(each, waiting, answer) for each in streams]
    for work in (issue_all, *works):
        Thread(target=_and_tell, args=(work, ends), daemon=True).start()
    for _ in range(1 + len(streams)):
        error = ends.get()
        if error is not None:
            raise error


def _and_tell(work: Callable[[], None], ends: SimpleQueue[BaseException | None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
        ends.put(error)
    else:
        ends.put(None)


def _serve(stream: Stream, waiting: SimpleQueue[list[Sample] | None], answer: Answer) -> None:
    """Answer samples until None arrives."""
    while (batch := waiting.get()) is not None:
        while len(batch) < stream.batch_size:
            try:
                more = waiting.get_nowait()
            except Empty:
                break
            if more is None:
                waiting.put(None)
                break
            batch = batch + more
        stream.answer(batch, answer)


def _speed(streams: Sequence[Stream], loadgen: Any, wanted: ScenarioSettings) -> float:
    """Return samples/s in a trial of half a second through the same code, which also warms up the
    sessions."""
    single = wanted.scenario == "single-stream"
    size = 1 if single else streams[0].batch_size
    images = streams[0].images
    count = 4 * len(streams)
    while True:
        samples = [loadgen.QuerySample(0, n % images) for n in range(count * size)]
        watch = Stopwatch()
        if single:
            for sample in samples:
                streams[0].answer([sample], _no_answer)
        else:
            serve(streams, lambda issue, samples=samples: issue(samples), _no_answer)  # type: ignore[misc]
        elapsed_s = watch.elapsed_s()
        if elapsed_s >= _TRIAL_S:
            return len(samples) / elapsed_s
        count *= 2


def _no_answer(samples: Sequence[Sample]) -> None:
    """Ignore an answer that is not needed."""


def _test_settings(loadgen: Any, wanted: ScenarioSettings, speed: float) -> Any:
    """Return LoadGen's settings. Only the number of queries that it creates in advance depends on
    `speed`, in samples/s."""
    settings = loadgen.TestSettings()
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(wanted.min_duration_s * 1e3)
    settings.max_duration_ms = round(wanted.max_duration_s * 1e3)
    if wanted.scenario == "offline":
        settings.scenario = loadgen.TestScenario.Offline
        settings.offline_expected_qps = min(speed * _SPARE, _MOST_SAMPLES / wanted.min_duration_s)
    elif wanted.scenario == "single-stream":
        settings.scenario = loadgen.TestScenario.SingleStream
        latency_s = max(1 / speed / _SPARE, _LEAST_LATENCY_S)
        settings.single_stream_expected_latency_ns = round(latency_s * 1e9)
    else:
        settings.scenario = loadgen.TestScenario.Server
        settings.server_target_qps = wanted.target_qps
        settings.server_target_latency_ns = round((wanted.latency_bound_s or 0) * 1e9)
    return settings


def _log_settings(loadgen: Any, folder: Path) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    settings = loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = False
    return settings


@contextmanager
def _system(
    loadgen: Any, issue: Callable[[list[Sample]], None], images: int
) -> Iterator[tuple[int, int]]:
    """Create LoadGen's handles of the system under test and of its sample library."""
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(images, images, lambda _: None, lambda _: None)
    yield system, library
    # Not after an exception: LoadGen's own threads are still working, and the worker ends anyway.
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
