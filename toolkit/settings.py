"""Settings given by the user; they are checked once, on entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from toolkit.errors import SettingError
from toolkit.machine.threads import MOST_THREADS, check_threads
from toolkit.schema import Device, Settings

SWEPT = ("batch-size", "threads", "streams")
_MOST = 1_000_000_000  # of seconds, rounds, epochs, flips: a larger value is a typing error
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


def session_settings(
    threads: int | None,
    device: Device,
    *,
    streams: int = 1,
    keep_memory: bool = False,
    batch_size: int,
    timeout_s: float,
) -> Settings:
    """Check and return the settings of all sessions of a run.

    Raises:
        SettingError: A value is out of range.
    """
    check_batch_size(batch_size)
    check_positive("--timeout", timeout_s)
    if device not in ("cpu", "cuda"):
        raise SettingError(f"--device {device}: expected cpu or cuda")
    return Settings(
        threads=check_threads(threads),
        device=device,
        streams=check_streams(streams),
        keep_memory=keep_memory,
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
