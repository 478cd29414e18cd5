"""Loading of CUDA's libraries in the background, before the first training step.

In: the options of a training. Out: nothing; the libraries are loaded when its first step runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

from toolkit.checkpoints.reference_cnn import ReferenceCNN
from toolkit.training.generators import callers_generators_kept
from toolkit.training.processes import Processes
from toolkit.training.recipe import TrainingOptions, find_recipe
from toolkit.training.step import make_step


@contextmanager
def libraries_loaded_meanwhile(options: TrainingOptions) -> Iterator[None]:
    """Run a step of a throwaway model in a thread while the body runs; end when both have finished.

    The first step of a process loads cuDNN, cuBLAS and the kernels, which takes longer than reading
    the data. This does nothing on the CPU, with several processes, or if this process has used CUDA
    before. A failure is ignored here: it occurs again, and is reported, in the training itself.
    """
    used = torch.cuda.is_initialized()
    if options.device == "cpu" or options.processes > 1 or used:
        yield
        return
    pool = ThreadPoolExecutor(1)
    try:
        first = pool.submit(_take_a_step, options)
        yield
        wait([first])
    finally:
        pool.shutdown()


def _take_a_step(options: TrainingOptions) -> None:
    """Run a step like the training's on black images of MNIST's size, without changing the caller's
    generators."""
    device, count, tuned = options.device, options.batch_size, find_recipe(options.recipe).tuned
    images = torch.zeros(count, 1, 28, 28, device=device)
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    deterministic = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=True)
    with callers_generators_kept(device), deterministic:
        model = ReferenceCNN().to(device)
        step, _ = make_step(model, device, count, tuned=tuned, processes=Processes())
        step(images, labels, lr=0.0)
        torch.cuda.synchronize()
