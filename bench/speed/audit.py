"""What the audit log costs: rows a second, and its share of a pool that is scored, ruled on and refilled.

    python -m bench audit

The incumbent is no log at all: the same stream without `write`. Runs are interleaved; medians and ranges of 9.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import puresift as ps
from bench.measure import Spread, bars, figure, hardware, save, spread

POOL, POOLS, RUNS = 64, 200, 9


def seconds(suffix: str | None, folder: str, run: int) -> float:
    """A stream of POOLS pools, its consumer doing nothing but log."""
    rows = ps.keys.uniform(ps.key(run), POOL * POOLS)
    ids = torch.arange(POOL * POOLS)
    pools = list(zip(rows.split(POOL), ids.split(POOL), strict=True))
    rule = ps.relative(keep=0.5)
    sifter = ps.sifter(lambda params, batch: batch[0], rule, batch_size=POOL, columns={"id": lambda batch: batch[1]})
    stream = ps.sift(sifter, sifter.init(ps.key(run), pools[0]), {}, pools)
    log = ps.AuditLog(Path(folder, f"{run}.{suffix}")) if suffix else None
    begun = time.perf_counter()
    for _, _, state, info in stream:
        if log:
            log.write(info, state.step)
    if log:
        log.close()
    return time.perf_counter() - begun


def main() -> None:
    torch.set_num_threads(1)
    arms: list[str | None] = [None, "jsonl"]
    arms += ["parquet"] if importlib.util.find_spec("pyarrow") else []
    spent: dict[str | None, list[float]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        for arm in arms:
            seconds(arm, folder, RUNS)  # warm
        for run in range(RUNS):
            for arm in arms:
                spent[arm].append(seconds(arm, folder, run))
    print(f"torch {torch.__version__}, {hardware()}, 1 thread, {POOLS} pools of {POOL}, {RUNS} runs")
    plain = median(spent[None])
    found = {"none": spread([seconds / POOLS * 1e3 for seconds in spent[None]])}
    print(f"no log   {plain / POOLS * 1e3:7.3f} ms a pool")
    for arm in arms[1:]:
        extra = sorted(one - other for one, other in zip(spent[arm], spent[None], strict=True))
        middle = median(extra) / POOLS
        found[str(arm)] = spread([seconds / POOLS * 1e3 for seconds in extra])
        print(
            f"{arm:8} {middle * 1e3:+7.3f} ms a pool ({extra[0] / POOLS * 1e3:+.3f} to {extra[-1] / POOLS * 1e3:+.3f})"
            f", {POOL / middle if middle > 0 else float('inf'):,.0f} rows/s, {middle * POOLS / plain:.1%} of a pool"
        )
    path = save("audit", {"milliseconds_a_pool": found}, pool=POOL, pools=POOLS, rounds=RUNS, seed="the round")
    figure(path, (5,), lambda axes: draw(axes, found))


def draw(axes: Any, found: dict[str, Spread]) -> None:
    names = ["no log, whole stream", *(f"{arm}, extra" for arm in found if arm != "none")]
    bars(axes, names, {"": list(found.values())})
    axes.set(ylabel=f"time a pool of {POOL} rows [ms]", title="The audit log")


if __name__ == "__main__":
    main()
