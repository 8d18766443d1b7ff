"""What many ranks cost each other: a fake world of up to 4,096 ranks, in one process, over recorded losses.

    python -m bench ranks [--ranks 2 8 64 512 4096] [--pools 64] [--keep 0.5]

The losses of a small network's training are recorded, pool after pool; every rank reads pools of its own out of rows of
like age. Then rules and draws of the library decide on all ranks, and what would have gone over the network is counted:

- **constant**: `ps.hold` drawn by `ps.systematic`: as many rows of every pool, so that ranks need not talk;
- **in step**: `ps.relative` drawn by `ps.bernoulli`: a rank reads pools until it has a batch, then waits for the last;
- **global**: `ranks="global"`: one decision over the pools of all; rows move from ranks that kept more than others.

*Waiting* is the share of the pools' time in which a rank has read what it needs and waits for the others. *Moved* is
the share of the kept rows that change ranks. Bytes are those that a rank receives, a pool. The history of a global
decision holds the last global pool at least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

import puresift as ps
from bench.measure import COLOURS, figure, save
from puresift.distributed.dealing import deal

ROWS, BATCH, HISTORY, ROW_BYTES = 64, 64, 1_000, 64 * 8 * 2  # of a row: 64 tokens and their mask
AGES, NEAR = 128, 4  # pools recorded; how far from its place a rank reads
MODES = ("constant", "in step", "global")


class Counted(NamedTuple):
    """What became of one world, in one mode."""

    waiting: float  # share of the time of reading pools
    moved: float  # share of the kept rows
    received: float  # bytes, by a rank, a pool
    messages: float  # a pool
    milliseconds: float  # of the decision on one rank, a pool


def recorded(seed: int = 0, wide: int = 512) -> Tensor:
    """Float[AGES, wide]: losses of fresh rows, while a small classifier learns from others."""
    dice = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 16, generator=dice) * 1.2
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer, made = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(AGES):
        labels = torch.randint(10, (wide,), generator=dice)
        x = centres[labels] + torch.randn(wide, 16, generator=dice)
        losses = F.cross_entropy(model(x), labels, reduction="none")
        made.append(losses.detach())
        losses[:ROWS].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(made)


def read(losses: Tensor, ranks: int, pools: int, seed: int) -> Iterator[Tensor]:
    """Float[ranks, ROWS] for each pool: rows of about the same age."""
    dice = torch.Generator().manual_seed(seed)
    for pool in range(pools):
        age = pool * (len(losses) - NEAR) // pools + torch.randint(NEAR, (ranks, ROWS), generator=dice)
        yield losses[age, torch.randint(losses.shape[1], (ranks, ROWS), generator=dice)]


def apart(rule: ps.Rule, draw: Any, losses: Tensor, ranks: int, pools: int) -> tuple[Tensor, float]:
    """Int[pools, ranks]: rows kept by ranks that decide each by itself; and the time a decision takes on one."""
    states = torch.utils._pytree.tree_map(lambda leaf: leaf.expand(ranks, *leaf.shape).clone(), rule.init())
    base, counts, began = torch.stack([ps.keys.fold_in(ps.key(1), rank) for rank in range(ranks)]), [], 0.0

    def one(state: Any, key: Tensor, pool: Tensor, step: Tensor) -> tuple[Any, Tensor]:
        after, odds = rule.select(state, pool)
        return after, draw(ps.keys.fold_in(key, step), odds.probs).sum()

    for step, pool in enumerate(read(losses, ranks, pools, seed=2)):
        states, kept = vmap(one, in_dims=(0, 0, 0, None))(states, base, pool, torch.tensor(step))
        counts.append(kept)
    single, state = next(read(losses, 1, 1, seed=2))[0], rule.init()
    for turn in range(12):
        if turn == 2:
            began = time.perf_counter()
        state, odds = rule.select(state, single)
        draw(ps.keys.fold_in(ps.key(1), turn), odds.probs)
    return torch.stack(counts), (time.perf_counter() - began) / 10


def waited(counts: Tensor) -> float:
    """The share of the time in which ranks wait: each reads pools until it has a batch, and then meets the rest."""
    held = counts.cumsum(0)
    batches = int(held[-1].min()) // BATCH
    marks = (torch.arange(batches) + 1) * BATCH
    reads = torch.searchsorted(held.T.contiguous(), marks.expand(counts.shape[1], -1).contiguous()) + 1  # [ranks, n]
    each = reads.diff(dim=1, prepend=torch.zeros_like(reads[:, :1])).float()
    return float(1 - each.mean(0).sum() / each.amax(0).sum())


def together(rule: ps.Rule, draw: Any, losses: Tensor, ranks: int, pools: int) -> Counted:
    """One decision over the pools of all ranks."""
    state, opened, moved, kept, spent = rule.init(), torch.zeros(ranks, dtype=torch.int64), 0, 0, 0.0
    for step, pool in enumerate(read(losses, ranks, pools, seed=2)):
        began = time.perf_counter()
        state, odds = rule.select(state, pool.flatten())
        mask = draw(ps.keys.fold_in(ps.key(1), step), odds.probs)
        sources = mask.view(ranks, ROWS).nonzero()[:, 0]
        dealt = deal(sources, opened, BATCH)
        spent += time.perf_counter() - began
        opened, moved, kept = dealt.opened, moved + int((dealt.to != sources).sum()), kept + len(sources)
    received = (ranks - 1) * ROWS * 4 + moved / pools / ranks * ROW_BYTES
    return Counted(0.0, moved / kept, received, 3.0, 1e3 * spent / pools)


def world(losses: Tensor, ranks: int, pools: int, keep: float) -> dict[str, Counted]:
    """All modes with so many ranks."""
    history, shared = (ps.relative(keep=keep, history=size) for size in (HISTORY, max(HISTORY, ranks * ROWS)))
    constant, quick = apart(ps.hold(history, keep=keep), ps.systematic, losses, ranks, pools)
    varying, own = apart(history, ps.bernoulli, losses, ranks, pools)
    assert bool((constant == round(keep * ROWS)).all()), "a constant count is constant"
    batches = float(varying.float().mean()) / BATCH  # a pool
    return {
        "constant": Counted(waited(constant), 0.0, 0.0, 0.0, 1e3 * quick),
        "in step": Counted(waited(varying), 0.0, 32.0 * (ranks - 1) * batches, batches, 1e3 * own),
        "global": together(shared, ps.bernoulli, losses, ranks, pools),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 64, 512, 4096])
    parser.add_argument("--pools", type=int, default=64)
    parser.add_argument("--keep", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    losses, found = recorded(), {}
    print(f"pools of {ROWS} rows of {ROW_BYTES:,} bytes, batches of {BATCH}, keep {args.keep:g}, {args.pools} pools")
    print(f"{'ranks':>6}  {'mode':9} {'waiting':>8} {'moved':>7} {'KB a pool':>10} {'messages':>9} {'decides, ms':>12}")
    for ranks in args.ranks:
        found[ranks] = {mode: row._asdict() for mode, row in world(losses, ranks, args.pools, args.keep).items()}
        for mode, row in found[ranks].items():
            print(
                f"{ranks:>6,}  {mode:9} {row['waiting']:>8.1%} {row['moved']:>7.1%} {row['received'] / 1e3:>10,.1f} "
                f"{row['messages']:>9.2f} {row['milliseconds']:>12.2f}"
            )
    print(
        f"a history of {HISTORY:,} losses from each of 4,096 ranks, gathered once: {4_096 * HISTORY * 4 / 1e6:.0f} MB"
    )
    path = save("ranks", {"worlds": found}, rows=ROWS, batch=BATCH, keep=args.keep, pools=args.pools, seed=0)
    figure(path, (7,), lambda axes: draw(axes, found))


def draw(axes: Any, found: dict[int, dict[str, dict[str, float]]]) -> None:
    ranks = list(found)
    for mode, colour in zip(MODES[1:], (COLOURS["wrapper"], COLOURS["ours"]), strict=True):
        what = "waiting" if mode == "in step" else "moved"
        label = f"{mode}: {'time spent waiting' if what == 'waiting' else 'kept rows that move'}"
        axes.plot(ranks, [100 * found[count][mode][what] for count in ranks], "o-", color=colour, label=label)
    axes.plot(ranks, [0.0] * len(ranks), "o-", color=COLOURS["plain"], label="constant: neither")
    axes.set(xscale="log", xlabel="ranks", ylabel="%", title="what ranks cost each other")
    axes.legend(frameon=False)


if __name__ == "__main__":
    main()
