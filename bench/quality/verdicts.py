"""What the runs say: pairs of arms, compared on the same seeds and the same test rows, and two verdicts.

The verdicts were declared before the runs:

    win       better than `shortened` and than `rs2` at the same budget, both 95 % intervals above zero
    lossless  within .3 points of `full` on average, and the lower end of the 95 % interval above -1 point

on at least five seeds that both arms have. Without those there is no verdict.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from bench.quality.work import unpacked

SEEDS = 5  # a verdict needs
DRAWS = 4_000  # of a bootstrap
NEAR, LEAST = -0.3, -1.0  # points, see lossless
Array = Any  # of numpy


class Gap(NamedTuple):
    """Points of accuracy, with a 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int


def scores(record: dict[str, Any]) -> Array:
    """Points of each test row, Float[rows], whose mean is the run's accuracy in percent."""
    rows, per = record["test"]["rows"], record["test"]["labels"]
    right = unpacked(record["test"]["right"], rows, per) / per
    if record["groups"] is None:
        return 100 * right
    groups = unpacked(record["groups"], rows, 255)
    sizes = numpy.bincount(groups)
    return 100 * right * (rows / numpy.count_nonzero(sizes) / sizes)[groups]


def interval(table: Array, *, draws: int = DRAWS, seed: int = 0) -> Gap:
    """The mean of a table [seeds, rows], and the 2.5th and 97.5th percentile of its bootstrap.

    Seeds and rows are drawn with replacement, each on its own: the interval is for new seeds and new test rows. With
    few seeds it is, if anything, too narrow in the seeds and too wide in the rest.

    References:
        Art B. Owen, "The Pigeonhole Bootstrap", 2007.
    """
    table = numpy.asarray(table, dtype=numpy.float32)
    count, rows = table.shape
    dice = numpy.random.default_rng(seed)
    means = []
    for start in range(0, draws, 250):
        some = min(250, draws - start)
        weights = dice.multinomial(count, numpy.full(count, 1 / count), size=some) / count
        each = weights.astype(numpy.float32) @ table  # [some, rows]
        means.append(numpy.take_along_axis(each, dice.integers(rows, size=(some, rows)), 1).mean(1))
    low, high = numpy.percentile(numpy.concatenate(means), [2.5, 97.5])
    return Gap(float(table.mean()), float(low), float(high), count)


def gap(ours: dict[int, Array], theirs: dict[int, Array]) -> Gap | None:
    """One arm minus another, paired by seed and row; None where they have no seed in common."""
    seeds = sorted(set(ours) & set(theirs))
    return interval(numpy.stack([ours[seed] - theirs[seed] for seed in seeds])) if seeds else None


def win(shortened: Gap | None, rs2: Gap | None) -> bool | None:
    """See above; None where there is too little to say."""
    if shortened is None or rs2 is None or min(shortened.seeds, rs2.seeds) < SEEDS:
        return None
    return min(shortened.low, rs2.low) > 0


def lossless(full: Gap | None) -> bool | None:
    """See above; None where there is too little to say."""
    return None if full is None or full.seeds < SEEDS else full.mean >= NEAR and full.low > LEAST


Cells = dict[tuple[str, float], dict[int, dict[str, Any]]]  # (arm, budget) -> seed -> record


def row(cells: Cells, arm: str, budget: float) -> dict[str, Any]:
    """One line of a task's table, ready for JSON; `accuracy` is None where no run is there."""
    found = cells.get((arm, budget), {})
    if not found:
        return {"arm": arm, "budget": budget, "seeds": 0, "accuracy": None}
    values = {key: {seed: scores(record) for seed, record in cell.items()} for key, cell in cells.items()}
    ours = values[arm, budget]
    gaps = {
        name: gap(ours, values.get((name, at), {})) if (name, at) != (arm, budget) else None
        for name, at in (("full", 1.0), ("shortened", budget), ("rs2", budget))
    }
    first = next(iter(found.values()))
    kept = [record["keep"] for record in found.values() if record["keep"] is not None]
    contender = arm not in ("full", "shortened", "rs2")
    return {
        "arm": arm,
        "budget": budget,
        "seeds": len(found),
        "accuracy": interval(numpy.stack(list(ours.values())))._asdict(),
        "nats": float(numpy.mean([record["nats"] for record in found.values()])),
        "seconds": float(numpy.median([record["seconds"] for record in found.values()])),
        "phi": first["phi"],
        "keep": float(numpy.mean(kept)) if kept else None,
        "trials": max(record["trials"] for record in found.values()),
        "versus": {name: found and found._asdict() for name, found in gaps.items()},
        "win": win(gaps["shortened"], gaps["rs2"]) if contender else None,
        "lossless": lossless(gaps["full"]),
    }
