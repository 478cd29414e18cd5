"""The overhead of verification beyond inference, and its memory for many images.

pytest benchmarks/test_verification.py -m 'not slow' -s  the overhead; about eight minutes
pytest benchmarks/test_verification.py -m slow -s       10,000 and 1,000,000 images
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from toolkit.data import Dataset, load_dataset
from toolkit.parity.check import Basis, ParityCheck
from toolkit.parity.expected import Expectations
from toolkit.parity.reference import Reference, References
from toolkit.parity.special import special_images
from toolkit.parity.verify import verify
from toolkit.schema import Settings
from toolkit.sessions.candidates import Subject, find_candidates
from toolkit.sessions.remote import RemoteSession
from toolkit.settings import SessionOptions
from toolkit.timing import Stopwatch

BATCH_SIZE = 100
REPEATS = 5
REAL = ("eager", "torchscript", "pt2", "onnxruntime")


@pytest.mark.parametrize("runtime", REAL)
def test_verifying_costs_little_more_than_inference(subject: Subject, runtime: str) -> None:
    """10,000 images and the second look in a running worker, compared with the same timed calls: at
    most 1.5 times as long, and 3 s."""
    dataset = load_dataset("test")
    calls = len(dataset) // BATCH_SIZE
    (candidate,) = find_candidates(subject, [runtime], Settings(threads=2))
    check = ParityCheck(batch_size=BATCH_SIZE, timeout_s=300)
    ratios, spare_s = [], []
    with RemoteSession(candidate, batch_size=BATCH_SIZE, timeout_s=300) as session:
        basis = _as_basis(session, subject, dataset)
        session.prepare(dataset.images[: 5 * BATCH_SIZE], batch_size=BATCH_SIZE)
        session.measure(calls=10)
        for _ in range(REPEATS):
            inference_s = sum(session.measure(calls=calls).samples_s[0])
            watch = Stopwatch()
            report, _ = check.judge(session, basis)
            elapsed_s = watch.elapsed_s()
            ratios.append(elapsed_s / inference_s)
            spare_s.append(1.5 * inference_s + 3 - elapsed_s)
            assert report.status == "passed"
    print(
        f"{runtime}: verify / inference = {statistics.median(ratios):.3f} {sorted(ratios)}; "
        f"inference {inference_s:.2f} s, {statistics.median(spare_s):.2f} s to spare"
    )
    assert statistics.median(spare_s) >= 0


@pytest.mark.parametrize("runtime", REAL)
def test_verify_takes_start_up_plus_inference_time(
    subject: Subject, runtime: str, tmp_path: Path
) -> None:
    """`toolkit.verify` from end to end, on 10,000 images and on 100 (its start-up), with a kept
    reference; their difference compared with the same calls timed in a worker."""
    folder = subject.artifacts[0].path.parent
    few = _repeated_mnist(tmp_path / "few", 100)
    (candidate,) = find_candidates(subject, [runtime], Settings(threads=2))
    calls = len(load_dataset("test")) // BATCH_SIZE
    cold_s = _verify_s(folder, subject, runtime, None)
    _verify_s(folder, subject, runtime, few)
    ratios, start_ups_s = [], []
    for _ in range(REPEATS):
        start_up_s = _verify_s(folder, subject, runtime, few)
        whole_s = _verify_s(folder, subject, runtime, None)
        with RemoteSession(candidate, batch_size=BATCH_SIZE, timeout_s=300) as session:
            session.prepare(load_dataset("test").images[: 5 * BATCH_SIZE], batch_size=BATCH_SIZE)
            session.measure(calls=10)
            inference_s = sum(session.measure(calls=calls).samples_s[0])
        start_ups_s.append(start_up_s)
        ratios.append((whole_s - start_up_s) / inference_s)
    print(
        f"{runtime}: (verify - start-up) / inference = {statistics.median(ratios):.3f} "
        f"{sorted(ratios)}; start-up {statistics.median(start_ups_s):.1f} s; with no reference "
        f"kept {cold_s:.1f} s"
    )
    assert statistics.median(ratios) <= 1.5


def _verify_s(folder: Path, subject: Subject, runtime: str, data: Path | None) -> float:
    watch = Stopwatch()
    two = SessionOptions(threads=2)
    results = verify(
        [folder], checkpoint=subject.folder, runtimes=[runtime], data=data, session=two
    )
    elapsed_s = watch.elapsed_s()
    assert [row.status for row in results.parity] == ["passed"]
    return elapsed_s


@pytest.mark.slow
def test_memory_does_not_grow_with_images(subject: Subject, tmp_path: Path) -> None:
    """Peak memory of driver and worker, without the logits, for 10,000 and 1,000,000 images."""
    peaks = {}
    for count in (10_000, 1_000_000):
        folder = _repeated_mnist(tmp_path / str(count), count)
        script = [sys.executable, __file__, str(subject.artifacts[0].path.parent)]
        done = subprocess.run(
            [*script, str(subject.folder), str(folder)], check=True, capture_output=True, text=True
        )
        peaks[count] = json.loads(done.stdout)
        print(count, peaks[count])
    for process in ("driver_bytes", "worker_bytes"):
        growth = peaks[1_000_000][process] - peaks[10_000][process]
        # The driver holds the logits of both sides and compares them whole: a few arrays of that
        # size.
        allowed = 6 * peaks[1_000_000]["logits_bytes"] if process == "driver_bytes" else 50e6
        print(f"{process}: grows by {growth / 1e6:.0f} MB, allowed {allowed / 1e6:.0f} MB")
        assert growth < allowed


def _as_basis(session: RemoteSession, subject: Subject, dataset: Dataset) -> Basis:
    """Use the session's own logits instead of the checkpoint's."""
    special = special_images(dataset.images, dataset.labels)
    data = _as_reference(session, dataset.chunks(1000), dataset.labels)
    unlabelled = np.zeros(len(special), np.int64)
    return Basis(
        subject=subject,
        dataset=dataset,
        references=References(
            data=data,
            special=_as_reference(session, [special], unlabelled),
            special_images=special,
            special_rows=np.arange(len(special)),
        ),
        expectations=Expectations.of(subject, dataset, data, threads=2, timeout_s=300),
        remarks=(),
    )


def _as_reference(
    session: RemoteSession, chunks: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64]
) -> Reference:
    logits = np.concatenate(list(session.predict(chunks, batch_size=BATCH_SIZE)))
    floors = np.full(len(logits), 1e-5)
    return Reference(logits=logits.astype(np.float64), labels=labels, floors=floors)


def _repeated_mnist(folder: Path, count: int) -> Path:
    """Write IDX files of `count` test images: MNIST's, repeated or truncated."""
    folder.mkdir()
    dataset = load_dataset("test").head(count)
    with (folder / "t10k-images-idx3-ubyte").open("wb") as images:
        images.write(bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 28, 28))
        for _ in range(count // len(dataset)):
            images.write(dataset.images[:].tobytes())
    with (folder / "t10k-labels-idx1-ubyte").open("wb") as labels:
        labels.write(bytes([0, 0, 8, 1]) + struct.pack(">I", count))
        for _ in range(count // len(dataset)):
            labels.write(dataset.labels.astype(np.uint8).tobytes())
    return folder


def _measure_memory(artifacts: Path, checkpoint: Path, data: Path) -> dict[str, int]:
    """Verify ONNX Runtime in this fresh process; peaks of private memory, sampled every 5 ms.

    The mapped image file does not count: its pages belong to the system's cache.
    """
    from toolkit.sessions.candidates import find_subject

    subject = find_subject([artifacts], checkpoint=checkpoint, model=None)
    dataset = load_dataset("test", data)
    (candidate,) = find_candidates(subject, ["onnxruntime"], Settings(threads=2))
    samples = []
    done = threading.Event()

    def watch_memory() -> None:
        process = psutil.Process()
        while not done.wait(0.005):
            memory = process.memory_info()
            samples.append(memory.rss - memory.shared)

    watcher = threading.Thread(target=watch_memory)
    watcher.start()
    check = ParityCheck(batch_size=BATCH_SIZE, timeout_s=300)
    with RemoteSession(candidate, batch_size=BATCH_SIZE, timeout_s=300) as session:
        basis = _as_basis(session, subject, dataset)
        report, _ = check.judge(session, basis)
        done.set()
        watcher.join()
        assert (report.status, report.compared) == ("passed", len(dataset))
        worker = session.peak_memory_bytes()
    return {
        "driver_bytes": max(samples),
        "worker_bytes": worker,
        "logits_bytes": basis.references.data.logits.nbytes,
    }


if __name__ == "__main__":
    print(json.dumps(_measure_memory(*map(Path, sys.argv[1:4]))))
