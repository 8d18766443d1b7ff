"""The arms: which rollouts are made, and which of them an update sees.

Each gives, for one update after the other, `Update(pool, weights, cost)`; what that costs is looked up by name in what
was measured, and the rollouts are counted where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import puresift as ps
from bench.rl.rollouts import GROUP, PROMPTS, Pool, Rollouts, advantages
from bench.rl.task import TRAIN

PATIENCE = 8  # pools that may be drawn for one update
FLOOR, DECAY = 0.2, 0.7  # of the odds of a prompt, and of what is known of it


class Update(NamedTuple):
    """What the loss is taken of."""

    pool: Pool
    weights: Tensor  # Float[B]
    cost: str  # see charges.py


Arm = Callable[[Rollouts], Iterator[Update]]


def deviation(params: object, pool: Pool) -> Tensor:
    """A score for nothing: 0 where a group has no gradient."""
    return pool["advantage"].abs().amax(1)


def plain(rollouts: Rollouts) -> Iterator[Update]:
    """GRPO: all groups of every pool."""
    for pool in rollouts.endless():
        yield Update(pool, torch.ones(PROMPTS), "plain")


def exact(rollouts: Rollouts) -> Iterator[Update]:
    """The same gradient of the groups that have one: `ps.nonzero()`, each pool by itself."""
    for batch, weights, _, _ in sifted(rollouts.endless(), refill=False):
        yield Update(batch, weights, f"exact-{len(weights)}")


def dynamic(rollouts: Rollouts) -> Iterator[Update]:
    """DAPO's dynamic sampling: prompts are drawn until a batch of groups with a gradient is full.

    What is left over waits for the next one, where DAPO throws it away: an update later it is nearly as good.
    """
    for batch, weights, _, _ in sifted(rollouts.endless(), refill=True):
        yield Update(batch, (weights > 0).float(), "plain")


def sifted(pools: Iterator[Pool], *, refill: bool) -> ps.Stream:
    """The stream of both."""
    sifter = ps.sifter(deviation, ps.nonzero(), batch_size=PROMPTS)
    first = next(pools)

    def all_of_them() -> Iterator[Pool]:
        yield first
        yield from pools

    patience = PATIENCE if refill else None
    return ps.sift(sifter, sifter.init(ps.key(0), first), {}, all_of_them(), refill=refill, patience=patience)


def downsampled(rollouts: Rollouts) -> Iterator[Update]:
    """PODS: of each group the half whose rewards vary most, with advantages of their own."""
    for pool in rollouts.endless():
        yield Update(halved(pool), torch.ones(PROMPTS), "half")


def halved(pool: Pool) -> Pool:
    """The highest and the lowest rewards, as many of either: of rewards 0 and 1 no half varies more."""
    order = pool["reward"].sort(dim=1, stable=True).indices
    quarter = GROUP // 4
    chosen = torch.cat([order[:, :quarter], order[:, -quarter:]], 1)

    def pick(leaf: Tensor) -> Tensor:
        return leaf.gather(1, chosen.view(*chosen.shape, *[1] * (leaf.ndim - 2)).expand(-1, -1, *leaf.shape[2:]))

    half = {name: leaf if name in ("id", "prompt") else pick(leaf) for name, leaf in pool.items()}
    return {**half, "advantage": advantages(half["reward"])}


def tabled(rollouts: Rollouts) -> Iterator[Update]:
    """Prompts drawn by the deviation of their rewards, sqrt(s (1 - s)), over a floor; all groups are trained on."""
    rates = ps.table(TRAIN, decay=DECAY)
    rule = ps.by_root(ps.importance(keep=0.05, floor=FLOOR, bias=0.0))
    drawer = ps.prioritizer(rule, size=TRAIN, batch_size=PROMPTS, every=4, start=0.0)
    known, state = rates.init(), drawer.init(ps.key(rollouts.seed))
    while True:
        state, drawn, _ = drawer.draw(state)
        for ids in drawn:
            pool = rollouts(ids)
            known = rates.observe(known, ids, pool["reward"])
            success = rates.read(known, ids)
            state = drawer.observe(state, ids, success * (1 - success))
            yield Update(pool, torch.ones(PROMPTS), "plain")


ARMS: dict[str, Arm] = {
    "plain": plain,
    "exact": exact,
    "dynamic": dynamic,
    "downsampled": downsampled,
    "table": tabled,
}
