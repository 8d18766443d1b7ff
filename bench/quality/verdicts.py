"""What the runs say: pairs of arms, compared on the same seeds and the same test rows, and two verdicts.

The verdicts were declared before the runs:

    win       better than `shortened`, than `rs2` and, where a task has them, than every `downsampled` at the same
              budget, all 95 % intervals above zero
    lossless  within .3 points of `full` on average, and the lower end of the 95 % interval above -1 point

on at least five seeds that both arms have. Without those there is no verdict. Where a task has one number a run, points
are dB or hundredths of an average precision, and intervals are Student's, over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy

from bench.quality.work import unpacked

SEEDS = 5  # a verdict needs
DRAWS = 4_000  # of a bootstrap
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # 97.5th percentile, 1 to 10 degrees
NEAR, LEAST = -0.3, -1.0  # points, see lossless
Array = Any  # of numpy


class Gap(NamedTuple):
    """Points of accuracy, or of what else a task is judged by, with a 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int


def scores(record: dict[str, Any]) -> Array:
    """Points of each test row, Float[rows], whose mean is the run's accuracy in percent; or one number, Float[1]."""
    if "judged" in record:
        return numpy.array([record["judged"]])
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


def student(values: Array) -> Gap:
    """The mean of one number a seed, Float[seeds], and its 95 % interval by Student's t; of one seed, the number."""
    count = len(values)
    mean = float(numpy.mean(values))
    if count == 1:
        return Gap(mean, mean, mean, 1)
    most = STUDENT[min(count - 1, len(STUDENT)) - 1]  # of more seeds a little too wide
    width = most * float(numpy.std(values, ddof=1)) / count**0.5
    return Gap(mean, mean - width, mean + width, count)


def spread(values: Iterable[Array]) -> Gap:
    """The interval of what seeds have: of points by row, or of one number each."""
    table = numpy.stack(list(values))
    return student(table[:, 0]) if table.shape[1] == 1 else interval(table)


def gap(ours: dict[int, Array], theirs: dict[int, Array]) -> Gap | None:
    """One arm minus another, paired by seed and row; None where they have no seed in common."""
    seeds = sorted(set(ours) & set(theirs))
    return spread(ours[seed] - theirs[seed] for seed in seeds) if seeds else None


def win(*rivals: Gap | None) -> bool | None:
    """See above; None where there is too little to say."""
    if any(rival is None or rival.seeds < SEEDS for rival in rivals):
        return None
    return all(rival.low > 0 for rival in rivals if rival)


def lossless(full: Gap | None) -> bool | None:
    """See above; None where there is too little to say."""
    return None if full is None or full.seeds < SEEDS else full.mean >= NEAR and full.low > LEAST


Cells = dict[tuple[str, float], dict[int, dict[str, Any]]]  # (arm, budget) -> seed -> record


def row(cells: Cells, arm: str, budget: float, rivals: Iterable[str] = ("shortened", "rs2")) -> dict[str, Any]:
    """One line of a task's table, ready for JSON; `accuracy` is None where no run is there."""
    found = cells.get((arm, budget), {})
    if not found:
        return {"arm": arm, "budget": budget, "seeds": 0, "accuracy": None}
    values = {key: {seed: scores(record) for seed, record in cell.items()} for key, cell in cells.items()}
    ours = values[arm, budget]
    gaps = {
        name: gap(ours, values.get((name, at), {})) if (name, at) != (arm, budget) else None
        for name, at in (("full", 1.0), *((rival, budget) for rival in rivals))
    }
    first = next(iter(found.values()))
    kept = [record["keep"] for record in found.values() if record["keep"] is not None]
    contender = arm not in ("full", *rivals)
    return {
        "arm": arm,
        "budget": budget,
        "seeds": len(found),
        "accuracy": spread(ours.values())._asdict(),
        "nats": float(numpy.mean([record["nats"] for record in found.values()])),
        "seconds": float(numpy.median([record["seconds"] for record in found.values()])),
        "phi": first["phi"],
        "keep": float(numpy.mean(kept)) if kept else None,
        "trials": max(record["trials"] for record in found.values()),
        "versus": {name: found and found._asdict() for name, found in gaps.items()},
        "win": win(*(gaps[rival] for rival in rivals)) if contender else None,
        "lossless": lossless(gaps["full"]),
    }
