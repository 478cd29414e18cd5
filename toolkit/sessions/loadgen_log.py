"""LoadGen's log files → the result of a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.schema import Percentile, ScenarioName
from toolkit.statistics.samples import samples_needed

_SHARES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """LoadGen's report; see `ScenarioReport` for the fields. `version` is LoadGen's."""

    valid: bool
    violations: tuple[str, ...]
    queries: int
    samples: int
    duration_s: float
    samples_per_s: float
    latency_s: tuple[Percentile, ...]
    mlperf_latency_s: float | None
    version: str
    checked: int = 0


def read_result(folder: Path, scenario: ScenarioName) -> LoadResult:
    """Read LoadGen's verdict from its summary, and its numbers from its detailed log."""
    summary = (folder / "mlperf_log_summary.txt").read_text()
    entries = _details(folder / "mlperf_log_detail.txt")
    found = {entry["key"]: entry["value"] for entry in entries}
    queries = int(found["result_query_count"])
    samples = queries * int(found["effective_samples_per_query"])
    speed = float(found[_SPEED_KEYS[scenario]])
    offline = scenario == "offline"
    early = found.get("early_stopping_latency_ss") if scenario == "single-stream" else None
    errors = [str(entry["value"]) for entry in entries if entry["metadata"]["is_error"]]
    valid = re.search(r"^Result is : VALID$", summary, re.MULTILINE) is not None
    return LoadResult(
        valid=valid,
        violations=() if valid else tuple(dict.fromkeys([*violations(summary), *errors])),
        queries=queries,
        samples=samples,
        duration_s=(samples if offline else samples - 1) / speed,
        samples_per_s=speed,
        latency_s=() if offline else tuple(_percentile(found, each, queries) for each in _SHARES),
        mlperf_latency_s=early / 1e9 if early else None,
        version=str(found["loadgen_version"]),
    )


_SPEED_KEYS: dict[ScenarioName, str] = {
    "offline": "result_samples_per_second",
    "single-stream": "result_qps_with_loadgen_overhead",
    "server": "result_completed_samples_per_sec",
}


def _details(path: Path) -> list[dict[str, Any]]:
    """Read the detailed log: one JSON object per line, after a mark."""
    mark = ":::MLLOG "
    lines = path.read_text().splitlines()
    return [json.loads(line.removeprefix(mark)) for line in lines if line.startswith(mark)]


def _percentile(found: dict[str, Any], share: float, samples: int) -> Percentile:
    """Return LoadGen's value if there are enough queries."""
    needed = samples_needed(share)
    value = found[f"result_{share * 100:.2f}_percentile_latency_ns"] / 1e9
    return Percentile(
        share=share,
        value=value if samples >= needed else None,
        samples=samples,
        samples_needed=needed,
    )


def violations(summary: str) -> list[str]:
    """Return why a summary calls a run INVALID: the broken rules, LoadGen's recommendations, and
    what early stopping needs."""
    broken = [each[0].strip() for each in re.findall(r"^  (.*satisfied) ?: ?(NO)$", summary, re.M)]
    parts = [f"{rule}: no" for rule in broken]
    parts += _bullets(summary, "Recommendations:")
    if any(rule.startswith("Early stopping") for rule in broken):
        parts.append(" ".join(_bullets(summary, "Early Stopping Result:")))
    return [part for part in parts if part]


def _bullets(summary: str, heading: str) -> list[str]:
    """Return the ` * ` items below a heading, each on one line."""
    block = re.search(rf"^{re.escape(heading)}\n((?: .*\n)+)", summary, re.MULTILINE)
    if block is None:
        return []
    items = re.split(r"^ \* ", block[1], flags=re.MULTILINE)
    return [" ".join(item.split()) for item in items if item.strip()]
