"""The log of a training: progress messages, and the record of each epoch."""

from __future__ import annotations

from torch import Tensor

from toolkit.errors import SettingError
from toolkit.report.progress import Progress
from toolkit.schema import Epoch
from toolkit.timing import Stopwatch
from toolkit.training.order import Order
from toolkit.training.recipe import TrainingOptions, learning_rate

_EVERY_S = 0.5  # each time, the host waits for the device


class TrainingLog:
    """Reports progress, checks losses, and records epochs.

    `losses` holds the loss of each step, on the device; the loop fills it.
    """

    def __init__(
        self, losses: Tensor, order: Order, options: TrainingOptions, progress: Progress
    ) -> None:
        self._losses = losses
        self._order = order
        self._options = options
        self._progress = progress

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Begin epoch `epoch`, from 0, or the rest of it after `done` steps in total."""
        self._epoch = epoch
        self._first = epoch * self._order.steps_per_epoch
        self._last = min(self._first + self._order.steps_per_epoch, self._order.steps)
        self._begun_at = done
        self._begun = self._told = Stopwatch()
        self._progress("epochs", epoch, self._order.whole_epochs)

    def report(self, done: int) -> None:
        """Called after each step; twice per second, report progress and check the losses.

        Raises:
            SettingError: A loss is not finite; the message names the step, and what to try.
        """
        if done == self._last or self._told.elapsed_s() > _EVERY_S:
            losses = self._losses[self._first : done].cpu()
            self._check(losses)
            note = f"loss {losses.mean():.4f}, {self._images_per_s(done):,.0f} images/s"
            steps = self._last - self._first
            self._progress(f"epoch {self._epoch + 1}", done - self._first, steps, note)
            self._told = Stopwatch()

    def end_epoch(self) -> None:
        """End the timing of the epoch: its steps are done."""
        self._rate = self._images_per_s(self._last)

    def record(self, accuracy: float | None) -> Epoch:
        """Return the record of the finished epoch, with the test accuracy if it was measured."""
        note = "" if accuracy is None else f"test accuracy {accuracy:.2%}"
        self._progress("epochs", self._epoch + 1, self._order.whole_epochs, note)
        return Epoch(
            number=self._epoch + 1,
            loss=float(self._losses[self._first : self._last].mean()),
            accuracy=accuracy,
            images_per_s=self._rate,
        )

    def _images_per_s(self, done: int) -> float:
        """Return images per second since this process began the epoch."""
        return self._order.images_in(self._begun_at, done) / self._begun.elapsed_s()

    def _check(self, losses: Tensor) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            number = int(bad[0])
            lr = learning_rate(self._first + number, self._order.steps, self._options)
            raise SettingError(
                f"the loss became {float(losses[number])} in step {number + 1} of "
                f"{self._last - self._first} of epoch {self._epoch + 1}, at a learning rate of "
                f"{lr:.3g}; try --lr {self._options.lr / 10:.3g}, and look for damaged images"
            )
