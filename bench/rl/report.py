"""What the runs say: charged time to the plain run's final success, and success at equal charge, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple

import numpy

from bench.quality.verdicts import SEEDS, Gap, student
from bench.rl import charges
from bench.rl.rollouts import PROMPTS
from puresift.stream.leaving import size

LOOKS = 3  # over which success is averaged
FASTER = {"1:1": 1.4, "1:3": 1.8}  # declared of the exact arm
HEAD = (
    "| arm | updates | groups with a gradient | success at equal charge, % | - plain | times as fast | verdict |",
    "|---|---|---|---|---|---|---|",
)
Record = Mapping[str, Any]
Curve = list[tuple[int, float]]  # updates, success


class Point(NamedTuple):
    """One seed of an arm at one ratio."""

    success: float  # at the plain run's charge
    fast: float  # the plain run's charge to its final success, over this run's
    reached: bool  # or so much at most, for it never got there
    most: float  # the least that the prefix of any length is as fast


def smooth(record: Record) -> Curve:
    """Success as a mean over the last looks."""
    curve = [(point["updates"], point["success"]) for point in record["curve"]]
    return [(at, mean(part for _, part in curve[max(0, n - LOOKS + 1) : n + 1])) for n, (at, _) in enumerate(curve)]


def at(curve: Curve, spent: list[float], budget: float) -> float:
    """Success when so much was charged, between two looks on the line through them."""
    return float(numpy.interp(budget, [spent[updates] for updates, _ in curve], [part for _, part in curve]))


def reached(curve: Curve, spent: list[float], target: float) -> float | None:
    """What was charged when success first came to the target; None where it never did."""
    for (before, low), (updates, high) in pairwise(curve):
        if high >= target:
            part = 1.0 if low >= target else (target - low) / (high - low)
            return spent[before] + part * (spent[updates] - spent[before])
    return None


def along(plain: Record) -> dict[str, Any]:
    """The plain run with the exact arm's costs: the same steps, of the groups that have a gradient."""
    costs = [f"exact-{size(alive, PROMPTS)}" for alive in plain["alive"]]
    return {**plain, "costs": costs[: len(plain["costs"])]}


def point(plain: Record, record: Record, ratio: str) -> Point:
    """A run beside the plain one of its seed."""
    price = charges.prices(record["terms"])[ratio]
    ours, theirs = charges.charged(record, price), charges.charged(plain, price)
    target = smooth(plain)[-1][1]
    slow, fast = reached(smooth(plain), theirs, target), reached(smooth(record), ours, target)
    assert slow is not None, "the last look is at the target"
    least = min((b / a for a, b in zip(ours[1:], theirs[1:], strict=False)), default=1.0)
    late = max(ours[-1], record["terms"]["margin"] * theirs[-1])  # of a run that ended without an update as well
    return Point(at(smooth(record), ours, theirs[-1]), slow / (fast or late), fast is not None, least)


def table(found: Mapping[str, Mapping[int, Record]], ratio: str) -> list[dict[str, Any]]:
    """A row an arm; the exact one has another, along the plain runs."""
    plain = found["plain"]
    arms = {**found, **({"exact, along plain": {seed: along(one) for seed, one in plain.items()}} if plain else {})}
    rows = []
    for arm, runs in arms.items():
        seeds = sorted(set(runs) & set(plain))
        if not seeds:
            continue
        points = [point(plain[seed], runs[seed], ratio) for seed in seeds]
        base = [point(plain[seed], plain[seed], ratio) for seed in seeds]
        quick = student(numpy.log([one.fast for one in points]))
        rows.append(
            {
                "arm": arm,
                "seeds": len(seeds),
                "updates": mean(len(runs[seed]["costs"]) for seed in seeds),
                "alive": mean(mean(runs[seed]["alive"]) / PROMPTS for seed in seeds),
                "lr": runs[seeds[0]]["lr"],
                "success": mean(one.success for one in points),
                "gap": student([one.success - other.success for one, other in zip(points, base, strict=True)]),
                "fast": Gap(math.exp(quick.mean), math.exp(quick.low), math.exp(quick.high), len(seeds)),
                "reached": sum(one.reached for one in points),
                "least": min(one.most for one in points),
            }
        )
    return rows


def verdict(row: Mapping[str, Any], ratio: str) -> str:
    """See the package."""
    if row["arm"] == "plain":
        return "-"
    if row["seeds"] < SEEDS:
        return "too few seeds"
    if row["arm"].startswith("exact,"):
        holds = row["fast"].mean >= FASTER.get(ratio, 1.0) and row["least"] >= 1
        return "as declared" if holds else "NOT as declared"
    if row["fast"].low > 1 and row["reached"] == row["seeds"]:
        return "faster"
    return "slower" if row["fast"].high < 1 else "nothing certain"


def line(row: Mapping[str, Any], ratio: str) -> str:
    """A row in markdown."""
    gap, fast = row["gap"], row["fast"]
    few = "" if row["reached"] == row["seeds"] else f", {row['seeds'] - row['reached']} of {row['seeds']} never there"
    plain = row["arm"] == "plain"
    cells = [
        *(row["arm"], f"{row['updates']:.0f}", f"{row['alive']:.2f}", f"{row['success']:.2f}"),
        "-" if plain else f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]",
        "1" if plain else f"{fast.mean:.2f} [{fast.low:.2f}, {fast.high:.2f}]{few}",
        verdict(row, ratio),
    ]
    return "| " + " | ".join(cells) + " |"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def report(found: Mapping[str, Mapping[int, Record]], checks: Mapping[str, Any], tried: Mapping[str, Any]) -> str:
    """All tables in markdown."""
    text: list[str] = []
    some = next((run for runs in found.values() for run in runs.values()), None)
    if some is None or not found.get("plain"):
        return "no runs are there yet\n"
    units = charges.prices(some["terms"])
    for ratio in charges.RATIOS:
        rows, says = table(found, ratio), f"1:{units[ratio]['plain']:.2f} as measured" if ratio == "measured" else ratio
        text += [f"\n### Rollouts to updates {says}, {_seeds(rows[0]['seeds'])}\n", *HEAD]
        text += [line(row, ratio) for row in rows]
    if checks:
        worst = {name: max(check[name] for check in checks.values()) for name in ("gradient", "weights")}
        updates = next(iter(checks.values()))["updates"]
        text += [
            f"\nExact beside plain, {_seeds(len(checks))}: the first gradient differs by {worst['gradient']:.1e} of "
            f"its norm at most, the weights after {updates} updates by {worst['weights']:.1e} of the way they went."
        ]
    counts = {"exact": len(tried.get("plain", ())), **{arm: len(each) for arm, each in tried.items()}}
    rates = [
        f"{arm} {next(iter(runs.values()))['lr']:g} (of {counts.get(arm, 0)})" for arm, runs in found.items() if runs
    ]
    text += ["\nLearning rates: " + ", ".join(rates)]
    return "\n".join(text) + "\n"
