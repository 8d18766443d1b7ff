"""Pools of rollouts with their rewards, and the loss of a group."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import puresift as ps
from bench.rl.net import Speaker, logs, say
from bench.rl.task import TRAIN, Problems, right, spoken

PROMPTS, GROUP = 32, 8  # of a pool, and answers to each
CLIP = 0.2
Pool = dict[str, Tensor]


def advantages(reward: Tensor) -> Tensor:
    """Float[B, G]: how far a reward is above its group's mean, in deviations; exactly 0 where all are alike."""
    above = reward - reward.mean(1, keepdim=True)
    return above / (above.square().mean(1, keepdim=True).sqrt() + 1e-4)


class Rollouts:
    """Pool n of a seed: the same dice for every arm, so that the same weights say the same."""

    def __init__(self, model: Speaker, train: Problems, seed: int, most: int = 1_000_000):
        self.model, self.train, self.seed, self.pools, self.most = model, train, seed, 0, most
        self.alive: list[int] = []  # groups with a gradient, of each pool

    def __call__(self, ids: Tensor | None = None) -> Pool:
        """The next pool, of these prompts or of the next in shuffled passes."""
        if ids is None:
            places = torch.arange(PROMPTS) + PROMPTS * self.pools
            ids = ps.keys.passes(ps.key(self.seed), places, TRAIN)
        rows = self.train.take(ids)
        dice = torch.Generator().manual_seed(1_000_003 * self.seed + self.pools)
        said, before = say(self.model, rows.prompts, GROUP, dice)
        reward = right(said, rows.answers[:, None]).float()
        pool = {
            "id": ids,
            "prompt": rows.prompts,
            "said": said,  # [B, G, ANSWER]
            "before": before,  # their log-probabilities when they were said
            "spoken": spoken(said),
            "reward": reward,  # [B, G]
            "advantage": advantages(reward),
        }
        self.pools += 1
        self.alive.append(int((pool["advantage"].abs().amax(1) > 0).sum()))
        return pool

    def endless(self) -> Iterator[Pool]:
        """One after the other, each made with the weights of when it is asked for; a model may never be right again."""
        while self.pools < self.most:
            yield self()


def loss(model: Speaker, pool: Pool) -> Tensor:
    """GRPO's, Float[B], one number a group: the clipped objective, a mean over an answer's tokens and over answers."""
    ratio = (logs(model, pool["prompt"], pool["said"]) - pool["before"]).exp()
    advantage = pool["advantage"][..., None]
    objective = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
    said = pool["spoken"]
    return -((objective * said).sum(2) / said.sum(2)).mean(1)
