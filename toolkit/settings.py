"""Settings given by the user; they are checked once, on entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from toolkit.errors import SettingError
from toolkit.machine.threads import MOST_THREADS, check_threads
from toolkit.schema import Device, Settings

SWEPT = ("batch-size", "threads", "streams")
_MOST = 1_000_000_000  # for seconds, rounds, epochs, flips: a larger value is a typing error
_MOST_IMAGES = 1_000_000  # per batch
_LARGEST_SEED = 2**63 - 1  # the generators of torch keep a seed in 64 bits


def check_positive(flag: str, value: float, *, most: float = _MOST) -> None:
    """Raise SettingError unless `value` is finite, above 0 and at most `most`."""
    if not 0 < value <= most or value == float("inf"):
        limit = f" and at most {most:,}" if most < float("inf") else ""
        raise SettingError(f"{flag} {value}: expected a number above 0{limit}")


def check_batch_size(batch_size: int) -> None:
    """Raise SettingError unless the batch size is possible."""
    check_positive("--batch-size", batch_size, most=_MOST_IMAGES)


def check_seed(seed: int, flag: str = "--seed") -> None:
    """Raise SettingError unless torch accepts the seed."""
    if not 0 <= seed <= _LARGEST_SEED:
        raise SettingError(f"{flag} {seed}: expected a whole number from 0 to {_LARGEST_SEED}")


def check_streams(streams: int) -> int:
    """Check and return the number of streams.

    Raises:
        SettingError: Below 1, or more than any machine can use.
    """
    if not 1 <= streams <= MOST_THREADS:
        raise SettingError(f"--streams {streams}: expected 1 or more, at most {MOST_THREADS}")
    return streams


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The user's options for all sessions of a run; they are checked when the object is made.

    Attributes:
        batch_size: Images per call.
        threads: Threads inside a call, for each stream; None uses all usable cores.
        streams: Calls that run at the same time.
        device: `cpu` or `cuda`.
        keep_memory: Keep memory that a runtime frees in its process.
        timeout_s: A worker that does not answer for this long is killed.

    Raises:
        SettingError: A value is out of range.
    """

    batch_size: int = 100
    threads: int | None = None
    streams: int = 1
    device: Device = "cpu"
    keep_memory: bool = False
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        check_batch_size(self.batch_size)
        check_positive("--timeout", self.timeout_s)
        if self.device not in ("cpu", "cuda"):
            raise SettingError(f"--device {self.device}: expected cpu or cuda")
        check_threads(self.threads)
        check_streams(self.streams)

    @property
    def settings(self) -> Settings:
        """Return the settings of each session."""
        return Settings(
            threads=check_threads(self.threads),
            device=self.device,
            streams=self.streams,
            keep_memory=self.keep_memory,
        )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings and batch sizes to measure in every combination."""

    settings: tuple[Settings, ...]
    batch_sizes: tuple[int, ...]


def make_grid(single: Settings, *, batch_size: int, sweep: Mapping[str, Sequence[int]]) -> Grid:
    """Build the grid of `sweep`. Swept values replace the single ones.

    Raises:
        SettingError: A name that cannot be swept, no value, or a value out of range.
    """
    unknown = sorted(set(sweep) - set(SWEPT))
    if unknown:
        raise SettingError(f"--sweep {unknown[0]}: expected one of {', '.join(SWEPT)}")
    for name, values in sweep.items():
        if not values:
            raise SettingError(f"--sweep {name}: expected one or more values, such as {name}=1,2")
    sizes = tuple(dict.fromkeys(sweep.get("batch-size", (batch_size,))))
    for size in sizes:
        check_batch_size(size)
    return Grid(
        settings=tuple(
            replace(single, threads=check_threads(threads), streams=check_streams(streams))
            for threads in dict.fromkeys(sweep.get("threads", (single.threads,)))
            for streams in dict.fromkeys(sweep.get("streams", (single.streams,)))
        ),
        batch_sizes=sizes,
    )
