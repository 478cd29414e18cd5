"""Differences between two runs other than speed: machine, software, data, model; pure functions.

In: two `Results`. Out: texts such as `fact: old → new`, and the reasons why the runs cannot be
compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.schema import Environment, Results

_MEMORY_TOLERANCE = 1.05  # a kernel or firmware update uses some of it
_LIMIT_TOLERANCE = 1.1  # on a quiet machine, the fastest call of half a second varies by less
_LOAD_CODES = {"others", "steal", "heat"}


def machine_changes(old: Environment, new: Environment) -> list[str]:
    """Return differences between the machines that make their speeds incomparable."""
    facts = [
        ("cpu", old.cpu, new.cpu),
        ("machine", old.machine, new.machine),
        ("cores", old.cores, new.cores),
        ("isa", *(" ".join(sorted(each.isa)) or "none" for each in (old, new))),
        ("GPU", *(", ".join(gpu.name for gpu in each.gpus) or "none" for each in (old, new))),
    ]
    sizes = sorted((old.memory_bytes, new.memory_bytes))
    if sizes[1] > sizes[0] * _MEMORY_TOLERANCE:
        facts.append(("memory", *(f"{each.memory_bytes / 1e9:.1f} GB" for each in (old, new))))
    return [f"{name}: {was} → {now}" for name, was, now in facts if was != now]


def other_changes(old: Results, new: Results) -> list[str]:
    """Return other differences between the runs: software, data, checkpoint, settings of the
    machine."""
    was, now = old.environment, new.environment
    pairs = {
        "python": (was.python, now.python),
        "platform": (was.platform, now.platform),
        "governor": (was.governor, now.governor),
        "turbo": (was.turbo, now.turbo),
        "CPU quota": (was.cpu_quota, now.cpu_quota),
        "data": tuple(f"{run.dataset.name} {run.dataset.split}" for run in (old, new)),
        "images": (old.dataset.images, new.dataset.images),
        "checkpoint": (old.checkpoint.name, new.checkpoint.name),
        "weights": (old.checkpoint.sha256[:12], new.checkpoint.sha256[:12]),
    }
    changes = [f"{name} {_word(a)} → {_word(b)}" for name, (a, b) in pairs.items() if a != b]
    if old.dataset.sha256 != new.dataset.sha256:
        changes.append("the bytes of the data's files changed")
    changes += _version_changes(was.versions, now.versions)
    changes += _limit_changes(old, new)
    for which, run in (("old", old), ("new", new)):
        if run.warnings:
            codes = dict.fromkeys(each.code for each in run.warnings)
            changes.append(f"the {which} run was measured with warnings ({', '.join(codes)})")
        if run.interrupted:
            changes.append(f"the {which} run was interrupted")
    return changes


def unfit_reasons(old: Results, new: Results) -> list[str]:
    """Return why a difference between the runs may come from the machine: other load, a run that
    stopped early, other settings or another state of the machine."""
    reasons = []
    for which, run in (("old", old), ("new", new)):
        codes = {each.code for each in run.warnings}
        if codes & _LOAD_CODES:
            reasons.append(f"the {which} run was measured next to other load")
        if "stopped" in codes or run.interrupted:
            reasons.append(f"the {which} run stopped early")
    was, now = old.environment, new.environment
    for name, before, after in (
        ("the frequency governor", was.governor, now.governor),
        ("turbo", was.turbo, now.turbo),
        ("the CPU quota", was.cpu_quota, now.cpu_quota),
        ("battery power", was.on_battery, now.on_battery),
    ):
        if None not in (before, after) and before != after:
            reasons.append(f"{name} changed")
    share = limit_share(old, new)
    if share is not None and not 1 / _LIMIT_TOLERANCE <= share <= _LIMIT_TOLERANCE:
        change = "fell" if share < 1 else "rose"
        reasons.append(f"the limit of the machine {change} by {abs(share - 1):.0%}")
    return reasons


def limit_share(old: Results, new: Results) -> float | None:
    """Return the ratio of the machine's own float32 limit, new to old: the only measured value that
    shows how fast the machine was. None if it was not measured, or with other threads."""
    was, now = old.limits, new.limits
    if was is None or now is None or was.threads != now.threads:
        return None
    return now.float32_flops_per_s / was.float32_flops_per_s


def _word(value: object) -> str:
    return "unknown" if value is None else str(value)


def _version_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _limit_changes(old: Results, new: Results) -> list[str]:
    was, now = old.limits, new.limits
    if was is None or now is None or limit_share(old, new) in (None, 1.0):
        return []
    flops = [each.float32_flops_per_s for each in (was, now)]
    return [
        "the machine's float32 limit {:,.0f} → {:,.0f} GFLOP/s".format(
            *(each / 1e9 for each in flops)
        )
    ]
