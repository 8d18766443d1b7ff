"""The rules once more, from their docstrings, in plain Python: lists of losses to lists of odds.

Each is `reference(losses, rows)`, which changes itself, and `wants()`; `rows` are the rows' numbers, their columns.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any

List = list[float]


class Reference:
    """A rule without a memory, which wants every loss, with weights of 1."""

    def __call__(self, losses: List, rows: list[int]) -> tuple[List, List]:
        return self.probs(losses), [1.0] * len(losses)

    def probs(self, losses: List) -> List:
        raise NotImplementedError

    def wants(self) -> bool:
        return True


def fill(scores: List, total: float) -> List:
    """p = min(1, c * score) with sum(p) = total; rows of score 0 share what the others cannot take."""
    total = min(max(total, 0.0), len(scores))
    scored = [number for number, score in enumerate(scores) if score > 0]
    if len(scored) <= total:
        spare = (total - len(scored)) / (len(scores) - len(scored)) if len(scored) < len(scores) else 0.0
        return [1.0 if score > 0 else spare for score in scores]
    full: set[int] = set()
    while True:
        c = (total - len(full)) / math.fsum(scores[number] for number in scored if number not in full)
        over = {number for number in scored if number not in full and scores[number] * c > 1}
        if not over:
            return [1.0 if number in full else c * score for number, score in enumerate(scores)]
        full |= over


def inside(history: Any, losses: List, low: float, high: float) -> List:
    """The share of each loss's ranks between two quantiles."""
    n, found = len(history), []
    for loss in losses:
        below, upto = sum(h < loss for h in history), sum(h <= loss for h in history)
        found.append(min(max((min(n * high, upto) - max(n * low, below)) / (upto - below), 0.0), 1.0))
    return found


class Uniform(Reference):
    def __init__(self, keep):
        self.keep = keep

    def probs(self, losses):
        return [self.keep] * len(losses)

    def wants(self):
        return False


class Top(Uniform):
    wants = Reference.wants

    def probs(self, losses):
        planned = self.keep * len(losses)
        share = lambda x: (planned - sum(y > x for y in losses)) / sum(y == x for y in losses)  # noqa: E731
        return [min(max(share(loss), 0.0), 1.0) for loss in losses]


class Ranked(Top):
    def probs(self, losses):
        size, ordered = len(losses), sorted(losses)
        power = [((place + 0.5) / size) ** (1 / self.keep - 1) for place in range(size)]
        places = lambda loss: [power[place] for place in range(size) if ordered[place] == loss]  # noqa: E731
        return fill([math.fsum(places(loss)) / len(places(loss)) for loss in losses], self.keep * size)


class Relative(Reference):
    def __init__(self, keep, history):
        self.exponent, self.history = 1 / keep - 1, deque(maxlen=history) if history else None

    def probs(self, losses):
        if self.history is not None:
            self.history.extend(losses)
        history = losses if self.history is None else self.history
        n, e, found = len(history), self.exponent, []
        for loss in losses:
            below, upto = sum(h < loss for h in history), sum(h <= loss for h in history)
            tied = ((upto / n) ** (e + 1) - (below / n) ** (e + 1)) / ((e + 1) * (upto - below) / n)
            found.append(((below + upto) / 2 / n) ** e if upto - below == 1 else tied)
        return found


class Value(Uniform):
    wants = Reference.wants

    def probs(self, losses):
        return [float(loss > self.keep) for loss in losses]


class Band(Reference):
    def __init__(self, low, high, history):
        self.low, self.high, self.history = low, high, deque(maxlen=history)

    def probs(self, losses):
        self.history.extend(losses)
        return inside(self.history, losses, self.low, self.high)


class Prune(Reference):
    def __init__(self, ratio, history):
        self.ratio, self.history = ratio, deque(maxlen=history)

    def __call__(self, losses, rows):
        self.history.extend(losses)
        mean = sum(map(Fraction, self.history)) / len(self.history)  # exact: rounded, it can lie above equal losses
        probs = [1 - self.ratio if loss < mean else 1.0 for loss in losses]
        return probs, [1 / p for p in probs]


class Importance(Reference):
    def __init__(self, keep, floor, bias):
        self.keep, self.floor, self.bias = keep, floor, bias

    def __call__(self, losses, rows):
        scores = [max(loss, 0.0) for loss in losses]
        mean = math.fsum(scores) / len(scores)
        relative = [score / mean if mean > 0 else 1.0 for score in scores]
        probs = fill([(1 - self.floor) * r + self.floor for r in relative], self.keep * len(scores))
        return probs, [(self.keep / p) ** self.bias if p > 0 else 1.0 for p in probs]


class Wrapper(Reference):
    def __init__(self, inner, *settings):
        self.inner, self.settings = inner, settings

    def wants(self):
        return self.inner.wants()


class Floor(Wrapper):
    def __call__(self, losses, rows):
        probs, weights = self.inner(losses, rows)
        return [max(p, self.settings[0]) for p in probs], weights


class Hold(Wrapper):
    def __call__(self, losses, rows):
        through = not self.inner.wants()
        probs, weights = self.inner(losses, rows)
        if through and all(p == 1 for p in probs):
            return probs, weights
        return fill(probs, self.settings[0] * len(losses)), weights


class DropTop(Wrapper):
    def __init__(self, inner, quantile, history):
        super().__init__(inner, quantile)
        self.history = deque(maxlen=history)

    def __call__(self, losses, rows):
        probs, weights = self.inner(losses, rows)
        self.history.extend(losses)
        trusted = inside(self.history, losses, 0.0, self.settings[0])
        return [p * share for p, share in zip(probs, trusted, strict=True)], weights

    def wants(self):
        return True


class Unbiased(Wrapper):
    def __call__(self, losses, rows):
        exponent, clip = self.settings
        probs, _ = self.inner(losses, rows)
        plan = math.fsum(probs) / len(probs)
        return probs, [min((plan / p) ** exponent, clip) if p > 0 else 1.0 for p in probs]


class While(Wrapper):
    """Off, everything is kept and the rule sees nothing; `settings[0](pools seen)` says when it is on."""

    seen = 0

    def __call__(self, losses, rows):
        active, self.seen = self.settings[0](self.seen), self.seen + 1
        return self.inner(losses, rows) if active else ([1.0] * len(losses), [1.0] * len(losses))

    def wants(self):
        return self.settings[0](self.seen) and self.inner.wants()


class Cover(Wrapper):
    def __init__(self, inner, epochs):
        super().__init__(inner, epochs)
        self.visits: dict[int, int] = {}

    def __call__(self, losses, rows):
        probs, weights = self.inner(losses, rows)
        due = [(self.visits.get(row, 0) + row) % self.settings[0] == self.settings[0] - 1 for row in rows]
        self.visits.update({row: self.visits.get(row, 0) + 1 for row in rows})
        return [1.0 if now else p for now, p in zip(due, probs, strict=True)], weights


class Shown(Wrapper):
    """By root, by error: the rule is shown a function of the loss."""

    def __call__(self, losses, rows):
        return self.inner([self.settings[0](max(loss, 0.0)) for loss in losses], rows)


class Mix(Reference):
    def __init__(self, inner, shares):
        self.inner, self.shares = inner, [share / sum(shares) for share in shares]

    def __call__(self, losses, rows):
        each = [part(losses, rows) for part in self.inner]
        probs, weights = [], []
        for row in range(len(losses)):
            p = sum(share * odds[0][row] for share, odds in zip(self.shares, each, strict=True))
            pull = sum(share * odds[0][row] * odds[1][row] for share, odds in zip(self.shares, each, strict=True))
            mean = sum(share * odds[1][row] for share, odds in zip(self.shares, each, strict=True))
            probs.append(p)
            weights.append(pull / p if p > 0 else mean)
        return probs, weights

    def wants(self):
        return any(part.wants() for part in self.inner)


class ByGroup(Reference):
    """A rule of its own for each group of rows by number; its pool is as long as the whole, each row repeated."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, losses, rows):
        size, probs, weights = len(losses), [0.0] * len(losses), [1.0] * len(losses)
        for group, rule in enumerate(self.inner):
            mine = sorted((n for n in range(size) if rows[n] % len(self.inner) == group), key=lambda n: losses[n])
            if not mine:
                continue
            slots = [place * len(mine) // size for place in range(size)]
            p, w = rule([losses[mine[slot]] for slot in slots], [rows[mine[slot]] for slot in slots])
            for rank, row in enumerate(mine):
                probs[row], weights[row] = p[slots.index(rank)], w[slots.index(rank)]
        return probs, weights

    def wants(self):
        return any(rule.wants() for rule in self.inner)
