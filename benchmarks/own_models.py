"""Take models that are not part of the toolkit through all formats, as their owner would.

    python benchmarks/own_models.py --fashion DIR --out own.jsonl
    python benchmarks/own_models.py --fashion DIR --out own.jsonl --model mobilenet_v3_small
    python benchmarks/own_models.py --out own.jsonl --table

DIR has the IDX files of Fashion-MNIST. Two small models are trained on it. torchvision's models get
random weights and a folder of pictures, which are cut from the two photographs of scikit-learn.
Each step is a command of the toolkit. Its seconds are wall time. Its memory is the largest sum of
the proportional set sizes of all its processes. Models that are already in `--out` are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from toolkit.timing import Stopwatch

ROOT = Path(__file__).parent.parent
CLASSES = 10
PICTURES = {"train": 12, "test": 4}  # per class
SAMPLING_S = 0.25
GREY = ("--input-shape", "1,28,28", "--mean", "0.2860", "--std", "0.3530")
COLOUR = (
    *("--input-shape", "3,224,224", "--resize", "224,224"),
    *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A factory, its arguments for `toolkit import`, and whether it is trained here."""

    factory: str
    options: tuple[str, ...]
    trained: bool = False


TORCHVISION = ("mobilenet_v3_small", "resnet18", "squeezenet1_1", "efficientnet_b0")
MODELS = {
    "perceptron": Model(factory="benchmarks.own_networks:Perceptron", options=GREY, trained=True),
    "small_cnn": Model(factory="benchmarks.own_networks:SmallCNN", options=GREY, trained=True),
    **{
        name: Model(
            factory=f"torchvision.models:{name}",
            options=(*COLOUR, "--model-argument", f"num_classes={CLASSES}"),
        )
        for name in TORCHVISION
    },
    "small_vision_transformer": Model(
        factory="benchmarks.own_networks:small_vision_transformer", options=COLOUR
    ),
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished command: its record, exit code, wall seconds and peak memory in bytes."""

    record: dict[str, Any]
    exit_code: int
    wall_s: float
    memory_bytes: int


def run_step(*arguments: str) -> Step:
    """Run one command of the toolkit with `--json`, and watch the memory of its processes."""
    command = [sys.executable, "-P", "-m", "toolkit", *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    watch = Stopwatch()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        memory = _PeakMemory(process.pid)
        memory.start()
        (stdout, _) = process.communicate()
        wall_s = watch.elapsed_s()
        memory.stop()
    return Step(
        record=json.loads(stdout) if stdout else {},
        exit_code=process.returncode,
        wall_s=round(wall_s, 1),
        memory_bytes=memory.peak_bytes,
    )


class _PeakMemory(threading.Thread):
    """Samples the memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(SAMPLING_S):
            self.peak_bytes = max(self.peak_bytes, self._now())

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _now(self) -> int:
        total = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return 0
        for each in processes:
            try:
                total += each.memory_full_info().pss
            except psutil.Error:  # it has ended
                continue
        return total


def make_weights(name: str, fashion: Path | None, path: Path) -> None:
    """Train the model on Fashion-MNIST, or draw its weights from seed 0; write a state_dict."""
    import torch

    from toolkit.checkpoints.model import build_model
    from toolkit.schema import ModelSpec

    model = MODELS[name]
    arguments: dict[str, int | float | str | bool] = (
        {"num_classes": CLASSES} if "--model-argument" in model.options else {}
    )
    torch.manual_seed(0)
    module = build_model(
        ModelSpec(factory=model.factory, arguments=arguments), trusted=model.factory
    )
    if model.trained:
        assert fashion is not None
        _train(module, fashion)
    torch.save(module.state_dict(), path)


def _train(module: Any, fashion: Path) -> None:
    """Train for two epochs with Adam, as in a tutorial."""
    import torch
    from torch.nn import functional

    from toolkit.data import load_dataset

    dataset = load_dataset("train", fashion)
    images = torch.from_numpy(np.ascontiguousarray(dataset.images[:])).float().div(255)
    images = images.sub(0.2860).div(0.3530)
    labels = torch.from_numpy(dataset.labels)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module.train()
    for _ in range(2):
        for rows in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimizer.step()
    module.eval()


def make_pictures(folder: Path) -> None:
    """Write a folder of pictures: ten parts of two photographs are the classes, and crops of
    different sizes at random places in each part are the images."""
    from PIL import Image
    from sklearn.datasets import load_sample_images  # type: ignore[import-untyped]

    generator = np.random.default_rng(0)
    photographs = load_sample_images().images
    for number in range(CLASSES):
        photograph = photographs[number % 2]
        left = number // 2 * 128
        part = photograph[:, left : left + 128]
        for split, count in PICTURES.items():
            where = folder / split / f"part-{number}"
            where.mkdir(parents=True)
            for index in range(count):
                size = int(generator.integers(96, 128))
                top = int(generator.integers(0, part.shape[0] - size))
                side = int(generator.integers(0, part.shape[1] - size))
                crop = part[top : top + size, side : side + size]
                Image.fromarray(crop).save(where / f"{index}.png")


def take_through(name: str, fashion: Path | None, folder: Path) -> dict[str, Any]:
    """Import, export to all formats in fp32 and int8, and verify one model."""
    model = MODELS[name]
    data = fashion if model.trained else folder / "pictures"
    assert data is not None
    weights, checkpoint, exports = folder / f"{name}.pt", folder / name, folder / f"{name}-exports"
    make_weights(name, fashion, weights)
    imported = run_step(
        *("import", str(weights), "--model", model.factory, *model.options),
        *("--classes", str(CLASSES), "--out", str(checkpoint)),
    )
    if imported.exit_code:
        return {"model": name, "import": imported.record}
    found: dict[str, Any] = {"model": name}
    for precision in ("fp32", "int8"):
        step = run_step(
            *("export", str(checkpoint), "--format", "all", "--precision", precision),
            *("--data", str(data), "--out", str(exports)),
        )
        found[f"export {precision}"] = _summary(step)
        found[f"export {precision}"]["record"] = step.record
    step = run_step("verify", str(exports), "--runtime", "all", "--data", str(data))
    found["verify"] = {
        **_summary(step),
        "rows": [
            {
                key: row.get(key)
                for key in ("name", "runtime", "format", "precision", "status", "reason")
            }
            for row in step.record.get("parity", [])
        ],
        "error": step.record.get("error"),
    }
    return found


def _summary(step: Step) -> dict[str, Any]:
    return {
        "exit_code": step.exit_code,
        "wall_s": step.wall_s,
        "memory_mb": round(step.memory_bytes / 1e6),
    }


@click.command()
@click.option("--fashion", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST.")
@click.option("--model", "names", multiple=True, type=click.Choice(list(MODELS)))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--table", is_flag=True, help="Print the results in --out as Markdown.")
def main(fashion: Path | None, names: tuple[str, ...], out: Path, *, table: bool) -> None:
    """Take models through all formats, one line of results each."""
    lines = out.read_text().splitlines() if out.exists() else []
    found = {row["model"]: row for row in map(json.loads, lines)}
    if table:
        click.echo(markdown(list(found.values())))
        return
    if fashion is None and any(MODELS[name].trained for name in names or MODELS):
        raise click.UsageError("--fashion is needed for the models that are trained")
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / "pictures")
        for name in names or MODELS:
            if name in found:
                continue
            row = take_through(name, fashion, Path(folder))
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            click.echo(markdown([row]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table: one line per model, one column per step."""
    lines = [
        "| model | export fp32 | export int8 | verify | passed | other rows |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "verify" not in row:
            lines.append(f"| {row['model']} | {row['import']} | | | | |")
            continue
        steps = [row["export fp32"], row["export int8"], row["verify"]]
        judged = row["verify"]["rows"]
        passed = [each for each in judged if each["status"] == "passed"]
        failed_exports = [
            f"{each['format']} {each['precision']}: {each['status']}"
            for step in steps[:2]
            for each in step["record"].get("artifacts", [])
            if each.get("status") not in (None, "written", "unchanged")
        ]
        others = failed_exports + [
            f"{each['runtime']} {each['format']} {each['precision']}: {each['status']}"
            for each in judged
            if each["status"] != "passed"
        ]
        cells = [f"{each['wall_s']:,.0f} s, {each['memory_mb']:,} MB" for each in steps]
        lines.append(
            f"| {row['model']} | {' | '.join(cells)} | {len(passed)} of {len(judged)} | "
            f"{'; '.join(others) or '—'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
