"""The results of `benchmarks/on_gpu` as a short table; pure functions.

In: the dictionary of on_gpu.json. Out: Markdown, and the failures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Found = Mapping[str, Any]
_BATCH_SIZE = 100
_SAME = 1e-3  # logit units; float32 moves these by 1e-5


def table(found: Found, *, wall_s: float) -> str:
    """Return a few lines for each part that ran."""
    blocks = [
        _card(found["card"]),
        _speeds(found),
        _parity(found.get("parity", {})),
        _lines(found),
        _took(found, wall_s),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def failures(found: Found) -> list[str]:
    """Return one line for each part that did not run or is wrong."""
    lines = [f"{name}: {each['error']}" for name, each in found.items() if "error" in each]
    lines += [f"export of {name}: {text}" for name, text in _texts(found.get("export", {}))
              if text != "written"]  # fmt: skip
    for part in ("by-hand", "bench"):
        for name, row in found.get(part, {}).get("rows", {}).items():
            reason = row.get("error") or (row.get("reason") if row.get("status", "") else None)
            if reason:
                lines.append(f"{part} {name}: {reason}")
            if row.get("difference", 0.0) > _SAME:
                lines.append(
                    f"{part} {name}: the logits of direct calls are {row['difference']:.1e} away "
                    "from the session's"
                )
    lines += [
        f"parity {row['runtime']} {row['format']} {row['precision']}: {row['status']}: "
        f"{row['reason']}"
        for row in found.get("parity", {}).get("rows", [])
        if row["status"] != "passed"
    ]
    for each in found.get("contract", {}).get("by_runtime", {}).values():
        lines += each["failed"]
    return lines


def _card(card: Found) -> str:
    if "card" not in card:
        return (
            f"No CUDA device: torch {card.get('torch')} finds none; nvidia-smi "
            f"{card.get('nvidia-smi', 'is installed')}. The parts that need one were not run."
        )
    providers = ", ".join(card.get("providers", []))
    return (
        f"{card['card']}, driver {card.get('driver_version')}, {card.get('clocks.sm')} of "
        f"{card.get('clocks.max.sm')} while idle, {card['cores']} cores; Python {card['python']}, "
        f"torch {card['torch']}, cuDNN {card['cudnn']}, onnxruntime {card['onnxruntime']} "
        f"({providers})"
    )


def _speeds(found: Found) -> str:
    bench = found.get("bench", {}).get("rows", {})
    hand = found.get("by-hand", {}).get("rows", {})
    names = list(dict.fromkeys([*hand, *(name.removesuffix(" fp32") for name in bench)]))
    if not names:
        return ""
    return _rows(
        ["runtime, fp32, batch 100", "images/s, 95 %", "µs per call", "direct call",
         "session / direct", "kernels", "copies in, out", "% of limit"],
        (
            [name, *_speed(bench.get(f"{name} fp32", {})), *_by_hand(hand.get(name, {})),
             _percent(bench.get(f"{name} fp32", {}).get("limit_share"))]
            for name in names
        ),
    )  # fmt: skip


def _speed(row: Found) -> list[str]:
    speed = row.get("images_per_s")
    if not speed:
        return [row.get("status", "") and f"{row['status']}", ""]
    width = max(speed["high"] - speed["value"], speed["value"] - speed["low"]) / speed["value"]
    call_us = 1e6 * _BATCH_SIZE / speed["value"]
    return [f"{speed['value']:,.0f} ± {width:.1%}", f"{call_us:.0f}"]


def _by_hand(row: Found) -> list[str]:
    if "session_s" not in row:
        return ["", "", "", ""]
    hand = f"{row['session_s'] * 1e6:.0f}"
    ratio = ""
    if row.get("ratio"):
        hand, ratio = f"{row['hand_s'] * 1e6:.0f}", f"{row['ratio']:.3f}"
    else:
        hand = f"(session {hand})"
    return [
        hand,
        ratio,
        f"{row['kernels_s'] * 1e6:.0f}",
        f"{row['to_device_s'] * 1e6:.0f}, {row['from_device_s'] * 1e6:.0f}",
    ]


def _parity(part: Found) -> str:
    if not part.get("rows"):
        return ""
    return _rows(
        ["parity", "verdict", "compared", "flips", "largest difference", "floors", "arithmetic"],
        (
            [
                f"{row['runtime']} {row['format']} {row['precision']}",
                *(row["status"], str(row["compared"]), str(row["flips"])),
                f"{row['max_abs_diff']:.1e}" if row["max_abs_diff"] is not None else "",
                f"{row['max_diff_in_floors']:.1f}" if row["max_diff_in_floors"] else "",
                f"{row['arithmetic']}, {row['provider']}",
            ]
            for row in part["rows"]
        ),
    )


def _lines(found: Found) -> str:
    """Return the parts that need only a line, and the failures."""
    lines = []
    limits = (found.get("bench", {}).get("limits") or {}).get("gpu")
    if limits:
        lines.append("limits measured in the same run: " + _limits(limits))
    for number, row in enumerate(found.get("train", {}).get("rows", []), start=1):
        if "process_s" in row:
            lines.append(
                f"train, process {number}: {row['process_s']:.2f} s, including "
                f"{row['training_s']:.2f} s of training, {row['accuracy']:.2%}"
            )
    seeds = found.get("seeds", {})
    if "mean" in seeds:
        later = "" if seeds["later_s"] is None else f", the others {seeds['later_s']:.3f} s"
        lines.append(
            f"train, {len(seeds['rows'])} seeds in one process: {seeds['mean']:.3%} ± "
            f"{seeds['deviation']:.3%}; the first took {seeds['first_s']:.2f} s{later}"
        )
    if "text" in found.get("kills", {}):
        lines.append(found["kills"]["text"])
    if "counts" in found.get("contract", {}):
        counts = found["contract"]["counts"]
        lines.append("contract on CUDA: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    lines += found.get("faults", {}).get("lines", [])[-1:]
    lines += [f"{case}: {line}" for case, said in _texts(found.get("bad-input", {}), list)
              for line in said]  # fmt: skip
    lines += [f"FAILED {line.removeprefix('FAILED ')}" for line in failures(found)]
    return "\n".join(f"- {' '.join(line.split())[:400]}" for line in lines)


def _limits(limits: Found) -> str:
    products = [
        f"{name} {limits[f'{name}_flops_per_s'] / 1e12:.0f} TFLOP/s"
        for name in ("float32", "tf32", "bfloat16", "float16")
        if limits[f"{name}_flops_per_s"]
    ]
    copies = [
        f"{name} {limits[f'{name}_bytes_per_s'] / 1e9:.0f} GB/s"
        for name in ("copy", "pinned", "pageable")
    ]
    return ", ".join([*products, *copies])


def _took(found: Found, wall_s: float) -> str:
    parts = ", ".join(f"{name} {each['took_s']:.0f}" for name, each in found.items())
    return f"All: {wall_s:.0f} s ({parts})."


def _texts(part: Found, kind: type = str) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in part.items()
            if isinstance(value, kind) and name != "error"]  # fmt: skip


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _rows(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
