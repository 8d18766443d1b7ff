"""Select + draw + refill + take: how their cost grows with the history, the pool and the size of a row.

Ours against the stateful wrapper (wrapper.py), on the same losses and rows, with no model in sight. Both start each
call from a full history and a buffer half a pool full, and hand out one batch of half a pool. One thread.

    python -m bench select [--rounds 7] [--quick]

The wrapper looks through its whole history once a row. Where that is more than 1e9 comparisons a pool, it ranks a few
rows only, and that part of its time is extrapolated linearly in rows; the row says `extrapolated`.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import puresift as ps
from bench.measure import COLOURS, Spread, bars, clock, device, figure, interleaved, line, ratio, save, slope, spread
from bench.wrapper import SiftingWrapper

# With keep = 1/2 a probability is the loss's place in the CDF, so that two rules' odds differ by their CDF error.
RULES: dict[str, Callable[[int], ps.Rule]] = {
    "exact": lambda history: ps.relative(keep=0.5, history=history),
    "sketch": lambda history: ps.relative(keep=0.5, history=history, sketch=4_096),
}
TEXT = {"input_ids": (32,), "attention_mask": (32,), "labels": ()}
IMAGES = {"pixels": (3, 224, 224), "labels": ()}
ROWS = {"text": "32 token ids and mask", "images": "3x224x224 pixels"}
GRID = [
    *(("history", 10**power, 64, "text") for power in range(2, 8)),
    *(("pool", max(1_000, pool), pool, "text") for pool in (32, 256, 1_024, 4_096, 16_384, 65_536)),
    *(("row", 1_000, 64, row) for row in ROWS),
    ("goal", 1_000_000, 4_096, "text"),
    ("corner", 10_000_000, 65_536, "text"),
]
QUICK = 100_000  # the longest history under --quick
FEASIBLE, FEW = 1_000_000_000, 100_000_000  # comparisons a pool; where there would be more, only so many


def rows(kind: str, pool: int) -> dict[str, torch.Tensor]:
    shapes = TEXT if kind == "text" else IMAGES
    dtype = torch.int64 if kind == "text" else torch.float32
    return {name: torch.ones((pool, *shape), dtype=dtype, device=device()) for name, shape in shapes.items()}


def ours(rule: ps.Rule, past: torch.Tensor, batch: dict[str, torch.Tensor], losses: torch.Tensor) -> Callable[[], Any]:
    pool = len(losses)
    state = rule.select(to(rule.init()), past)[0]
    buffer, key = ps.empty(batch, batch_size=pool // 2), to(ps.key(0))
    ones, half = torch.ones_like(losses), torch.arange(pool, device=losses.device) < pool // 2 - 1
    buffer = ps.refill(buffer, ps.Kept(batch, ones, half))

    def once() -> Any:
        after, odds = rule.select(state, losses)
        mask = ps.bernoulli(ps.keys.fold_in(key, 0), odds.probs)
        filled = ps.refill(buffer, ps.Kept(batch, odds.weights, mask))
        return after, ps.take(filled, pool // 2)

    return once


def alone(rule: ps.Rule, past: torch.Tensor, losses: torch.Tensor) -> Callable[[], Any]:
    """Select by itself."""
    state = rule.select(to(rule.init()), past)[0]
    return lambda: rule.select(state, losses)


def wrapper(
    past: torch.Tensor, batch: dict[str, torch.Tensor], losses: torch.Tensor, few: int
) -> dict[str, Callable[[], Any]]:
    """The whole of it; or, where a few rows have to do, what it does once a pool, and the ranking of those few."""
    pool = len(losses)
    sifting = SiftingWrapper((), torch.nn.Linear(1, 1), lambda model, batch: losses, beta=1.0, batch_size=pool // 2)
    sifting.history = deque(past.tolist(), maxlen=len(past))
    held = [{name: leaf[row] for name, leaf in batch.items()} for row in range(pool // 2 - 1)]
    array = past.cpu().double().numpy()
    samples, values = sifting.remember(batch, losses)

    def whole() -> Any:
        sifting.kept = held.copy()
        return list(sifting.sift(batch, losses))

    def once_a_pool() -> Any:
        sifting.remember(batch, losses)
        past = np.asarray(sifting.history)
        return past, {name: torch.stack([sample[name] for sample in held]) for name in held[0]}

    def ranking() -> None:
        sifting.kept = []
        sifting.rank(samples[:few], values[:few], array)

    return {"once a pool": once_a_pool, "few": ranking} if few else {"wrapper": whole}


def to(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.to(device())
    return type(tree)(*map(to, tree))


def measure(axis: str, history: int, pool: int, kind: str, rounds: int) -> dict[str, Any]:
    """One row of the table: milliseconds a pool of each arm."""
    generator = torch.Generator().manual_seed(history + pool)
    past = torch.rand(history, generator=generator).to(device())
    losses, batch = torch.rand(pool, generator=generator).to(device()), rows(kind, pool)
    extrapolated = history * pool > FEASIBLE
    rounds = min(rounds, 3) if extrapolated else rounds
    few = FEW // history if extrapolated else 0
    arms = {name: ours(rule(history), past, batch, losses) for name, rule in RULES.items()}
    arms |= {f"select, {name}": alone(rule(history), past, losses) for name, rule in RULES.items()}
    arms |= wrapper(past, batch, losses, few)
    repeats = {name: often(arm) for name, arm in arms.items()}  # calls of a millisecond are timed in bunches
    times = interleaved({name: repeated(arm, repeats[name]) for name, arm in arms.items()}, rounds=rounds, warmup=1)
    each = {name: [s / repeats[name] for s in times[name]] for name in times}
    if extrapolated:
        pairs = zip(each.pop("once a pool"), each.pop("few"), strict=True)
        each["wrapper"] = [once + some * pool / few for once, some in pairs]
    errors = {}
    if len(RULES) > 1:
        probs = {name: rule(history) for name, rule in RULES.items()}
        answers = {name: r.select(r.select(to(r.init()), past)[0], losses)[1].probs for name, r in probs.items()}
        errors = {name: float((answers[name] - answers["exact"]).abs().max()) for name in answers if name != "exact"}
    return {
        "axis": axis,
        "history": history,
        "pool": pool,
        "row": kind,
        "milliseconds": {name: spread([1e3 * s for s in values]) for name, values in each.items()},
        "wrapper_over_exact": ratio(each["wrapper"], each["exact"]),
        "extrapolated": extrapolated,
        "cdf_error": errors,
    }


def often(arm: Callable[[], Any]) -> int:
    """Calls that take some 20 ms; the first call is not counted."""
    arm()
    begun = clock()
    arm()
    return max(1, min(50, int(0.02 / (clock() - begun))))


def repeated(arm: Callable[[], Any], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            arm()

    return run


def growth(table: list[dict[str, Any]], axis: str) -> dict[str, dict[str, float]]:
    """The slope in logarithms over a whole axis, and over its last two points, where fixed costs weigh least."""
    found = [row for row in table if row["axis"] == axis]
    xs = [row[axis] for row in found]
    return {
        name: {"overall": slope(xs, ys), "at_the_end": slope(xs[-2:], ys[-2:])}
        for name in (*RULES, "wrapper")
        if (ys := [row["milliseconds"][name]["median"] for row in found])
    }


def draw(table: list[dict[str, Any]], history: Any, pool: Any, size: Any) -> None:
    shades = [COLOURS["ours"], COLOURS["other"], COLOURS["floor"], COLOURS["plain"]]
    colours = {**dict(zip(RULES, shades, strict=False)), "wrapper": COLOURS["wrapper"]}
    for axes, axis in ((history, "history"), (pool, "pool")):
        found = [row for row in table if row["axis"] == axis]
        for name, colour in colours.items():
            series: list[Spread] = [row["milliseconds"][name] for row in found]
            label = "stateful wrapper" if name == "wrapper" else f"ours, {name}"
            line(axes, [row[axis] for row in found], series, label, colour)
        guessed = [row for row in found if row["extrapolated"]]
        if guessed:
            heights = [row["milliseconds"]["wrapper"]["median"] for row in guessed]
            hollow = {"mfc": "white", "color": COLOURS["wrapper"], "zorder": 3, "label": "extrapolated in rows"}
            axes.plot([row[axis] for row in guessed], heights, "o", **hollow)
        axes.set(xscale="log", yscale="log", ylabel="time a pool [ms]")
    history.set(xlabel="history [losses], pool 64", title="Against the history")
    pool.set(xlabel="pool [rows], history max(1,000, pool)", title="Against the pool")
    found = [row for row in table if row["axis"] == "row"]
    names = {"ours": "exact", "wrapper": "wrapper"}
    bars(size, [row["row"] for row in found], {k: [r["milliseconds"][v] for r in found] for k, v in names.items()})
    size.set(ylabel="time a pool of 64 [ms]", yscale="log", xlabel="row", title="Against the row")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help=f"histories up to {QUICK:,} only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = (*RULES, "wrapper")
    print("milliseconds a pool, median [quartiles]; select + draw + refill + take of half a pool, 1 thread")
    print(
        f"{'':8} {'history':>10} {'pool':>7} {'row':>7}" + "".join(f" {name:>27}" for name in names) + "   wrapper/ours"
    )
    table = []
    for axis, history, pool, kind in GRID:
        if args.quick and history > QUICK:
            continue
        row = measure(axis, history, pool, kind, args.rounds)
        table.append(row)
        cells = (row["milliseconds"][name] for name in names)
        text = "".join(f" {c['median']:9.3f} [{c['low']:8.2f} {c['high']:8.2f}]" for c in cells)
        note = "  extrapolated" if row["extrapolated"] else ""
        note += "".join(f", {name} CDF error {error:.1e}" for name, error in row["cdf_error"].items())
        over = row["wrapper_over_exact"]["median"]
        print(f"{axis:8} {history:10,} {pool:7,} {kind:>7}{text} {over:10.1f}x{note}", flush=True)
        if axis == "goal":
            select = {name: row["milliseconds"][f"select, {name}"] for name in RULES}
            cells = (f"{name} {c['median']:.3f} [{c['low']:.2f} {c['high']:.2f}]" for name, c in select.items())
            print("  of that, select alone: " + ", ".join(cells))
    grown = {axis: growth(table, axis) for axis in ("history", "pool")}
    print("growth, time ~ size ** b: overall b, and b between the two largest")
    for axis, slopes in grown.items():
        cells = (f"{name} {b['overall']:.2f}, {b['at_the_end']:.2f}" for name, b in slopes.items())
        print(f"  {axis:8} " + "; ".join(cells))
    path = save("select", {"table": table, "growth": grown}, rounds=args.rounds, seed="history + pool", rows=ROWS)
    figure(path, (5, 5, 3.4), lambda *axes: draw(table, *axes))


if __name__ == "__main__":
    main()
