"""Whether the exact arm makes the plain one's steps: the first gradient, and the weights after some updates."""

from __future__ import annotations

import copy
from typing import Any

import torch

from bench.rl.arms import ARMS
from bench.rl.net import Speaker
from bench.rl.rollouts import Rollouts, loss
from bench.rl.start import begun
from bench.rl.task import Problems, data
from bench.rl.training import run
from bench.rl.work import Plan

UPDATES = 50


def checked(plan: Plan, seed: int, lr: float, updates: int = UPDATES) -> dict[str, Any]:
    """How far apart the two arms are after so many updates, as a share of the way from the start."""
    torch.set_num_threads(1)
    start = begun(seed, plan.starts, plan.told)
    return {"updates": updates, **differences(start, *data(), seed=seed, lr=lr, updates=updates)}


def differences(
    start: Speaker, train: Problems, held_out: Problems, *, seed: int, lr: float, updates: int
) -> dict[str, float]:
    """Of the first pool's gradient, relative to its norm, and of the weights, relative to the way that they went."""
    ends, gradients = [], []
    for arm in ("plain", "exact"):
        model = copy.deepcopy(start)
        update = next(ARMS[arm](Rollouts(model, train, seed)))
        (update.weights * loss(model, update.pool)).mean().backward()
        gradients.append(torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None]))
        model.zero_grad()
        enough = lambda pools, costs: len(costs) >= updates  # noqa: E731
        run(arm, model, train, held_out, seed=seed, lr=lr, enough=enough, judged=updates)
        ends.append(_flat(model))
    way = ends[0] - _flat(start)
    return {
        "gradient": _share(gradients[1] - gradients[0], gradients[0]),
        "weights": _share(ends[1] - ends[0], way),
    }


def _share(part: torch.Tensor, whole: torch.Tensor) -> float:
    return float(part.norm() / whole.norm()) if bool(whole.any()) else float(part.norm())


def _flat(model: Speaker) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in model.parameters()])
