"""The composition: score + rule + draw + buffer -> Sifter, pure from end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from puresift import draws, infos, keys, settings, signals, trees
from puresift.buffers import objects, ring
from puresift.buffers.windows import Windows, declared
from puresift.errors import ArgumentError, SiftError
from puresift.scores.guarding import Frozen, detached
from puresift.scores.losses import Stateless, lift
from puresift.scores.model import given, per_row
from puresift.types import (
    Batch,
    Draw,
    Info,
    Kept,
    Key,
    Losses,
    Odds,
    Pad,
    Params,
    Rule,
    Score,
    ScoreFn,
    Sifter,
    SiftState,
)

Column = Callable[[Batch], Tensor]


def sifter(
    score: ScoreFn | Score | None,
    rule: Rule,
    *,
    batch_size: int,
    draw: Draw = draws.bernoulli,
    columns: Mapping[str, Column] | None = None,
    pad: Mapping[str, Pad] | None = None,
    length: Column | None = None,
    bucket: Column | None = None,
    window: int | None = None,
    nonfinite: Literal["raise", "drop", "keep"] = "raise",
) -> Sifter:
    """Compose a score, a rule and a draw into a pure sifter.

    A step scores the pool, asks the rule for odds, draws and refills the buffer:

        losses = score(params, batch);  odds = select(losses);  mask = draw(fold_in(key, step), odds.probs)

    Args:
        score: `score(params, batch)`, a stateful `Score`, or None for a rule that ignores losses.
        rule: losses to odds.
        batch_size: rows in a batch that leaves; pools may have any size up to that of the first.
        draw: odds to mask, `ps.bernoulli` or `ps.systematic`.
        columns: per-row tensors by name, each from a function of the batch; rules and infos receive them.
        pad: ragged leaves by name, each with a padding value and the final length of its rows; rows are padded on the
            right in the buffer, and scored before padding.
        length: `length(batch)`, Int[B]: the real length of each row. Batches are trimmed to their longest row.
        bucket: `bucket(batch)`, Int[B]: with it, rows leave in batches of similar length, sorted within windows.
        window: batches in such a window; 8 by default. A window leaves only when it is full.
        nonfinite: what to do with a row whose loss is NaN or infinite: "raise", "drop" it or "keep" it at weight 1;
            `info.extra["nonfinite"]` counts them. The rule sees the median finite loss in its place.

    Returns:
        `Sifter(init, step, take, flush, observe)`:
        `init(key, batch) -> state`, from the first (and largest) pool;
        `step(state, params, batch, through=False) -> (state, info)`; params is a mapping, None for a pool that is not
        to be scored, or a zero-argument callable, called only if the rule wants scores; with `through` the pool is kept
        whole at weight 1, and neither score nor rule sees it;
        `take(state, width=None) -> (state, (batch, weights))`, when `ps.full(state.buffer)`; width is the longest row
        of that batch, by default read from the buffer;
        `flush(state) -> (state, [(batch, weights), ...])`, all that is left;
        `observe(state, batch, losses) -> state`, training losses for stateful scores.

    Raises:
        SiftError: a setting is out of range or has no effect; from init and step, the batch does not fit.

    Example:
        >>> from puresift import rules
        >>> sift = sifter(lambda params, batch: batch, rules.relative(keep=0.5), batch_size=2)
        >>> pool = torch.tensor([0.1, 0.9, 0.4, 0.6])
        >>> state, info = sift.step(sift.init(keys.key(0), pool), {}, pool)
        >>> info.odds.probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])
    """
    settings.called("rule", rule, "select")
    batch_size = settings.count("batch_size", batch_size)
    if nonfinite not in ("raise", "drop", "keep"):
        raise SiftError(f'nonfinite must be "raise", "drop" or "keep", got {nonfinite!r}')
    if window is not None and bucket is None:
        raise SiftError("window= sorts rows by length, so it needs bucket=, a function batch -> Int[B]")
    if window is None:
        window = 8 if bucket else 1
    window = settings.count("window", window)
    _check(draw, columns or {})
    if score is None and bool(rule.wants(rule.init())):
        raise SiftError("this rule looks at losses, so it needs a score; ps.uniform(keep=...) does not")
    windows = Windows(batch_size, window, length or bucket, bucket, declared(pad or {}))
    parts = _Parts(None if score is None else lift(score), rule, draw, dict(columns or {}), windows, nonfinite)
    return Sifter(
        partial(_init, parts),
        partial(_step, parts),
        partial(_take, parts),
        partial(_flush, parts),
        partial(_observe, parts),
    )


def _check(draw: Any, columns: Mapping[str, Any]) -> None:
    if not callable(draw):
        raise ArgumentError(f"draw is {draw!r}; pass ps.bernoulli or ps.systematic, or draw(key, probs) -> Bool[B]")
    if not isinstance(columns, Mapping):
        raise ArgumentError(
            f"columns is {columns!r}; pass functions of the batch by name: {{'id': lambda batch: batch['id']}}"
        )
    if taken := set(columns) & {*infos.POOLWISE, *infos.ARGUMENTS}:
        raise SiftError(f"columns= may not use the names {sorted(taken)}, which have a meaning already; rename them")
    for name, column in columns.items():
        if not callable(column):
            raise ArgumentError(
                f"the column {name!r} is {column!r}; pass a function of the batch that gives its values"
            )


class _Parts(NamedTuple):
    """The parts of a sifter."""

    score: Score | None
    rule: Rule
    draw: Draw
    columns: dict[str, Column]
    windows: Windows
    nonfinite: str


def _init(parts: _Parts, key: Key, batch: Batch) -> SiftState:
    batch = trees.plain(batch)
    if not trees.batch_size(batch):
        raise SiftError("the first batch has no rows")
    trees.valued(batch)
    buffer = parts.windows.empty(batch)
    remembered = Stateless() if parts.score is None else parts.score.init()
    state = SiftState(remembered, parts.rule.init(), buffer, keys.checked(key), torch.zeros((), dtype=torch.int64))
    return trees.to(state, buffer.fill.device)


def _step(
    parts: _Parts,
    state: SiftState,
    params: Params | Callable[[], Params] | None,
    batch: Batch,
    *,
    through: bool = False,
) -> tuple[SiftState, Info]:
    batch = trees.plain(batch)
    rows = _stored(parts, state, detached(batch))
    cut = parts.windows.cut(rows)

    remembered, losses, finite = _score(parts, state, None if through else params, batch)
    size = losses.shape[0]
    columns = {name: infos.a_row(f"the column {name!r}", of(batch), size) for name, of in parts.columns.items()}
    columns = detached(columns)
    ruled, odds = _select(parts, state, losses, finite, columns, through)
    odds = Odds(*(infos.a_row(f"the rule's {name}", values, size) for name, values in odds._asdict().items()))
    mask = infos.a_row("the draw's mask", parts.draw(keys.fold_in(state.key, state.step), odds.probs), size)
    if mask.dtype != torch.bool:
        raise SiftError(f"a draw gives Bool[{size}], and this one gave {mask.dtype}; return mask.bool()")
    buffer = ring.refill(state.buffer, Kept(rows, odds.weights, mask))

    objects.carry(buffer, state.buffer, batch)
    after = SiftState(remembered, ruled, buffer, state.key, state.step + 1)
    bad = torch.zeros_like(state.step) if finite is None else (~finite).sum()
    refused = bad if parts.nonfinite == "raise" else torch.zeros_like(bad)
    widths = parts.windows.widths(buffer, state.key)
    signal = signals.pack(buffer.fill, refused, parts.rule.wants(ruled), widths, cut)
    return after, Info(losses, odds, mask, {**columns, "nonfinite": bad[None], signals.NAME: signal})


def _take(parts: _Parts, state: SiftState, width: int | None = None) -> tuple[SiftState, tuple[Batch, Tensor]]:
    buffer, taken = parts.windows.take(state.buffer, state.key, width)
    return state._replace(buffer=buffer), taken


def _flush(parts: _Parts, state: SiftState) -> tuple[SiftState, list[tuple[Batch, Tensor]]]:
    buffer, batches = parts.windows.flush(state.buffer, state.key)
    return state._replace(buffer=buffer), batches


def _observe(parts: _Parts, state: SiftState, batch: Batch, losses: Losses) -> SiftState:
    if parts.score is None or parts.score.observe is None:
        raise SiftError("this sifter's score remembers nothing, so there is nothing to observe")
    batch = trees.plain(batch)
    losses = per_row(losses.detach(), trees.batch_size(batch)).float()
    return state._replace(score=parts.score.observe(state.score, batch, losses))


def _stored(parts: _Parts, state: SiftState, batch: Batch) -> Batch:
    """The rows of a pool as the buffer holds them, if they fit into it."""
    if not state.step.is_meta:
        trees.valued(batch)
    rows = parts.windows.padded(batch, state.step.device)
    size = trees.batch_size(rows)
    trees.like(rows, ring.example(state.buffer))
    pool = state.buffer.weights.shape[0] - parts.windows.rows - 1
    if size > pool:
        raise SiftError(
            f"a pool of {size} rows came in, but the sifter was built for {pool}; "
            "pass init the largest pool that will come"
        )
    return rows


def _score(
    parts: _Parts, state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch
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
    parts: _Parts, state: SiftState, losses: Losses, finite: Tensor | None, columns: dict[str, Tensor], through: bool
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
