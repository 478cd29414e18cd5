"""Measure the overhead of the toolkit's sessions compared with direct calls of each runtime.

Both use the same settings and alternate within one process, which keeps its memory; each runtime
has its own process.

    python benchmarks/by_hand.py EXPORTS --out by-hand.jsonl

EXPORTS is a folder that `toolkit export --format all --out EXPORTS` wrote. One line per runtime.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from toolkit.machine.allocator import keep_memory
from toolkit.schema import Settings
from toolkit.sessions.candidates import NO_OP, Candidate, find_candidates, find_subject
from toolkit.sessions.runtimes import CHECKPOINT_FORMAT, Session, import_loader
from toolkit.timing import time_calls

BATCH_SIZE = 100
PAIRS = 200
UNTIMED = 10

Run = Callable[[NDArray[np.float32]], object]


def onnxruntime(candidate: Candidate) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = candidate.settings.threads
    # Otherwise the threads of this session take the cores from the other one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(candidate.source.path), options, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: session.run(None, {"input": inputs})


def openvino(candidate: Candidate) -> Run:
    import openvino

    path = candidate.source.path
    model = openvino.Core().compile_model(
        path / "model.xml" if path.is_dir() else path,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": candidate.settings.threads,
            "ENABLE_HYPER_THREADING": True,
            "ENABLE_CPU_PINNING": False,
        },
    )
    return lambda inputs: model(inputs)[0]


def torch_module(candidate: Candidate) -> Run:
    import torch

    torch.set_num_threads(candidate.settings.threads)
    path = candidate.source.path
    if candidate.runtime.name == "torchscript":
        model: Any = torch.jit.load(path)
    elif candidate.runtime.name == "pt2":
        model = torch.export.load(path).module()
    else:
        from toolkit.checkpoints.storage import load_model

        model = load_model(path)[0].eval()

    def run(inputs: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(inputs)).numpy()

    return run


def aotinductor(candidate: Candidate) -> Run:
    import torch

    torch.set_num_threads(candidate.settings.threads)
    model = torch._inductor.aoti_load_package(str(candidate.source.path))

    def run(inputs: NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(inputs)).numpy()

    return run


def tract(candidate: Candidate) -> Run:
    import tract

    model = tract.onnx().load(candidate.source.path).into_model().into_runnable()
    return lambda inputs: model.run([inputs])[0].to_numpy()


def litert(candidate: Candidate) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(
        model_path=str(candidate.source.path / f"batch-{BATCH_SIZE}.tflite"),
        num_threads=candidate.settings.threads,
    )
    model.allocate_tensors()
    given, wanted = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

    def run(inputs: NDArray[np.float32]) -> object:
        model.set_tensor(given, inputs)
        model.invoke()
        return model.get_tensor(wanted)

    return run


def executorch(candidate: Candidate) -> Run:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(candidate.settings.threads)
    program = Runtime.get().load_program(candidate.source.path)
    method = program.load_method("forward")
    return lambda inputs: (program, method.execute([torch.from_numpy(inputs)])[0].numpy())[1]


def ncnn(candidate: Candidate) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = candidate.settings.threads
    for name in dir(net.opt):
        if name.startswith(("use_fp16_", "use_bf16_", "use_int8_")):
            setattr(net.opt, name, False)
    net.load_param(str(candidate.source.path / "model.param"))
    net.load_model(str(candidate.source.path / "model.bin"))
    given, wanted = net.input_names()[0], net.output_names()[0]

    def one(image: NDArray[np.float32]) -> object:
        extractor = net.create_extractor()
        extractor.input(given, ncnn.Mat(image))
        return np.array(extractor.extract(wanted)[1])

    return lambda inputs: [one(image) for image in inputs]


def mnn(candidate: Candidate) -> Run:
    import MNN

    interpreter = MNN.Interpreter(str(candidate.source.path))
    interpreter.setSessionHint(3, 1)  # as in the toolkit's session: the smallest Winograd tiles
    session = interpreter.createSession(
        {"numThread": candidate.settings.threads, "precision": "high", "backend": "CPU"}
    )
    given = interpreter.getSessionInput(session)
    interpreter.resizeTensor(given, (BATCH_SIZE, *candidate.source.artifact.input_shape))
    interpreter.resizeSession(session)
    kind = MNN.Tensor_DimensionType_Caffe

    def run(inputs: NDArray[np.float32]) -> object:
        given.copyFrom(MNN.Tensor(inputs.shape, MNN.Halide_Type_Float, inputs, kind))
        interpreter.runSession(session)
        found = interpreter.getSessionOutput(session)
        logits = MNN.Tensor(found.getShape(), MNN.Halide_Type_Float,
                            np.empty(found.getShape(), np.float32), kind)  # fmt: skip
        found.copyToHostTensor(logits)
        return logits.getNumpyData()

    return run


BY_HAND: dict[str, Callable[[Candidate], Run]] = {
    **dict.fromkeys(("eager", "torchscript", "pt2"), torch_module),
    **{"aotinductor": aotinductor, "onnxruntime": onnxruntime, "openvino": openvino},
    **{"tract": tract, "litert": litert, "executorch": executorch, "ncnn": ncnn, "mnn": mnn},
}


def compare(candidate: Candidate) -> dict[str, Any]:
    """Return medians in seconds and their ratio, session to direct call, of alternating calls."""
    keep_memory()
    row = candidate.runtime
    os.environ.update(row.environment)
    session: Session = import_loader(row.module, row.package, row.install).load(
        candidate.source, candidate.settings
    )
    hand = BY_HAND[row.name](candidate)
    random = np.random.default_rng(0)
    shape = (BATCH_SIZE, *candidate.source.artifact.input_shape)
    times_s: dict[str, list[float]] = {"session": [], "hand": []}
    sides: dict[str, Run] = {"session": session.run, "hand": hand}
    for number in range(UNTIMED + PAIRS):
        batch = random.standard_normal(shape, np.float32)
        for name in random.permutation(list(sides)):
            ((time_ns,), _) = time_calls(sides[name], [batch], calls=1)
            if number >= UNTIMED:
                times_s[name].append(time_ns / 1e9)
    session_s, hand_s = (statistics.median(each) for each in times_s.values())
    return {
        "runtime": row.name,
        "format": candidate.source.artifact.format,
        "precision": candidate.source.artifact.precision,
        "threads": candidate.settings.threads,
        "session_s": session_s,
        "hand_s": hand_s,
        "ratio": session_s / hand_s,
    }


def candidates(exports: Path, threads: int) -> Sequence[Candidate]:
    subject = find_subject([exports], checkpoint=None, model=None)
    found = find_candidates(subject, ["all"], Settings(threads=threads))
    return [
        each
        for each in found
        if each.runtime.name in BY_HAND
        and each.runtime.name != NO_OP
        and (each.runtime.name == "openvino") <= (each.source.artifact.format == "openvino")
        and (each.runtime.name == "onnxruntime") <= (each.source.artifact.format == "onnx")
        and (each.source.artifact.format == CHECKPOINT_FORMAT) == (each.runtime.name == "eager")
    ]


@click.command()
@click.argument("exports", type=click.Path(path_type=Path))
@click.option("--threads", type=int, default=1, show_default=True)
@click.option(
    "--only", type=int, hidden=True, help=("Number of the candidate to measure in this process.")
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(exports: Path, threads: int, only: int | None, out: Path) -> None:
    """Compare each runtime's session with direct calls."""
    rows = candidates(exports, threads)
    if only is not None:
        with out.open("a") as file:
            file.write(json.dumps(compare(rows[only])) + "\n")
        return
    for number, row in enumerate(rows):
        command = [sys.executable, __file__, str(exports), "--threads", str(threads)]
        subprocess.run([*command, "--only", str(number), "--out", str(out)], check=False,
                       stderr=subprocess.DEVNULL)  # fmt: skip
        last = out.read_text().splitlines()[-1] if out.exists() else ""
        print(last if row.runtime.name in last else f"{row.label}: failed")


if __name__ == "__main__":
    main()
