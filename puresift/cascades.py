"""Two scores in turn: one that costs little thins a pool, and the other sees what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import draws, keys, settings, trees
from puresift.errors import SiftError
from puresift.rules.weighing import importance
from puresift.scores.guarding import detached
from puresift.scores.losses import lift
from puresift.scores.model import per_row
from puresift.scores.probing import Probe
from puresift.settings import Number
from puresift.types import Batch, Info, Key, Losses, Odds, Params, Score, ScoreFn


class CascadeState(NamedTuple):
    """The states of both scores."""

    first: Any
    second: Any


class Thinned(NamedTuple):
    """The rows that the first score leaves, n of a pool of B."""

    rows: Tensor  # Int64[n], where they lie in the pool, ascending
    probs: Tensor  # Float[n], how likely each was to be left
    weights: Tensor  # Float[n], which make up for it
    size: int  # B
    divided: bool = False

    def shown(self, losses: Losses) -> Losses:
        """What the rule sees of the second scores, Float[n]."""
        return losses * (len(self.rows) / self.size / self.probs) if self.divided else losses


class Cascade(NamedTuple):
    """What `cascade` returns: in place of a score, for `ps.sifter` alone."""

    first: Score | Probe
    second: Score
    keep: float
    floor: float
    bias: float
    divided: bool = False

    def init(self) -> CascadeState:
        """The states of both scores."""
        return CascadeState(self.first.init(), self.second.init())

    def left(self, size: int) -> int:
        """How many rows of a pool the first score leaves."""
        return min(max(round(self.keep * size), 1), size)

    def __call__(self, params: Params, batch: Batch) -> Losses:
        """Not a score."""
        raise SiftError("a cascade draws between its scores, so it works in ps.sifter alone; pass one of its scores")

    def apply(self, state: CascadeState, params: Params, batch: Batch) -> tuple[CascadeState, Losses]:
        """Both scores of all rows, without a draw; the second's losses."""
        first, *_ = self._guessed(state.first, params, batch)
        second, losses = self.second.apply(state.second, params, batch)
        return CascadeState(first, second), losses

    def thin(self, state: CascadeState, key: Key, params: Params, batch: Batch) -> tuple[CascadeState, Losses, Thinned]:
        """Thin a pool and score what is left.

        Args:
            state: of both scores.
            key: Int64[2], of this pool.
            params: of the model.
            batch: B rows.

        Returns:
            The state, the second score's losses Float[n], and which rows they are of.
        """
        size = trees.batch_size(batch)
        left = self.left(size)
        first, guess, seen = self._guessed(state.first, params, batch)
        thinned = self._drawn(key, self._odds(guess, size))
        rest = trees.index(trees.plain(batch), thinned.rows)
        second, losses = self.second.apply(state.second, params, rest)
        told = per_row(losses, left).detach().float()
        if isinstance(self.first, Probe):
            first = self.first.learn(first, seen[thinned.rows], told, left / size / thinned.probs)
        elif self.first.observe is not None:
            first = self.first.observe(first, rest, told)
        return CascadeState(detached(first), detached(second)), losses, thinned

    def thinnings(self, state: CascadeState, many: Key, params: Params, batch: Batch) -> tuple[Losses, list[Thinned]]:
        """The second score of all rows, Float[B], and what the first one would leave of them by each of many keys."""
        size = trees.batch_size(batch)
        _, guess, _ = self._guessed(state.first, params, batch)
        odds = self._odds(guess, size)
        losses = self.second.apply(state.second, params, batch)[1]
        return per_row(losses, size).detach().float(), [self._drawn(key, odds) for key in many]

    @property
    def observe(self) -> Callable[[CascadeState, Batch, Losses], CascadeState] | None:
        """Training losses go to each score that remembers."""
        told = [None if isinstance(score, Probe) else score.observe for score in (self.first, self.second)]
        if told == [None, None]:
            return None

        def observe(state: CascadeState, batch: Batch, losses: Losses) -> CascadeState:
            both = zip(told, state, strict=True)
            return CascadeState(*(one if tell is None else tell(one, batch, losses) for tell, one in both))

        return observe

    def _guessed(self, state: Any, params: Params, batch: Batch) -> tuple[Any, Losses, Tensor]:
        """The first score's state and its guesses, and what it learns from."""
        if isinstance(self.first, Probe):
            guess, seen = self.first.look(state, params, batch)
            return state, guess, seen
        state, guess = self.first.apply(state, params, batch)
        return state, guess, guess

    def _drawn(self, key: Key, odds: Odds) -> Thinned:
        size, left = len(odds.probs), self.left(len(odds.probs))
        mask = draws.systematic(key, odds.probs, count=left)
        rows = torch.argsort((~mask).to(torch.uint8), stable=True)[:left]  # of fixed shape, and not read
        return Thinned(rows, odds.probs[rows], odds.weights[rows], size, self.divided)

    def _odds(self, guess: Losses, size: int) -> Odds:
        guess = per_row(guess, size).detach().float()
        known = guess.isfinite()
        most = torch.where(known, guess, -torch.inf).amax()
        guess = torch.where(known, guess, torch.where(known.any(), most, 1.0))  # what is not known may be the largest
        rule = importance(self.left(size) / size, floor=self.floor, bias=self.bias)
        return rule.select(rule.init(), guess)[1]


def cascade(
    first: ScoreFn | Score | Probe,
    second: ScoreFn | Score,
    *,
    keep: Number = 0.6,
    floor: Number = 0.2,
    bias: Number = 1.0,
    divided: bool = False,
) -> Cascade:
    """Two scores and two draws: the first score thins a pool, and the second is asked for the rest alone.

        q = (1 - floor) * first / sum(first) + floor / B, scaled to sum(q) = n, the whole number next to keep * B
        n rows are drawn by `systematic` in proportion to q; the rule sees their second scores, and keeps with p
        a row is then kept with a probability of q * p, at the rule's weight times (n / (B * q)) ** bias

    The second score, a forward of the live model, runs on n rows in place of B, in batches of one size. With a rule
    that is unbiased the kept gradient stays so. A first score that costs next to nothing is a remembered loss,
    `ps.recalled`; others learn to guess the loss from early features, `ps.probed`, or read part of a row,
    `ps.truncated`. Where it has no number for a row (NaN), the row counts as the largest. The first score is told the
    second's losses as it is told those of training.

    It is the same as two sifters, one behind the other, of which the first has the key fold_in(key, -1), draws by
    `systematic` and fills batches of n rows.

    Args:
        first: the score of all rows, >= 0.
        second: the score of those that are left.
        keep: the share that is left, in (0, 1].
        floor: the share of uniform in q, in (0, 1]: weights stay at most 1 / floor.
        bias: the exponent of the weights, >= 0; 0 leaves the rule's own, for rules that are biased anyway.
        divided: whether the rule sees second scores over q, in units of n / B. Both draws together then keep a row in
            proportion to its second score, not to the product of both, which lowers the variance where the rule keeps
            in proportion to losses, as `importance` does. Infos have the scores themselves.

    Returns:
        What `ps.sifter` takes in place of a score. Its infos have NaN for the losses of rows that were not left, which
        have p = 0 and were not kept.

    Raises:
        SiftError: a setting is out of range, or a score is itself a cascade.

    Example:
        >>> import puresift as ps
        >>> both = cascade(lambda params, x: x, lambda params, x: x, keep=0.5)
        >>> sifter = ps.sifter(both, ps.importance(keep=0.5), batch_size=1)
        >>> state, info = sifter.step(sifter.init(ps.key(0), torch.ones(8)), {}, torch.arange(8.0))
        >>> int(info.losses.isfinite().sum()), int(info.mask.sum()) <= 4
        (4, True)

    References:
        Angelos Katharopoulos, François Fleuret, "Biased Importance Sampling for Deep Neural Network Training", 2017:
        a cheap model in place of the loss.
        Carl-Erik Särndal, Bengt Swensson, Jan Wretman, "Model Assisted Survey Sampling", 1992: sampling in two phases.
    """
    for name, score in (("first", first), ("second", second)):
        if isinstance(score, Cascade):
            raise SiftError(f"the {name} score is itself a cascade; pass plain scores, or scores that remember")
        if not callable(score) and not isinstance(score, Score):
            raise SiftError(f"the {name} score is {score!r}; pass score(params, batch) -> Float[B]")
    floor = settings.level("floor", floor)
    if floor == 0:
        raise SiftError("floor=0 lets a row that the first score knows as 0 never come; pass floor=0.1 or so")
    return Cascade(
        first if isinstance(first, Probe) else lift(first),
        lift(second),
        float(settings.fraction("keep", keep)),
        float(floor),
        float(settings.nonnegative("bias", bias)),
        bool(divided),
    )


def spread(info: Info, thinned: Thinned) -> Info:
    """An info of the rows that were left as one of the whole pool: the others have no loss, p = 0, and are not kept."""

    def over(values: Tensor, other: float) -> Tensor:
        return values.new_full((thinned.size,), other).index_copy(0, thinned.rows, values)

    odds = Odds(over(info.odds.probs, 0.0), over(info.odds.weights, 1.0))
    return Info(over(info.losses, torch.nan), odds, over(info.mask, False), info.extra)  # compiled from torch 2.11 on


def thinning(key: Key, step: Tensor) -> Key:
    """The key of the first draw of a pool."""
    return keys.fold_in(keys.fold_in(key, -1), step)
