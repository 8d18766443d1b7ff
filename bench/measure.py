"""What every bench shares: interleaved timing, medians with spread, and a result file that says where it was made."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(arms: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each arm in each round; the arms take turns, so that a noisy neighbour disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warmup, rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """The spread of the ratios round by round: neighbours in time are compared with each other."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def hardware() -> str:
    """The processor or the GPU, in words."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def save(theme: str, result: dict[str, Any], **settings: Any) -> Path:
    """Write `bench/results/<theme>_<hardware>_<date>.json` with versions, hardware and settings."""
    import puresift

    versions = {"puresift": puresift.__version__, "torch": torch.__version__, "python": platform.python_version()}
    where = {"hardware": hardware(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    date = datetime.date.today().isoformat()
    slug = re.sub(r"[^a-z0-9]+", "-", where["hardware"].lower()).strip("-")
    path = RESULTS / f"{theme}_{slug}_{date}.json"
    path.parent.mkdir(exist_ok=True)
    record = {"theme": theme, "date": date, "versions": versions, **where, "settings": settings, **result}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path.relative_to(RESULTS.parent.parent)}")
    return path
