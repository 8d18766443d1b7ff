"""What a rollout and an update cost: measured in turns on a quiet core, and charged alike to all runs.

The unit is a pool of rollouts, 32 prompts by 8 answers. A plain update costs as many units as the ratio says, 1 or 3,
or what was measured here; any other update its measured share of the plain one's time. An exact update is timed whole:
the sifter's step, what it hands out, and the update at that of its eight sizes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, repeat
from typing import Any

import torch

from bench import measure
from bench.rl.arms import Update, halved, sifted
from bench.rl.net import Speaker
from bench.rl.rollouts import PROMPTS, Pool, Rollouts, advantages
from bench.rl.task import data
from bench.rl.training import Trainer

RATIOS = ("1:1", "1:3", "measured")  # of rollouts to a plain update
Costs = dict[str, Any]


def measured(rounds: int = 9) -> Costs:
    """Seconds of a pool of rollouts and of every kind of update, medians, with all that were taken."""
    torch.manual_seed(0)
    model = Speaker()
    trainer, rollouts = Trainer(model, 1e-6), Rollouts(model, data()[0], 0)
    pool = rollouts()
    ones = torch.ones(PROMPTS)
    half = halved(pool)
    jobs: dict[str, Callable[[], Any]] = {
        "rollouts": rollouts,
        "plain": lambda: trainer.update(Update(pool, ones, "plain")),
        "half": lambda: trainer.update(Update(half, ones, "half")),
    }
    for size in range(PROMPTS // 8, PROMPTS + 1, PROMPTS // 8):
        jobs[f"exact-{size}"] = _exact(trainer, pool, size)
    times = measure.interleaved(jobs, rounds=rounds)
    return {"seconds": {name: statistics.median(taken) for name, taken in times.items()}, "taken": times}


def _exact(trainer: Trainer, pool: Pool, size: int) -> Callable[[], None]:
    """An update of a pool with so many groups alive, from the pool on."""
    reward = torch.zeros_like(pool["reward"])
    reward[:size, 0] = 1
    stream: Iterator[Any] = sifted(repeat({**pool, "reward": reward, "advantage": advantages(reward)}), refill=False)

    def job() -> None:
        batch, weights, _, _ = next(stream)
        assert len(weights) == size
        trainer.update(Update(batch, weights, f"exact-{size}"))

    return job


def prices(costs: Costs) -> dict[str, dict[str, float]]:
    """Units of each kind of update at each ratio."""
    seconds = costs["seconds"]
    whole = {"1:1": 1.0, "1:3": 3.0, "measured": seconds["plain"] / seconds["rollouts"]}
    return {
        ratio: {name: whole[ratio] * taken / seconds["plain"] for name, taken in seconds.items() if name != "rollouts"}
        for ratio in RATIOS
    }


def charged(record: Mapping[str, Any], price: Mapping[str, float]) -> list[float]:
    """Units charged up to each update, of none first."""
    updates = accumulate(price[cost] for cost in record["costs"])
    return [0.0, *(pools + spent for pools, spent in zip(record["pools"], updates, strict=True))]


def budget(steps: int, price: Mapping[str, float]) -> float:
    """Units of the plain run."""
    return steps * (1 + price["plain"])


def most(steps: int, units: dict[str, dict[str, float]], margin: float) -> int:
    """Pools that by themselves are charged so many times what the plain run is, at every ratio."""
    return math.ceil(margin * max(budget(steps, units[ratio]) for ratio in RATIOS))


def enough(steps: int, units: dict[str, dict[str, float]], margin: float) -> Callable[[int, list[str]], bool]:
    """Whether a run was charged so many times what the plain run is, at every ratio."""
    spent = dict.fromkeys(RATIOS, 0.0)

    def told(pools: int, costs: list[str]) -> bool:
        for ratio in RATIOS:
            spent[ratio] += units[ratio][costs[-1]]
        return all(pools + spent[ratio] >= margin * budget(steps, units[ratio]) - 1e-9 for ratio in RATIOS)

    return told
