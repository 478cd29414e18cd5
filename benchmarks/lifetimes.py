"""Check that a command that is killed at any moment leaves nothing behind, and can be run again.

    python benchmarks/lifetimes.py --kills 100
    python benchmarks/lifetimes.py --kills 20 --commands export,bench --signals KILL
    python benchmarks/lifetimes.py --kills 50 --within 0.3

A signal ends each command at a random moment, every second time together with its child processes,
as a terminal does. Processes are found by a mark in their environment, whoever their parent is.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import click
import psutil

from benchmarks.kills import first_images
from toolkit.artifacts.export import export
from toolkit.artifacts.manifest import MANIFEST, find_artifacts
from toolkit.checkpoints.bundled import reference_checkpoint

SIGNALS = ("HUP", "TERM", "INT", "QUIT", "KILL")
MARK = "LIFETIMES_MARK"
GRACE_S = 5.0
PATIENCE_S = 900.0
# A shell starts background commands with SIGINT and SIGQUIT ignored, and they inherit that.
START = """
import runpy, signal
for name in ("SIGHUP", "SIGQUIT", "SIGTERM"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
"""


@dataclass
class Row:
    """Results of the kills of one command, counted over all of them."""

    command: str
    kills: int = 0
    ended_before: int = 0
    alive_after_5_s: int = 0
    half_files: int = 0
    tracebacks: int = 0
    wrong_exit_codes: int = 0
    failed_reruns: int = 0
    left_after_rerun: int = 0


class Killer:
    """Kills commands that work on small data in `folder`."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._folder = folder
        self._data = first_images(folder / "data")
        self._exports = folder / "exports"
        self._random = random.Random(seed)
        self._checkpoint = reference_checkpoint().resolve()
        export(self._checkpoint, out=self._exports, formats=["onnx"])

    def arguments(self, command: str, out: Path) -> list[str]:
        """Return a short version of the command."""
        data = ["--data", str(self._data), "--threads", "1"]
        onnx = str(self._exports / "mnist-cnn.onnx")
        runtime = ["--runtime", "onnxruntime"]
        given = {
            "export": [str(self._checkpoint), "--format", "onnx", "--format", "openvino"],
            "train": [*data, "--epochs", "1.5", "--save-every", "0.000001", "--device", "cpu"],
            "bench": [onnx, *data, *runtime, "--min-time", "0.1", "--min-rounds", "6"],
            "tune": [onnx, *data, *runtime],
            "run": ["--checkpoint", str(self._checkpoint), "--quick", *data, "--format", "onnx"],
        }[command]
        return [command, *given, *(runtime if command == "run" else []), "--out", str(out)]

    def kill(self, row: Row, number: int, end_s: float, name: str) -> None:
        """Kill one command, look at what is left, run it again, and add to the row."""
        command, place = row.command, self._folder / f"{row.command}-{number}"
        out, temporary = place / "out", place / "tmp"
        temporary.mkdir(parents=True)
        process, errors = self._start(self.arguments(command, out), place)
        moment_s = self._random.uniform(0, end_s)
        time.sleep(moment_s)
        ended = process.poll() is not None
        chosen = getattr(signal, f"SIG{name}")
        sent_s = time.monotonic()
        if not ended:
            os.killpg(process.pid, chosen) if number % 2 else process.send_signal(chosen)
        alive = _alive_after(place, sent_s + GRACE_S)
        for each in alive:
            each.kill()
        code = process.wait(PATIENCE_S)
        text = errors.read_text(errors="replace")
        row.kills += 1
        row.ended_before += ended
        row.alive_after_5_s += len(alive)
        row.tracebacks += "Traceback" in text
        right = {0, -chosen} if name == "KILL" else {0, 128 + chosen, -chosen}
        row.wrong_exit_codes += code not in right
        left = _left(out) + _left(temporary)
        half = _damaged(out) + (left if name != "KILL" else [])
        row.half_files += len(half)
        again, log = self._start(self._again(command, out), place)
        failed = again.wait(PATIENCE_S) != 0
        row.failed_reruns += failed
        after = _left(out) + _left(temporary)
        row.left_after_rerun += len(after)
        print(
            f"{command} {number}: SIG{name} after {moment_s:.2f} s: exit code {code}, "
            f"{len(alive)} alive, half: {half}, then: {'failed' if failed else 'passed'}, {after}",
            file=sys.stderr,
        )
        if failed or code not in right or "Traceback" in text:
            print(text, log.read_text(errors="replace"), sep="\n", file=sys.stderr)
        elif not (alive or half or after):
            shutil.rmtree(place)

    def time_of(self, command: str) -> float:
        """Return the seconds that the uninterrupted command takes."""
        place = self._folder / f"{command}-whole"
        (place / "tmp").mkdir(parents=True)
        start_s = time.monotonic()
        process, errors = self._start(self.arguments(command, place / "out"), place)
        if process.wait(PATIENCE_S):
            raise RuntimeError(errors.read_text())
        return time.monotonic() - start_s

    def _again(self, command: str, out: Path) -> list[str]:
        """Return the command that continues, or starts again as the messages say."""
        if command in ("bench", "run"):
            return self.arguments(command, out.with_name("again"))
        more = ["--resume"] if command == "train" else []
        return [*self.arguments(command, out), *more]

    def _start(self, arguments: list[str], place: Path) -> tuple[subprocess.Popen[bytes], Path]:
        errors = place / f"errors-{len(list(place.iterdir()))}"
        environment = {
            **os.environ,
            MARK: str(place),
            "TMPDIR": str(place / "tmp"),
            "XDG_CACHE_HOME": str(self._folder / "cache"),
        }
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=environment,
                start_new_session=True,
            )
        return process, errors


def _alive_after(place: Path, deadline_s: float) -> list[psutil.Process]:
    """Return the processes of a command that still run then; return early if there are none."""
    while True:
        found = [each for each in psutil.process_iter() if _belongs(each, place)]
        if not found or time.monotonic() > deadline_s:
            return found
        time.sleep(0.1)


def _belongs(process: psutil.Process, place: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARK) == str(place)
    except psutil.Error:
        return False


def _left(folder: Path) -> list[str]:
    """Return incomplete files, locks and temporary folders."""
    signs = (".part", ".lock", ".scratch")
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith((".part-", "toolkit-")) or path.name.endswith(signs)
    ]


def _damaged(out: Path) -> list[str]:
    """Return files that are not whole, although they have their final names."""
    found = []
    for path in out.rglob("*.json"):
        try:
            json.loads(path.read_bytes())
            if path.name == MANIFEST:
                find_artifacts([path.parent])
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            found.append(f"{path.name}: {error}")
    return found


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    names = [field.name for field in fields(Row)]
    lines = [names, ["---"] * len(names)]
    lines += [[str(getattr(row, name)) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("_", " ")


@click.command()
@click.option("--kills", type=int, default=100, show_default=True, help="Of all commands together.")
@click.option("--commands", default="run,train,bench,tune,export", show_default=True)
@click.option("--signals", default=",".join(SIGNALS), show_default=True)
@click.option("--within", "within_s", type=float, help="Kill in the first seconds of a command.")
@click.option("--seed", type=int, default=1, show_default=True)
def main(kills: int, commands: str, signals: str, within_s: float | None, seed: int) -> None:
    """Kill commands `kills` times, and report what was left."""
    names, kinds = commands.split(","), signals.split(",")
    rows = {name: Row(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), seed=seed)
        end_s = {name: within_s or killer.time_of(name) for name in names}
        print("killed within seconds:", end_s, file=sys.stderr)
        for number in range(kills):
            name = names[number % len(names)]
            kind = kinds[number // len(names) % len(kinds)]
            killer.kill(rows[name], number, end_s[name], kind)
            print(table(list(rows.values())), file=sys.stderr)
    print(table(list(rows.values())))
    bad = [*rows.values()]
    sys.exit(any(sum((row.alive_after_5_s, row.half_files, row.failed_reruns)) for row in bad))


if __name__ == "__main__":
    main()
