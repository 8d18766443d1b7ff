"""A sifter's step in its parts: to look at a pool, and to decide; and what is known of both ahead. All is pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import infos, keys, trees
from puresift.buffers import ring
from puresift.buffers.windows import Windows
from puresift.cascades import Cascade, Thinned, thinning
from puresift.errors import SiftError
from puresift.order import median
from puresift.rules.counting import Count, count_of
from puresift.rules.planning import always, never
from puresift.scores.guarding import Frozen, detached
from puresift.scores.model import given, per_row
from puresift.types import Batch, Draw, Losses, Odds, Params, Rule, Score, SiftState

Column = Callable[[Batch], Tensor]


class Parts(NamedTuple):
    """The parts of a sifter."""

    score: Score | Cascade | None
    rule: Rule
    draw: Draw
    columns: dict[str, Column]
    windows: Windows
    nonfinite: str
    shared: bool  # whether the pools of all ranks are decided as one

    known: Count | None  # rows kept of a pool by its size, where rule and draw say so ahead

    def keeps(self, rows: int) -> int | None:
        """How many of so many rows are kept; None where it is not known ahead."""
        return self.exactly(self.score.left(rows) if isinstance(self.score, Cascade) else rows)

    def exactly(self, rows: int) -> int | None:
        """The same for the rows that the rule sees."""
        return None if self.known is None else self.known(rows)

    @property
    def wants_all(self) -> bool | None:
        """Whether the rule wants every pool scored, or none; None where it changes its mind."""
        return True if self.rule.wants is always else False if self.rule.wants is never else None

    @property
    def constant(self) -> bool:
        """Whether pools need not be read: what is kept is known, and whether they are scored never changes."""
        cut = self.windows.length is not None and bool(self.windows.pads)  # to the longest row, which is read
        return self.known is not None and self.wants_all is not None and not cut


def known(score: Any, rule: Rule, draw: Draw, nonfinite: str) -> Count | None:
    """What a rule says it keeps of a pool, where the draw keeps exactly that and no row is left out by its loss."""
    try:
        exact = "count" in inspect.signature(draw).parameters
    except (TypeError, ValueError):  # of a callable that does not show its arguments
        exact = False
    return count_of(rule) if exact and (score is None or nonfinite == "raise") else None


class Looked(NamedTuple):
    """A pool as it was scored, before anything is decided."""

    rows: Batch  # as the buffer holds them
    score: Any  # the score's state
    losses: Losses  # as the score gave them; NaN where there is none
    scored: bool
    columns: dict[str, Tensor]  # of the whole pool
    thinned: Thinned | None  # which rows of the pool the others are; None for all of them
    cut: Tensor | None  # Int64[], rows that would lose content; None where none can


def looked(parts: Parts, state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch) -> Looked:
    """A pool, a tree of tensors, checked and scored."""
    rows = _stored(parts, state, detached(batch))
    cut, size = parts.windows.cut(rows), trees.batch_size(batch)
    remembered, losses, scored, thinned = _score(parts, state, params, batch)
    columns = {name: infos.a_row(f"the column {name!r}", of(batch), size) for name, of in parts.columns.items()}
    rows = rows if thinned is None else trees.index(rows, thinned.rows)
    return Looked(rows, remembered, losses, scored, detached(columns), thinned, cut)


def measured(pool: Looked) -> tuple[Losses, Tensor | None]:
    """A pool's losses, and Bool[B], which of them are finite; None where it was not scored.

    A copy, for the score may write its next answer over this one.
    """
    if not pool.scored:
        return pool.losses, None
    losses = pool.losses.to(torch.float32, copy=True)
    return losses, losses.isfinite()


def decided(
    parts: Parts,
    state: SiftState,
    losses: Losses,
    finite: Tensor | None,
    columns: dict[str, Tensor],
    through: bool,
    uniforms: Tensor | None = None,
) -> tuple[Any, Odds, Tensor]:
    """The rule's state, the odds and the mask of a pool with these losses."""
    size = losses.shape[0]
    ruled, odds = _select(parts, state, losses, finite, columns, through)
    odds = Odds(*(infos.a_row(f"the rule's {name}", values, size) for name, values in odds._asdict().items()))
    key, count = state.key, None if through else parts.exactly(size)
    options: dict[str, Any] = {} if count is None else {"count": count}
    if uniforms is None:
        key = keys.fold_in(state.key, state.step)
    else:
        options["uniforms"] = uniforms[:size] if uniforms.ndim else uniforms
    mask = infos.a_row("the draw's mask", parts.draw(key, odds.probs, **options), size)
    if mask.dtype != torch.bool:
        raise SiftError(f"a draw gives Bool[{size}], and this one gave {mask.dtype}; return mask.bool()")
    return ruled, odds, mask


def wanted(parts: Parts, state: SiftState, choices: Sequence[Tensor]) -> Tensor:
    """Whether the rule wants the next pool scored: one of two choices, no and yes, or Bool[], on their device."""
    if parts.wants_all is not None:  # moving a tensor to the device would wait for it
        return choices[int(parts.wants_all)]  # torch 2.11 compiles no index that is a bool
    return parts.rule.wants(state.rule).to(choices[0].device)


def _stored(parts: Parts, state: SiftState, batch: Batch) -> Batch:
    """The rows of a pool as the buffer holds them, if they fit into it."""
    if not state.step.is_meta:
        trees.valued(batch)
    rows = parts.windows.padded(batch, state.step.device)
    size = trees.batch_size(rows)
    trees.like(rows, ring.example(state.buffer))
    pool = parts.windows.pool(state.buffer)
    if size > pool:
        raise SiftError(
            f"a pool of {size} rows came in, but the sifter was built for {pool}; "
            "pass init the largest pool that will come"
        )
    return rows


def _score(
    parts: Parts, state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch
) -> tuple[Any, Losses, bool, Thinned | None]:
    """The score's state, the losses, whether they were scored, and of which rows; NaN where they were not."""
    if params is not None:
        given(params)
    if not isinstance(params, dict) and callable(params):
        params = params() if parts.score is not None and bool(parts.rule.wants(state.rule)) else None
    size = trees.batch_size(batch)
    if params is None or parts.score is None:
        return state.score, torch.full((size,), torch.nan, device=state.step.device), False, None
    rows, thinned = Frozen(batch), None
    if isinstance(parts.score, Cascade):
        key = thinning(state.key, state.step)
        remembered, losses, thinned = parts.score.thin(state.score, key, params, batch)
        size = parts.score.left(size)
    else:
        remembered, losses = parts.score.apply(state.score, params, batch)
    rows.compare()
    return detached(remembered), per_row(losses, size).detach(), True, thinned  # histories would keep a graph


def _select(
    parts: Parts, state: SiftState, losses: Losses, finite: Tensor | None, columns: dict[str, Tensor], through: bool
) -> tuple[Any, Odds]:
    """The rule's state and odds; rows of non-finite loss are kept at weight 1, or dropped."""
    if through:  # stand-in losses would spoil the rule's history
        return state.rule, Odds(torch.ones_like(losses), torch.ones_like(losses))
    if finite is None:
        return parts.rule.select(state.rule, torch.zeros_like(losses), **columns)
    ruled, odds = parts.rule.select(state.rule, _stand_in(losses, finite), **columns)
    kept = parts.nonfinite == "keep"
    probs = torch.where(finite, odds.probs, 1.0 if kept else 0.0)
    return ruled, Odds(probs, torch.where(finite, odds.weights, 1.0) if kept else odds.weights)


def _stand_in(losses: Losses, finite: Tensor) -> Losses:
    """The losses with the pool's median finite loss in place of NaN and infinities."""
    return torch.where(finite, losses, median(losses, finite).nan_to_num(0.0))
