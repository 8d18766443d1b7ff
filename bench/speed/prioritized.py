"""What it costs to draw ids from a table of losses: a draw of 16 batches of 1,024, and to observe one batch's losses.

    python -m bench prioritized [--rounds 9] [--largest 1000000]

Beside it, in turns, what a loop of one's own would call: torch.multinomial over the same odds, without replacement, as
many ids; and torch.randperm over the whole set. One thread. `uniform` is a draw of the first or the last passes, which
are everything in random order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import puresift as ps
from bench.measure import bars, device, figure, interleaved, ratio, save, spread

ROWS, EVERY, OBSERVED = 1_024, 16, 8
SIZES = (36_864, 1_000_000, 10_000_000, 100_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--largest", type=int, default=1_000_000, help="ids in the largest table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"milliseconds, median [quartiles]; {EVERY} batches of {ROWS:,} out of so many ids, 1 thread, {device()}")
    found = [measure(size, args.rounds) for size in SIZES if size <= args.largest]
    path = save("prioritized", {"table": found}, rounds=args.rounds, rows=ROWS, every=EVERY, seed=0)
    figure(path, (6,), lambda axes: draw(axes, found))


def measure(size: int, rounds: int) -> dict[str, Any]:
    """Each arm's milliseconds at one size."""
    rule = ps.by_root(ps.importance(keep=0.05, floor=0.1, bias=0.0))
    kind = torch.float16 if size > 10**7 else torch.float32
    prioritizer = ps.prioritizer(rule, size=size, batch_size=ROWS, every=EVERY, dtype=kind)
    dice = torch.Generator().manual_seed(0)
    start = prioritizer.init(ps.key(0).to(device()))
    losses = torch.rand(size, generator=dice).square().to(device(), kind)
    state = start._replace(losses=losses, draws=start.draws + size // (EVERY * ROWS) + 1)
    for _ in range(EVERY):  # a draw has as many batches of losses to take in
        ids = torch.randint(0, size, (ROWS,), generator=dice)
        state = prioritizer.observe(state, ids, torch.rand(ROWS, generator=dice))
    some = prioritizer.draw(state)[0]
    values = torch.rand(ROWS, generator=dice).to(device())
    arms: dict[str, Callable[[], Any]] = {
        "draw": partial(prioritizer.draw, state),
        "draw, uniform": partial(prioritizer.draw, start),
        f"observe, {OBSERVED} times": partial(observed, prioritizer, some, values),
        "torch.randperm": partial(torch.randperm, size, device=device()),
    }
    if size <= 2**24:  # the most that it takes
        odds = losses.float().sqrt()
        arms["torch.multinomial"] = partial(torch.multinomial, odds, EVERY * ROWS)
    times = interleaved(arms, rounds=rounds if size <= 10**6 else 3)
    spreads = {name: spread([1e3 * second for second in seconds]) for name, seconds in times.items()}
    print(f"{size:>11,} ids, a table of {losses.numel() * losses.element_size() / 1e6:,.1f} MB")
    for name, row in spreads.items():
        print(f"    {name:18} {row['median']:9.3f} [{row['low']:8.3f} {row['high']:8.3f}]")
    against = {
        name: ratio(times["draw"], times[name]) for name in ("torch.randperm", "torch.multinomial") if name in times
    }
    return {"size": size, "milliseconds": spreads, "draw_over": against}


def observed(prioritizer: ps.Prioritizer, state: ps.PrioritizerState, losses: torch.Tensor) -> None:
    """Several batches, as between two draws."""
    for ids in state.ids[:OBSERVED]:
        state = prioritizer.observe(state, ids, losses)


def draw(axes: Any, found: list[dict[str, Any]]) -> None:
    names = list(found[0]["milliseconds"])
    bars(
        axes,
        names,
        {f"{row['size']:,} ids": [row["milliseconds"].get(name) or spread([0.0]) for name in names] for row in found},
    )
    axes.set(yscale="log", ylabel="time [ms]", title=f"{EVERY} batches of {ROWS:,} ids")


if __name__ == "__main__":
    main()
