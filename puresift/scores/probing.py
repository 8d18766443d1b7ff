"""A score that learns as it goes: ridge regression from features of the live model to its losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.scores.model import Scored
from puresift.settings import Number
from puresift.types import Batch, Losses, Params

Features = Callable[[Any, Batch], Tensor]  # features(model, batch) -> Float[B, d]
_MANY = 2  # rows a feature, before the regression has a say


class ProbedState(NamedTuple):
    """The moments of a regression, and the features of the last pool."""

    gram: Tensor  # Float64[d + 1, d + 1], sum of w x x^T, with a one at the end of each x
    cross: Tensor  # Float64[d + 1], sum of w x y
    rows: Tensor  # Float64[], sum of w, which is 1 in the mean


class Probe(NamedTuple):
    """What `probed` returns: in place of the first score of a `ps.cascade`."""

    init: Callable[[], ProbedState]
    look: Callable[[ProbedState, Params, Batch], tuple[Losses, Tensor]]  # guesses Float[B], what to learn from [B, ...]
    learn: Callable[[ProbedState, Tensor, Losses, Tensor], ProbedState]  # of some rows, with their losses and weights

    def __call__(self, params: Params, batch: Batch) -> Losses:
        """Not a score by itself."""
        raise SiftError("probed learns from the other score of a cascade; use ps.cascade(probe, score)")


def probed(model: nn.Module, features: Features, *, size: int, decay: Number = 0.98, ridge: Number = 0.01) -> Probe:
    """The loss that a linear regression expects from early features of the live model, for the first of a cascade.

        y = x . w + b,  (w, b) the ridge regression of losses on features; a pool `a` pools ago counts decay ** a

    Embeddings, or a hidden state after a few layers, cost a fraction of a forward, and tell much of the loss. The
    regression is learnt from what the cascade finds: the second score's losses of the rows that are left, each
    weighted by the inverse of its probability to be left. It is solved once a pool. Until it has seen twice as many
    rows as there are features it has no say, and the score is NaN.

    A loss depends on the label: let the features tell it, as `x[:, :, None] * onehot[:, None, :]` does.

    Args:
        model: any module that `ps.batched` takes.
        features: `features(model, batch)`, Float[B, d], or any shape [B, ...] that has d numbers a row; it need not run
            the whole model.
        size: d.
        decay: how much the past counts after each pool, in (0, 1].
        ridge: the penalty, in units of the mean square of a feature, > 0.

    Returns:
        A `Probe` with a `ProbedState`, whose guesses are Float[B], at least 0.

    Raises:
        SiftError: a setting is out of range; when called, the features have another size, or it is used as a score.

    Example:
        >>> import puresift as ps
        >>> first = probed(nn.Identity(), lambda model, x: model(x), size=2)
        >>> sifter = ps.sifter(ps.cascade(first, lambda params, x: x[:, 0]), ps.importance(keep=0.5), batch_size=4)
        >>> pools = torch.rand(12, 20, 2, generator=torch.Generator().manual_seed(0))
        >>> for sifted in ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools.unbind()):
        ...     pass
        >>> torch.allclose(first.look(sifted.state.score.first, {}, pools[0])[0], pools[0, :, 0], atol=0.05)
        True

    References:
        Arthur E. Hoerl, Robert W. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", 1970.
        Donggeun Yoo, In So Kweon, "Learning Loss for Active Learning", 2019: a loss predicted from hidden features.
    """
    size = settings.count("size", size)
    decay = settings.fraction("decay", decay)
    ridge = settings.positive("ridge", ridge)
    scored, wide, kind = Scored(model, features), size + 1, torch.float64

    def init() -> ProbedState:
        return ProbedState(
            torch.zeros(wide, wide, dtype=kind), torch.zeros(wide, dtype=kind), torch.zeros((), dtype=kind)
        )

    def look(state: ProbedState, params: Params, batch: Batch) -> tuple[Losses, Tensor]:
        rows = trees.batch_size(trees.plain(batch))
        with torch.no_grad():
            seen = scored.call(params, batch)
        if not isinstance(seen, Tensor) or seen.ndim < 2 or seen.shape[0] != rows or seen[:1].numel() != size:
            got = f"{list(seen.shape)}" if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
            raise SiftError(f"the features are {got}, and probed was built for size={size}: give it [{rows}, {size}]")
        seen = torch.nn.functional.pad(seen.detach().reshape(rows, size).double(), (0, 1), value=1.0)
        penalty = ridge * state.gram.diagonal().mean() + (state.rows <= 0)  # before any row, the identity is solved
        eye = torch.eye(wide, dtype=kind, device=state.gram.device)
        factor = torch.linalg.cholesky_ex(state.gram + penalty * eye)[0]  # half of the time of a general solution
        guess = (seen @ torch.cholesky_solve(state.cross[:, None], factor)[:, 0]).clamp(min=0).float()
        return torch.where(state.rows >= _MANY * size, guess, torch.nan), seen

    def learn(state: ProbedState, seen: Tensor, losses: Losses, weights: Tensor) -> ProbedState:
        sane = seen.isfinite().all(1) & losses.isfinite()
        x, y = torch.where(sane[:, None], seen, 0.0), torch.where(sane, losses.double(), 0.0)
        w = torch.where(sane, weights.double(), 0.0)
        return ProbedState(
            decay * state.gram + x.T @ (w[:, None] * x),
            decay * state.cross + x.T @ (w * y),
            decay * state.rows + w.sum(),
        )

    return Probe(init, look, learn)
