"""What sifting costs on several ranks: above plain DDP steps and scores, in bytes a pool, in reads on the host.

    python -m bench ranks_cost [--ranks 2] [--rounds 12] [--pools 2] [--keep 0.5] [--width 256] [--layers 4]

Processes of one thread each, in one gloo group, train an encoder under DDP, at a learning rate of 0. Arms take turns
within a round, all ranks in the same one, from barrier to barrier, so that the slowest rank counts:

- **plain**: a step on every pool; **scoring**: a score of every pool, and no step;
- **constant**: `ps.hold` drawn by `ps.systematic`: as many rows of every pool, so that ranks need not talk;
- **global**: `ranks="global"`: one decision over the pools of all, and rows that move.

*Cost* is the time of a sifted block over that of its own scores and steps, as scoring and plain took in the same
round: 1 where sifting itself is free (plain, times phi + k). *Outside* is the time of a pool with a score that costs
nothing and no training, so without the noise of a model; *share* is that of scores and steps. All of it by the wall,
and by the time that a rank's own processor was busy, which other load hardly stretches, and which waiting is no part
of. Bytes are those that a rank receives for a pool, without DDP's gradients. Reads are counted as on a GPU, where pools
of a constant number are not waited for.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bench.counting import Reads, Wire
from bench.measure import bars, figure, interleaved, ratio, save, spread
from bench.ranked import LENGTH, ROWS, SEED, SIFTED, Arms
from puresift.stream import later, unread

CLOCKS = {"wall": "by the wall", "busy": "by one processor"}


def barrier() -> float:
    dist.barrier()
    return time.perf_counter()


def timed(turns: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each arm in each round: by the wall, all ranks together, and of this rank's processor alone."""
    busy: dict[str, list[float]] = {name: [] for name in turns}

    def watched(name: str, arm: Callable[[], Any]) -> Callable[[], None]:
        def block() -> None:
            began = time.process_time()
            arm()
            busy[name].append(time.process_time() - began)

        return block

    arms = {name: watched(name, arm) for name, arm in turns.items()}
    wall = interleaved(arms, rounds=rounds, timer=barrier)
    return {"wall": wall, "busy": {name: seconds[-rounds:] for name, seconds in busy.items()}}


def costs(arms: Arms, rounds: int) -> dict[str, Any]:
    """Seconds a pool of every arm, and what sifted blocks cost over their own scores and steps."""
    turns = {"plain": arms.plain, "scoring": arms.scoring, **{mode: arms.sifted(mode) for mode in SIFTED}}
    measured = timed(turns, rounds)
    steps, read = ({mode: counts[mode][-rounds:] for mode in SIFTED} for counts in (arms.steps, arms.read))
    found: dict[str, Any] = {"keep": {mode: sum(steps[mode]) / sum(read[mode]) for mode in SIFTED}}
    for clock, times in measured.items():
        each = {name: read.get(name, [arms.count] * rounds) for name in turns}
        found[clock] = {
            "seconds": {name: per_pool(times[name], each[name]) for name in turns},
            "phi": ratio(times["scoring"], times["plain"]),
            "cost": {},
        }
        for mode in SIFTED:
            floor = [
                (plain * batches + scoring * pools) / arms.count
                for plain, scoring, batches, pools in zip(
                    times["plain"], times["scoring"], steps[mode], read[mode], strict=True
                )
            ]
            found[clock]["cost"][mode] = ratio(times[mode], floor)
    return found


def per_pool(seconds: list[float], pools: list[int]) -> dict[str, float]:
    return spread([a / b for a, b in zip(seconds, pools, strict=True)])


def outside(arms: Arms, rounds: int) -> dict[str, Any]:
    """Seconds a pool outside the model."""
    blocks, read = {mode: arms.idle(mode) for mode in SIFTED}, {mode: [] for mode in SIFTED}  # type: ignore[var-annotated]
    turns = {mode: lambda mode=mode: read[mode].append(blocks[mode]()) for mode in SIFTED}  # type: ignore[misc]
    measured = timed(turns, rounds)
    return {
        clock: {mode: per_pool(times[mode], read[mode][-rounds:]) for mode in SIFTED}
        for clock, times in measured.items()
    }


def counted(arms: Arms, mode: str, pools: int = 100) -> dict[str, float]:
    """Bytes, exchanges and host reads a pool, as on a device that is not waited for."""
    real = later.queued, unread.queued
    later.queued = unread.queued = lambda device: True
    try:
        stream = arms.stream(mode, free=True)
        for _ in range(3):
            next(stream)
        before, steps = int(stream.state.step), 0
        with Reads() as reads, Wire() as wire:
            for _ in range(round(pools * arms.keep)):
                next(stream)
                steps += 1
        read = int(stream.state.step) - before
        return {"bytes": wire.bytes / read, "exchanges": wire.messages / read, "reads": reads.count / read}
    finally:
        later.queued, unread.queued = real


def work(rank: int, ranks: int, folder: str, rounds: int, *shape: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    arms = Arms(rank, *shape)
    found = costs(arms, rounds)
    for clock, row in outside(arms, rounds).items():
        found[clock]["outside"] = row
    found |= {mode: counted(arms, mode) for mode in SIFTED}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # what threads gloo and DDP still have would now and then abort an interpreter that ends in order


def shares(found: dict[str, Any], clock: str) -> dict[str, float]:
    """What sifting itself takes, in shares of scores and steps, by the time outside the model."""
    seconds, own = found[clock]["seconds"], found[clock]["outside"]
    return {
        mode: own[mode]["median"] / (seconds["scoring"]["median"] + found["keep"][mode] * seconds["plain"]["median"])
        for mode in SIFTED
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pools", type=int, default=2)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(
            work, (args.ranks, folder, args.rounds, args.keep, args.pools, args.width, args.layers), nprocs=args.ranks
        )
        found = json.loads(Path(folder, "found.json").read_text())
    load.append(os.getloadavg()[0])
    settings = f"{args.ranks} ranks, pools and batches of {ROWS} rows each, keep {args.keep:g}, {args.rounds} rounds"
    print(f"{settings}; load {load[0]:.1f} to {load[1]:.1f} on {os.cpu_count()} cores")
    for clock in CLOCKS:
        found[clock]["share"] = shares(found, clock)
        told(clock, found)
    for mode in SIFTED:
        row = found[mode]
        print(f"{mode}: {row['bytes']:,.0f} bytes, {row['exchanges']:.2f} exchanges, {row['reads']:.2f} reads a pool")
    path = save("ranks_cost", found, **vars(args), rows=ROWS, length=LENGTH, seed=SEED, load=load)
    figure(path, (6,), lambda axes: draw(axes, found))


def told(clock: str, found: dict[str, Any]) -> None:
    """One table a clock."""
    print(f"\n{CLOCKS[clock]}; phi {shown(found[clock]['phi'], '.2f')}")
    print(f"{'':9} {'ms a pool':>24} {'cost':>20} {'outside, ms a pool':>22} {'share':>7}")
    for name, row in found[clock]["seconds"].items():
        line = f"{name:9} {shown(row, '.1f', 1e3):>24}"
        if name in SIFTED:
            cost, own = found[clock]["cost"][name], found[clock]["outside"][name]
            line += f" {shown(cost, '.3f'):>20} {shown(own, '.2f', 1e3):>22} {found[clock]['share'][name]:>7.1%}"
        print(line)


def shown(row: dict[str, float], form: str, unit: float = 1.0) -> str:
    middle, low, high = (format(unit * row[name], form) for name in ("median", "low", "high"))
    return f"{middle} [{low}-{high}]"


def draw(axes: Any, found: dict[str, Any]) -> None:
    bars(axes, SIFTED, {CLOCKS[clock]: [found[clock]["cost"][mode] for mode in SIFTED] for clock in CLOCKS}, "{:.3f}")
    axes.legend(frameon=False)
    axes.axhline(1, color="#222222", linewidth=0.8)
    axes.set(ylabel="time over that of its scores and steps", title="what sifting costs on several ranks")


if __name__ == "__main__":
    main()
