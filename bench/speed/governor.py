"""The governor by the real clock: a dear score should cost at most 2 %, a cheap one should save what it can.

    python -m bench governor

Arms: plain (keep all, unscored: the incumbent), sifted without and with the governor, each with a cheap score (the
model once, in eval mode) and a dear one (the same score, computed until it costs about two training steps). Seeded,
interleaved; medians and ranges of 5 runs, as a share of the plain run of the same round.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

import puresift as ps
from bench.measure import COLOURS, bars, figure, hardware, save, spread

POOL, POOLS, RUNS, WIDTH = 64, 250, 5, 448


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def seconds(times: int, governor: ps.Governor | None, run: int) -> tuple[float, float, float]:
    """A run's seconds, the share of pools sifted, and the last measured phi; times = 0 is the plain arm."""
    torch.manual_seed(run)
    model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(POOL * POOLS, 64)
    pools = list(zip(x.split(POOL), (x[:, :10].argmax(1)).split(POOL), strict=True))
    score = ps.batched(model, loss)

    def priced(params: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        for _ in range(times - 1):
            score(params, batch)
        return score(params, batch)

    if times:
        sifter = ps.sifter(priced, ps.delay(ps.relative(keep=0.5), 5), batch_size=POOL)
    else:
        sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=POOL)
    state = sifter.init(ps.key(run), pools[0])
    score(ps.live(model)(), pools[0])
    begun, sifted, phi = time.perf_counter(), 0.0, float("nan")
    for batch, weights, _, info in ps.sift(sifter, state, ps.live(model), pools, governor=governor):
        optimizer.zero_grad()
        (weights * loss(model, batch)).mean().backward()
        optimizer.step()
        if "sifting" in info.extra:
            sifted, phi = sifted + float(info.extra["sifting"].sum()) / POOLS, float(info.extra["phi"][-1])
    return time.perf_counter() - begun, sifted, phi


def main() -> None:
    torch.set_num_threads(1)
    governor = ps.governor()
    dear = 6
    seconds(0, None, RUNS)  # warm
    arms = {
        "cheap": (1, None),
        "cheap, governed": (1, governor),
        "dear": (dear, None),
        "dear, governed": (dear, governor),
    }
    plains, shares, seen = [], {name: [] for name in arms}, {name: [] for name in arms}
    for run in range(RUNS):
        plains.append(seconds(0, None, run)[0])
        for name, (times, judge) in arms.items():
            spent, sifted, phi = seconds(times, judge, run)
            shares[name].append(spent / plains[-1])
            seen[name].append((sifted, phi))
    print(f"torch {torch.__version__}, {hardware()}, 1 thread, {POOLS} pools of {POOL}, {RUNS} runs")
    print(
        f"plain            {median(plains) / POOLS * 1e3:6.3f} ms a pool ({min(plains) / POOLS * 1e3:.3f} to "
        f"{max(plains) / POOLS * 1e3:.3f})"
    )
    for name in arms:
        line = f"{name:16} {median(shares[name]):6.3f} of plain ({min(shares[name]):.3f} to {max(shares[name]):.3f})"
        if arms[name][1]:
            line += (
                f", {median(s for s, _ in seen[name]):.1%} of pools sifted, phi {median(p for _, p in seen[name]):.2f}"
            )
        print(line)
    found = {
        name: {
            "share_of_plain": spread(shares[name]),
            "pools_sifted": spread([sifted for sifted, _ in seen[name]]),
            "phi": spread([phi for _, phi in seen[name]]) if arms[name][1] else None,
        }
        for name in arms
    }
    path = save(
        "governor", {"arms": found}, pool=POOL, pools=POOLS, rounds=RUNS, width=WIDTH, keep=0.5, seed="the round"
    )
    figure(path, (5.5,), lambda axes: draw(axes, found))


def draw(axes: Any, found: dict[str, Any]) -> None:
    bars(axes, [f"score {name}" for name in found], {"": [row["share_of_plain"] for row in found.values()]})
    axes.axhline(1, color=COLOURS["plain"], linestyle="--", label="plain")
    axes.set(ylabel="time of the whole run, plain = 1", title="The governor, keep 0.5")


if __name__ == "__main__":
    main()
