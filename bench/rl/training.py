"""One run: updates by an arm until it has been charged enough, judged on held-out prompts all along."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from bench.rl.arms import ARMS, Update
from bench.rl.net import Speaker, logs
from bench.rl.rollouts import Rollouts, loss
from bench.rl.task import Problems, spoken

JUDGED = 5  # updates between two looks at the held-out prompts
WARM, NORM = 10, 1.0  # updates in which the learning rate rises, and the norm that gradients are cut to


class Trainer:
    """The model and its optimizer."""

    def __init__(self, model: Speaker, lr: float):
        self.model, self.lr, self.updates = model, lr, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)

    def update(self, update: Update) -> None:
        """One step down the gradient of the weighted mean of the groups' losses."""
        self.updates += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1, self.updates / WARM)
        self.optimizer.zero_grad()
        (update.weights * loss(self.model, update.pool)).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), NORM)
        self.optimizer.step()


@torch.no_grad()
def success(model: Speaker, held_out: Problems) -> float:
    """Percent of what is said to the held-out prompts that is right: the chance of the answer, and no luck of dice."""
    chances = (logs(model, held_out.prompts, held_out.answers[:, None])[:, 0] * spoken(held_out.answers)).sum(1).exp()
    return 100 * float(chances.mean())


def run(
    arm: str,
    model: Speaker,
    train: Problems,
    held_out: Problems,
    *,
    seed: int,
    lr: float,
    enough: Callable[[int, list[str]], bool],
    most: int = 1_000_000,
    judged: int = JUDGED,
) -> dict[str, Any]:
    """The model trained in place, and what there is to know of it.

    Args:
        arm: its name.
        model: from the start of the seed.
        train: prompts to learn from.
        held_out: prompts to judge by.
        seed: of the order of prompts and of what is said.
        lr: the learning rate, constant after a short rise.
        enough: whether so many pools and updates of these costs are enough.
        most: pools after which the run ends, though no update came of the last ones.
        judged: updates between two judgements.
    """
    begun = time.perf_counter()
    rollouts, trainer = Rollouts(model, train, seed, most), Trainer(model, lr)
    costs: list[str] = []
    pools: list[int] = []  # made up to each update
    curve = [{"updates": 0, "success": success(model, held_out)}]
    for update in ARMS[arm](rollouts):
        trainer.update(update)
        costs.append(update.cost)
        pools.append(rollouts.pools)
        if enough(rollouts.pools, costs):
            break
        if trainer.updates % judged == 0:
            curve.append({"updates": trainer.updates, "success": success(model, held_out)})
    if curve[-1]["updates"] < trainer.updates:
        curve.append({"updates": trainer.updates, "success": success(model, held_out)})
    return {
        "arm": arm,
        "seed": seed,
        "lr": lr,
        "curve": curve,
        "costs": costs,
        "pools": pools,
        "alive": rollouts.alive,
        "seconds": time.perf_counter() - begun,
    }
