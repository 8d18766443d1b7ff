"""What a run may spend, what each part of it costs, and the learning rate that follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.quality.arms import SMALL, Arm
from bench.quality.task import Missing, Task

WARM_UP = 0.06  # of the budget


class Costs(NamedTuple):
    """What is charged, in plain training steps of this task."""

    step: float  # seconds of such a step
    score: dict[str, float]  # of a batch's worth of rows: phi, by score
    pool: dict[str, float]  # of a pool, without its score, by arm
    small: float = SMALL  # a step of a small batch
    token: float = 0.0  # of each token that the longest row of a batch has more than
    length: float = 0.0  # in a mean batch

    def own(self, arm: Arm) -> float:
        """Of a pool, for this arm.

        Raises:
            Missing: it was not measured.
        """
        name = arm.priced or arm.name
        if name not in self.pool:
            raise Missing(f"what {name} costs was not measured with the task's other costs; --measure --again does so")
        return self.pool[name]

    def batch(self, arm: Arm, task: Task) -> Price:
        """Of a batch trained on. Rows drawn by chance are of mean length; those that are picked may be longer."""
        row = (self.small if arm.small else 1.0) / rows_of(arm, task)
        token = self.token / task.batch_size if arm.picks else 0.0
        return lambda rows, longest: rows * (row + token * (longest - self.length))


Price = Callable[[int, float], float]  # rows of a batch and its padded length -> units


def rows_of(arm: Arm, task: Task) -> int:
    """Of a batch."""
    return round(SMALL * task.batch_size) if arm.small else task.batch_size


class Ledger:
    """What a run has spent of its budget: units as charged or, given a clock of units, as measured."""

    def __init__(self, budget: float, *, clock: Callable[[], float] | None = None):
        self.budget, self.clock = budget, clock
        self.parts = dict.fromkeys(("train", "score", "pool", "reference"), 0.0)
        self.start()

    def start(self) -> None:
        """What the clock has told so far does not count."""
        self.began = self.clock() if self.clock else 0.0

    def charge(self, part: str, units: float) -> None:
        self.parts[part] += units

    @property
    def charged(self) -> float:
        return sum(self.parts.values())

    @property
    def spent(self) -> float:
        return self.clock() - self.began if self.clock else self.charged

    @property
    def left(self) -> float:
        return self.budget - self.spent


def rate(peak: float, done: float) -> float:
    """Linear up over the warm-up, linear down to zero; `done` is the fraction of the budget spent."""
    done = min(done, 1.0)
    return peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
