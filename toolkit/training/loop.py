"""The training loop: the epochs and steps from the saved state to the end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.checkpoints.model import build_model
from toolkit.data import Dataset
from toolkit.report.progress import Progress
from toolkit.schema import Checkpoint, Device, Epoch, InputSpec
from toolkit.training.augmentation import move_a_little
from toolkit.training.feed import Scale, make_feed, on_device
from toolkit.training.generators import seed_generators
from toolkit.training.log import TrainingLog
from toolkit.training.memory import explained
from toolkit.training.order import Order
from toolkit.training.processes import Processes
from toolkit.training.recipe import TrainingOptions, find_recipe, learning_rate
from toolkit.training.state import Keeper, Position, State, put_tensors, tensors_of
from toolkit.training.step import Step, make_step

_EVALUATION_PIXELS = 250 * 28 * 28  # per batch; the memory of a model grows with it


@dataclass(frozen=True, kw_only=True)
class Job:
    """The model and data of a training. `checkpoint` is the record of the model, without
    weights."""

    checkpoint: Checkpoint
    training: Dataset
    test: Dataset
    options: TrainingOptions
    processes: Processes

    @property
    def order(self) -> Order:
        """The images of each step."""
        return Order(
            images=len(self.training),
            batch_size=self.options.batch_size,
            epochs=self.options.epochs,
            seed=self.options.seed,
            processes=self.processes.count,
        )


def fit(
    job: Job, keeper: Keeper, *, state: State | None, progress: Progress
) -> tuple[nn.Module, Position]:
    """Train from the state, or from the start, to the end.

    Returns:
        The model, on the device, and the final position of the training.

    Raises:
        SettingError: A loss is not finite, or there is not enough memory.
    """
    options, order, spec = job.options, job.order, job.checkpoint.input
    recipe, device, rank = find_recipe(options.recipe), options.device, job.processes.rank
    seed_generators(device, options.seed)
    model = build_model(job.checkpoint.model).to(device)
    step, optimizer = make_step(
        model,
        device,
        options.batch_size,
        tuned=recipe.tuned,
        processes=job.processes,
        label_smoothing=recipe.label_smoothing,
    )
    feed = make_feed(job.training, spec, device, recipe)
    black = Scale(spec, device).black()
    losses = torch.zeros(order.steps, device=device)
    hardness = torch.zeros(order.images, device=device)
    alone = job.processes.count == 1
    own = {"losses": losses, "hardness": hardness}
    done, epochs = 0, list[Epoch]()
    if state is not None:
        put_tensors(state.tensors, model, optimizer)
        for name, tensor in own.items():
            tensor.copy_(state.tensors[name])
        done, epochs = state.position.step, list(state.position.epochs)

    def snapshot() -> State:
        copies = {name: tensor.cpu() for name, tensor in own.items()}
        tensors = {**tensors_of(model, optimizer), **copies}
        return State(position=keeper.position(done, epochs), tensors=tensors)

    log = TrainingLog(losses, order, options, progress)
    keeper.keep(snapshot)
    while done < order.steps:
        number, within = divmod(done, order.steps_per_epoch)
        known = hardness.cpu() if recipe.hardest_last and number and alone else None
        batches = order.epoch(number, rank=rank, losses=known)
        model.train()
        log.begin_epoch(number, done)
        left = batches[within:]
        places = on_device(left, losses.device)  # all at once: no step waits for a copy
        for rows, (images, labels) in zip(places, feed(left), strict=True):
            keeper.keep_if_due(snapshot)
            seed_generators(device, order.seed_of_step(done, rank=rank))
            if options.augment:
                images = move_a_little(images, black)
            lr = learning_rate(done, order.steps, options)
            smaller = partial(_try_smaller, step, images, labels) if alone else None
            with explained(len(images), smaller):
                found = step(images, labels, lr=lr)
            losses[done] = found.mean()
            if not order.ends_early(number):
                hardness[rows] = found
            done += 1
            log.report(done)
        log.end_epoch()
        epochs.append(log.record(_test_accuracy(job, model, number)))
    return model, keeper.position(done, epochs)


def _test_accuracy(job: Job, model: nn.Module, epoch: int) -> float | None:
    """Return the accuracy after an epoch; None if a shorter last epoch follows, or if another
    process writes."""
    if not job.processes.writes or job.order.ends_early(epoch + 1):
        return None
    return evaluate(model, job.test, job.checkpoint.input, job.options.device)


def _try_smaller(step: Step, images: Tensor, labels: Tensor, count: int) -> None:
    """Run the same step on the first `count` images; its effect on the weights does not matter."""
    step(images[:count], labels[:count], lr=0.0)


def evaluate(model: nn.Module, dataset: Dataset, spec: InputSpec, device: Device) -> float:
    """Return the share of images that the model, in eval mode, classifies as labelled."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    height, width = dataset.images.shape[2:]
    batch_size = max(1, _EVALUATION_PIXELS // (height * width))
    batches = torch.split(torch.arange(len(dataset)), batch_size)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for images, labels in make_feed(dataset, spec, device)(batches):
            correct += (model(images).argmax(1) == labels).sum()
    return int(correct) / len(dataset)
