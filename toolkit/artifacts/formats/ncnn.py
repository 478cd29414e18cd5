"""ncnn: a folder with `model.param` (the graph) and `model.bin` (the weights), written by pnnx."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._tracing import trace
from toolkit.errors import Unsupported

_FILES = ("model.param", "model.bin")
_TAIL_LINES = 20


def export(request: Request) -> Written:
    """Trace the model on one image, because ncnn computes one at a time, and convert the trace.

    pnnx writes six more files next to its input, so it runs in its own folder.

    Raises:
        RuntimeError: pnnx fails, or writes operators that ncnn does not have.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        image = request.example[:1]
        traced, frozen = trace(request.model, image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates TorchScript from 2.13 on
            torch.jit.save(traced, folder / "model.pt")
        _convert(folder, image, half=request.precision == "fp16")
        _check_operators(folder / "model.param")
        request.path.mkdir()
        for name in _FILES:
            shutil.copyfile(folder / name, request.path / name)
    return Written(warnings=frozen)


def _convert(folder: Path, image: Tensor, *, half: bool) -> None:
    """Run pnnx's program: its Python function does not check the outcome and takes no folder."""
    import pnnx

    shape = ",".join(map(str, image.shape))
    param, binary = _FILES
    done = subprocess.run(
        [
            pnnx.EXEC_PATH,
            "model.pt",
            f"inputshape=[{shape}]f32",
            f"fp16={int(half)}",
            f"ncnnparam={param}",
            f"ncnnbin={binary}",
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0 or not all((folder / name).exists() for name in _FILES):
        tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        raise RuntimeError(f"pnnx ended with exit code {done.returncode}:\n{tail}")


def _check_operators(param: Path) -> None:
    """Check for operators that pnnx could not convert; it writes them with their PyTorch name and
    reports success."""
    import ncnn

    _, _, *layers = param.read_text().splitlines()
    kinds = dict.fromkeys(line.split()[0] for line in layers if line.strip())
    unknown = [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]
    if unknown:
        raise Unsupported(f"ncnn {ncnn.__version__} has no operator {', '.join(unknown)}")
