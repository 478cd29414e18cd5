"""Run the planted faults and healthy variants through other tools' checks, with their defaults.

    python benchmarks/peers.py --out benchmarks/results/2026-11-peers.md

Each fault and variant of `tests/faults` that is an ONNX file of the reference checkpoint is tested
by each check. A check says that the file is right, or that it is wrong. Polygraphy and
onnx-diagnostic are not dependencies of the toolkit: if they are missing, their rows say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from faults.beds import Bed, mnist_bed
from faults.cases import ALL
from faults.harness import Harness, scratch_cache
from faults.records import Case
from faults.table import Record, judge_all

from toolkit.checkpoints.model import NamedClassifier
from toolkit.data import load_dataset
from toolkit.data.preprocessing import normalise
from toolkit.timing import Stopwatch

REAL_IMAGES = 1000
RANDOM_IMAGES = 64  # as in PyTorch's ONNX tutorial
MAX_ACCURACY_DROP = 0.001
Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Healthy:
    """The checkpoint's side of every check."""

    bed: Bed

    @cached_property
    def model(self) -> torch.nn.Module:
        """The model in eager torch."""
        return NamedClassifier(self.bed.model()).eval()

    @cached_property
    def program(self) -> Any:
        """The program that torch.onnx.export returns."""
        with quiet():
            return torch.onnx.export(
                self.model,
                (self.random[:2],),
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes={"input": {0: torch.export.Dim("batch", min=1)}},
                opset_version=18,
                dynamo=True,
                verbose=False,
            )

    @cached_property
    def random(self) -> torch.Tensor:
        """One random batch."""
        return torch.randn(RANDOM_IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    @cached_property
    def real(self) -> NDArray[np.float32]:
        """The first test images, normalised."""
        images = np.asarray(load_dataset("test").images[:REAL_IMAGES])
        return normalise(images, self.bed.record.input)

    @cached_property
    def all_images(self) -> NDArray[np.float32]:
        """All test images, normalised."""
        return normalise(np.asarray(load_dataset("test").images), self.bed.record.input)

    @cached_property
    def accuracy(self) -> float:
        """The accuracy of eager torch."""
        return accuracy_of(self.logits(self.all_images))

    def logits(self, inputs: NDArray[np.float32]) -> Logits:
        """Return the logits of eager torch."""
        with torch.inference_mode():
            parts = [self.model(part).numpy() for part in torch.from_numpy(inputs).split(100)]
        return np.concatenate(parts)

    @cached_property
    def real_logits(self) -> Logits:
        """The logits of eager torch on the real images."""
        return self.logits(self.real)


def accuracy_of(logits: Logits) -> float:
    """Return the accuracy on all test images."""
    return float(np.mean(logits.argmax(1) == load_dataset("test").labels))


def run_onnx(path: Path, inputs: NDArray[np.float32], batch_size: int = 100) -> Logits:
    """Return the logits of a file in ONNX Runtime with its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(inputs), batch_size)
    parts = [session.run(None, {name: inputs[at : at + batch_size]})[0] for at in starts]
    return np.concatenate(parts)


class File:
    """An artifact, whose logits of real images are computed once for all checks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._logits: Logits | Exception | None = None

    def logits(self, healthy: Healthy, count: int) -> Logits:
        """Return the logits of the first `count` test images, in batches of 100.

        Raises:
            Exception: The exception that ONNX Runtime raised.
        """
        if self._logits is None:
            try:
                self._logits = run_onnx(self.path, healthy.all_images)
            except Exception as error:  # noqa: BLE001 - kept, and raised for each check
                self._logits = error
        if isinstance(self._logits, Exception):
            raise self._logits
        return self._logits[:count]


Check = Callable[[Healthy, File], None]
"""Returns if the file is right; raises any exception if it is not."""


def tutorial(healthy: Healthy, file: File) -> None:
    """assert_allclose(1e-3, 1e-5) on one random batch."""
    inputs = healthy.random.numpy()
    np.testing.assert_allclose(
        healthy.logits(inputs), run_onnx(file.path, inputs), rtol=1e-3, atol=1e-5
    )


def _with_file(healthy: Healthy, file: File) -> Any:
    """Return torch's program with the file's graph instead of its own."""
    import onnx_ir

    program = healthy.program
    program.model = onnx_ir.from_proto(onnx.load(file.path))
    program.release()
    return program


def torch_verify(healthy: Healthy, file: File) -> None:
    """Do what torch.onnx.export(..., verify=True) does after it has exported."""
    from torch.onnx._internal.exporter._verification import verify_onnx_program

    for found in verify_onnx_program(_with_file(healthy, file)):
        # The limits of torch.onnx._internal.exporter._core.export.
        if found.max_abs_diff >= 5e-3 or found.max_rel_diff >= 1e-1:
            raise AssertionError(f"{found.max_abs_diff} {found.max_rel_diff}")


def torch_testing(healthy: Healthy, file: File) -> None:
    """torch.onnx.testing.assert_onnx_program."""
    from torch.onnx.testing import assert_onnx_program

    assert_onnx_program(_with_file(healthy, file), strategy=None)


def onnx_diagnostic(healthy: Healthy, file: File) -> None:
    """ExtTestCase.assert_onnx_disc of onnx-diagnostic."""
    from onnx_diagnostic.ext_test_case import ExtTestCase

    ExtTestCase().assert_onnx_disc(
        "", onnx.load(file.path), healthy.model, (healthy.random[:2],), use_ort=True
    )


def _polygraphy(expected: Logits, found: Logits, compare: Any) -> None:
    from polygraphy.comparator import Comparator, IterationResult, RunResults

    results = RunResults(
        [
            ("torch", [IterationResult({"logits": expected}, runner_name="torch")]),
            ("file", [IterationResult({"logits": found}, runner_name="file")]),
        ]
    )
    if not bool(Comparator.compare_accuracy(results, compare_func=compare)):
        raise AssertionError("differs")


def polygraphy_random(healthy: Healthy, file: File) -> None:
    """Polygraphy's comparison on random input."""
    from polygraphy.comparator import CompareFunc

    random = np.random.default_rng(1).random((1, 1, 28, 28), np.float32)  # its own range: 0 to 1
    _polygraphy(healthy.logits(random), run_onnx(file.path, random), CompareFunc.simple())


def polygraphy_real(healthy: Healthy, file: File) -> None:
    """Polygraphy's comparison on 1,000 real images."""
    from polygraphy.comparator import CompareFunc

    _polygraphy(healthy.real_logits, file.logits(healthy, REAL_IMAGES), CompareFunc.simple())


def polygraphy_cosine(healthy: Healthy, file: File) -> None:
    """Polygraphy's cosine similarity on 1,000 real images."""
    from polygraphy.comparator import CosineSimilarityCompareFunc

    found = file.logits(healthy, REAL_IMAGES)
    _polygraphy(healthy.real_logits, found, CosineSimilarityCompareFunc())


def polygraphy_psnr(healthy: Healthy, file: File) -> None:
    """Polygraphy's peak signal-to-noise ratio on 1,000 real images."""
    from polygraphy.comparator import PsnrCompareFunc

    _polygraphy(healthy.real_logits, file.logits(healthy, REAL_IMAGES), PsnrCompareFunc())


def top_1(healthy: Healthy, file: File) -> None:
    """Check for the same predictions on 1,000 real images."""
    found = file.logits(healthy, REAL_IMAGES)
    if (found.argmax(1) != healthy.real_logits.argmax(1)).any():
        raise AssertionError("other predictions")


def accuracy(healthy: Healthy, file: File) -> None:
    """Check that the accuracy is within 0.1 point on all test images."""
    found = file.logits(healthy, len(healthy.all_images))
    if healthy.accuracy - accuracy_of(found) > MAX_ACCURACY_DROP:
        raise AssertionError("less accurate")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A check, and the package that it needs."""

    name: str
    check: Check
    package: str | None = None

    @property
    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and importlib.util.find_spec(self.package) is None


PEERS = (
    Peer(name="`assert_allclose` (1e-3, 1e-5), one random batch", check=tutorial),
    Peer(name="`torch.onnx.export(verify=True)`", check=torch_verify),
    Peer(name="`torch.onnx.testing.assert_onnx_program`", check=torch_testing),
    Peer(name="onnx-diagnostic, `assert_onnx_disc`", check=onnx_diagnostic,
         package="onnx_diagnostic"),
    Peer(name="Polygraphy, random input", check=polygraphy_random, package="polygraphy"),
    Peer(name="Polygraphy, 1,000 real images", check=polygraphy_real, package="polygraphy"),
    Peer(name="Polygraphy, cosine similarity, 1,000 real images", check=polygraphy_cosine,
         package="polygraphy"),
    Peer(name="Polygraphy, PSNR, 1,000 real images", check=polygraphy_psnr, package="polygraphy"),
    Peer(name="top-1, 1,000 real images", check=top_1),
    Peer(name="accuracy within 0.1 point, 10,000 images", check=accuracy),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of one check on one case; `named` says that it also named the right cause."""

    case: Case
    caught: bool
    named: bool = False


def ask(peer: Peer, healthy: Healthy, case: Case, file: File) -> Found:
    """Run one check on one file."""
    try:
        with quiet():
            peer.check(healthy, file)
        caught = False
    except Exception:  # noqa: BLE001 - any exception of a check means that the file is wrong
        caught = True
    return Found(case=case, caught=caught)


def seconds_of(peer: Peer, healthy: Healthy, path: Path) -> float:
    """Return the seconds for one check of a healthy file: the second check, after all imports."""
    with quiet(), contextlib.suppress(Exception):  # it may call the file wrong
        peer.check(healthy, File(path))
    watch = Stopwatch()
    with quiet(), contextlib.suppress(Exception):
        peer.check(healthy, File(path))
    return watch.elapsed_s()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output and the warnings of the checks."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            tempfile.TemporaryFile("w") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def toolkit_verify(
    cases: Sequence[Case], record: Path | None, scratch: Path
) -> tuple[list[Found], float]:
    """Return the toolkit's own verdict, and its seconds on the healthy file.

    `record` has outcomes of `python -m tests.faults --record`; missing ones are judged now. An
    undecided row ends with exit code 1, so a fault counts as caught; a healthy file does not count
    as called wrong.
    """
    outcomes = judge_all(cases, Record(path=record), images=2000, scratch=scratch / "cases")
    found = [
        Found(
            case=each.case,
            caught=each.status != "passed" and not (each.case.healthy and each.right),
            named=each.named,
        )
        for each in outcomes
    ]
    healthy = [next(case for case in ALL if case.name == "onnx in onnxruntime")]
    harness = Harness(scratch / "seconds", images=2000)
    harness.judge(healthy)
    watch = Stopwatch()
    harness.judge(healthy)
    return found, watch.elapsed_s()


def row(name: str, found: Sequence[Found], seconds: float) -> str:
    """Return a row of the table: faults caught, false alarms on healthy files, seconds per file."""

    def share(cases: Sequence[Found]) -> str:
        return f"{sum(each.caught for each in cases)} of {len(cases)}"

    def of(healthy: bool, *precisions: str) -> list[Found]:
        return [
            each
            for each in found
            if each.case.healthy == healthy and each.case.precision in precisions
        ]

    int8 = ("int8", "int8-dynamic")
    faults = [each for each in found if not each.case.healthy]
    named = sum(each.named for each in faults)
    cells = [
        *(name, share(of(False, "fp32")), share(of(False, *int8)), share(of(True, "fp32"))),
        *(share(of(True, "fp16")), share(of(True, *int8)), str(named), f"{seconds:.2f}"),
    ]
    return f"| {' | '.join(cells)} |"


def page(rows: Sequence[str], missing: Sequence[str]) -> str:
    """Return the table as Markdown."""
    head = [
        "# The same files in other tools' checks",
        "",
        (
            "`python benchmarks/peers.py` wrote this page. It uses the planted faults and "
            "healthy variants of"
        ),
        "`tests/faults` that are ONNX files of the reference checkpoint, with each check's own",
        (
            "defaults. Healthy files that a check calls wrong are false alarms. The seconds "
            "are those of"
        ),
        "one healthy file, without the checkpoint's own logits of real images, on the machine",
        "that ran it; those of `toolkit verify` are one run on 2,000 images with a kept reference.",
        "",
        "| check | fp32 faults caught | int8 faults caught | false alarms fp32 | … fp16 | … int8 "
        "| causes named | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows, *(["", *missing] if missing else [])]) + "\n"


def chosen_cases(matching: str) -> list[Case]:
    """Return the cases that are ONNX files of the reference checkpoint for ONNX Runtime."""
    return [
        case
        for case in ALL
        if (case.format, case.runtime) == ("onnx", "onnxruntime")
        and case.bed in ("mnist", "mnist 10000")
        and case.level in ("file", "healthy")
        and matching in case.name
    ]


@click.command()
@click.option(
    "--match", "matching", default="", help=("Use only the cases with this text in their name.")
)
@click.option("--skip-toolkit", is_flag=True, help="Leave out the row of toolkit verify.")
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    help=("File of outcomes from python -m tests.faults --record."),
)
@click.option("--out", type=click.Path(path_type=Path), help="Page to write.")
def main(matching: str, skip_toolkit: bool, record: Path | None, out: Path | None) -> None:
    """Compare the toolkit's verdict with other checks on the same files."""
    cases = chosen_cases(matching)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        scratch_cache(scratch)
        (scratch / "bed").mkdir()
        healthy = Healthy(bed=mnist_bed(scratch / "bed", None))
        _ = healthy.program  # NNCF, which some cases import, changes torch; then no export works
        lost = healthy.bed.plant(cases, scratch / "files")
        built = [case for case in cases if case.name not in lost]
        files = {case.name: File(scratch / "files" / f"{case.slug}.onnx") for case in built}
        rows = []
        for peer in PEERS:
            if peer.missing:
                continue
            click.echo(peer.name, err=True)
            found = [ask(peer, healthy, case, files[case.name]) for case in built]
            seconds = seconds_of(peer, healthy, healthy.bed.healthy("onnx"))
            rows.append(row(peer.name, found, seconds))
            click.echo(rows[-1], err=True)
        if not skip_toolkit:
            found, seconds = toolkit_verify(built, record, scratch)
            rows.append(row("`toolkit verify`", found, seconds))
    missing = [
        f"{peer.name}: not run, `{peer.package}` is not installed."
        for peer in PEERS
        if peer.missing
    ]
    text = page(rows, missing)
    click.echo(text)
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    main()
