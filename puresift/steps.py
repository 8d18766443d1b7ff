"""A sifter's step in its parts: to look at a pool, and to decide; and what is known of both ahead. All is pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puresift import infos, keys, trees
from puresift.buffers import ring
from puresift.buffers.windows import Windows
from puresift.errors import SiftError
from puresift.rules.counting import Count, count_of
from puresift.rules.planning import always, never
from puresift.scores.guarding import Frozen, detached
from puresift.scores.model import given, per_row
from puresift.types import Batch, Draw, Losses, Odds, Params, Rule, Score, SiftState

Column = Callable[[Batch], Tensor]


class Parts(NamedTuple):
    """The parts of a sifter."""

    score: Score | None
    rule: Rule
    draw: Draw
    columns: dict[str, Column]
    windows: Windows
    nonfinite: str
    shared: bool  # whether the pools of all ranks are decided as one

    known: Count | None  # rows kept of a pool by its size, where rule and draw say so ahead

    def keeps(self, rows: int) -> int | None:
        """How many of so many rows are kept; None where it is not known ahead."""
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
    losses: Losses
    finite: Tensor | None  # Bool[B]; None where the pool was not scored
    columns: dict[str, Tensor]
    cut: Tensor  # Int64[], rows that would lose content


def looked(parts: Parts, state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch) -> Looked:
    """A pool, a tree of tensors, checked and scored."""
    rows = _stored(parts, state, detached(batch))
    cut = parts.windows.cut(rows)
    remembered, losses, finite = _score(parts, state, params, batch)
    columns = {name: infos.a_row(f"the column {name!r}", of(batch), len(losses)) for name, of in parts.columns.items()}
    return Looked(rows, remembered, losses, finite, detached(columns), cut)


def decided(
    parts: Parts, state: SiftState, losses: Losses, finite: Tensor | None, columns: dict[str, Tensor], through: bool
) -> tuple[Any, Odds, Tensor]:
    """The rule's state, the odds and the mask of a pool with these losses."""
    size = losses.shape[0]
    ruled, odds = _select(parts, state, losses, finite, columns, through)
    odds = Odds(*(infos.a_row(f"the rule's {name}", values, size) for name, values in odds._asdict().items()))
    key, count = keys.fold_in(state.key, state.step), None if through else parts.keeps(size)
    drawn = parts.draw(key, odds.probs) if count is None else parts.draw(key, odds.probs, count=count)  # type: ignore[call-arg]
    mask = infos.a_row("the draw's mask", drawn, size)
    if mask.dtype != torch.bool:
        raise SiftError(f"a draw gives Bool[{size}], and this one gave {mask.dtype}; return mask.bool()")
    if count is not None and finite is not None:  # such a pool is refused, but maybe only after the next one
        place = torch.where(finite, finite.cumsum(0), finite.sum() + (~finite).cumsum(0))
        mask = torch.where(finite.all(), mask, place <= count)
    return ruled, odds, mask


def wanted(parts: Parts, state: SiftState) -> Tensor:
    """Bool[], on the state's device: whether the rule wants the next pool scored."""
    wants = parts.rule.wants
    if wants is always or wants is never:  # moving a tensor to the device would wait for it
        return torch.full_like(state.step, wants is always, dtype=torch.bool)
    return wants(state.rule).to(state.step.device)


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
) -> tuple[Any, Losses, Tensor | None]:
    """The score's state, the losses, and which are finite; NaN and None where the pool is not scored."""
    if params is not None:
        given(params)
    if not isinstance(params, dict) and callable(params):
        params = params() if parts.score is not None and bool(parts.rule.wants(state.rule)) else None
    size = trees.batch_size(batch)
    if params is None or parts.score is None:
        return state.score, torch.full((size,), torch.nan, device=state.step.device), None
    rows = Frozen(batch)
    remembered, losses = parts.score.apply(state.score, params, batch)
    rows.compare()
    # A copy without a graph: the score may write its next answer over this one, and histories would keep its graph.
    losses = per_row(losses, size).detach().to(torch.float32, copy=True)
    return detached(remembered), losses, losses.isfinite()


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
    median = torch.where(finite, losses, torch.nan).nanmedian()
    return torch.where(finite, losses, torch.where(median.isnan(), 0.0, median))
