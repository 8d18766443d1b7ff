"""The composition: score + rule + draw + buffer -> Sifter, pure from end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from puresift import buffers, chunks, draws, keys, scores, settings, trees
from puresift.twins import per_row
from puresift.types import (
    Batch,
    Buffer,
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
_RESERVED = ("signal", "nonfinite", "sifting", "phi", "reading")


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
        score: `score(params, batch)`, a `Score` that remembers, or None for a rule that never looks.
        rule: losses to odds.
        batch_size: rows in a batch that leaves; pools may have any size up to that of the first.
        draw: odds to mask, `ps.bernoulli` or `ps.systematic`.
        columns: per-row tensors by name, each from a function of the batch; rules and infos receive them.
        pad: ragged leaves by name, each with the value and the final length of its rows; rows are padded on the right
            in the buffer, and scored as they arrive.
        length: `length(batch)`, Int[B]: how much of each row counts. Batches leave cut to their longest row.
        bucket: `bucket(batch)`, Int[B]: with it, rows leave in batches of like length, sorted within windows.
        window: batches in such a window; 8 by default. A window leaves only when it is full.
        nonfinite: what becomes of a row whose loss is NaN or infinite: "raise", "drop" it or "keep" it at weight 1;
            `info.extra["nonfinite"]` counts them. The rule sees the median finite loss in its place.

    Returns:
        `Sifter(init, step, take, flush, observe)`:
        `init(key, batch) -> state`, from the first (and largest) pool;
        `step(state, params, batch, through=False) -> (state, info)`; params is a mapping, None for a pool that is not
        to be scored, or a zero-argument callable, asked only where the rule wants scores; a pool handed `through` is
        kept whole at weight 1, and neither score nor rule hears of it;
        `take(state, width=None) -> (state, (batch, weights))`, when `ps.full(state.buffer)`; width is the longest row
        of that batch, read off the buffer unless it is given;
        `flush(state) -> (state, [(batch, weights), ...])`, all that is left;
        `observe(state, batch, losses) -> state`, training losses for scores that remember.

    Raises:
        ValueError: a setting is out of range or does nothing; from init and step, the batch does not fit.

    Example:
        >>> from puresift import rules
        >>> sift = sifter(lambda params, batch: batch, rules.relative(keep=0.5), batch_size=2)
        >>> pool = torch.tensor([0.1, 0.9, 0.4, 0.6])
        >>> state, info = sift.step(sift.init(keys.key(0), pool), {}, pool)
        >>> info.odds.probs
        tensor([0.1250, 0.8750, 0.3750, 0.6250])
    """
    settings.count("batch_size", batch_size)
    if nonfinite not in ("raise", "drop", "keep"):
        raise ValueError(f'nonfinite must be "raise", "drop" or "keep", got {nonfinite!r}')
    if window is not None and bucket is None:
        raise ValueError("window= sorts rows by length, so it needs bucket=, a function batch -> Int[B]")
    if window is None:
        window = 8 if bucket else 1
    span = batch_size * settings.count("window", window)
    columns, pads = dict(columns or {}), dict(pad or {})
    if taken := set(columns) & set(_RESERVED):
        raise ValueError(f"columns= may not use the names {sorted(taken)}")
    length = length or bucket
    if score is None and bool(rule.wants(rule.init())):
        raise ValueError("this rule looks at losses, so it needs a score; ps.uniform(keep=...) does without")
    memory = scores.lift(score) if score is not None else Score(scores.Stateless, _unscored)

    def init(key: Key, batch: Batch) -> SiftState:
        rows = trees.pad(trees.numbered(trees.plain(batch)), pads)
        if not trees.batch_size(rows):
            raise ValueError("the first batch has no rows")
        buffer = buffers.empty(rows, batch_size, window=window)
        state = SiftState(memory.init(), rule.init(), buffer, key, torch.zeros((), dtype=torch.int64))
        return trees.to(state, buffer.fill.device)

    def step(
        state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch, *, through: bool = False
    ) -> tuple[SiftState, Info]:
        batch = trees.plain(batch)
        rows = trees.pad(trees.to(trees.numbered(batch), state.step.device), pads)
        size = trees.batch_size(rows)
        trees.like(rows, chunks.first(state.buffer.rows))
        pool = state.buffer.weights.shape[0] - span - 1
        if size > pool:
            raise ValueError(
                f"a pool of {size} rows came in, but the sifter was built for {pool}; "
                "pass init the largest pool that will come"
            )
        if through:
            params = None
        elif not isinstance(params, dict) and callable(params):
            params = params() if score is not None and bool(rule.wants(state.rule)) else None
        if params is None or score is None:
            remembered, losses = state.score, torch.full((size,), torch.nan, device=state.step.device)
            seen, finite = torch.zeros_like(losses), None
        else:
            remembered, losses = memory.apply(state.score, params, batch)
            losses = per_row(losses, size).float()
            finite = losses.isfinite()
            seen = _stand_in(losses, finite)
        extra = {name: column(batch) for name, column in columns.items()}
        if through:  # stand-in losses would spoil the rule's history
            ruled, odds = state.rule, Odds(torch.ones_like(losses), torch.ones_like(losses))
        else:
            ruled, odds = rule.select(state.rule, seen, **extra)
        if finite is not None:
            odds = _policed(odds, finite, kept=nonfinite == "keep")
            bad = (~finite).sum()
        else:
            bad = torch.zeros_like(state.step)
        mask = draw(keys.fold_in(state.key, state.step), odds.probs)
        buffer = buffers.refill(state.buffer, Kept(rows, odds.weights, mask))
        if trees.serial(batch):
            held = buffers.held_slots(buffer)
            trees.carry(chunks.first(buffer.rows), chunks.first(state.buffer.rows), batch, held)
        new = SiftState(remembered, ruled, buffer, state.key, state.step + 1)
        wants = rule.wants(ruled).to(bad.device)
        fatal = bad if nonfinite == "raise" else torch.zeros_like(bad)
        signal = torch.cat([buffer.fill[:2], torch.stack([fatal, wants.to(bad.dtype)]), widths(new)])
        return new, Info(losses, odds, mask, {**extra, "nonfinite": bad[None], "signal": signal})

    def take(state: SiftState, width: int | None = None) -> tuple[SiftState, tuple[Batch, Tensor]]:
        if width is None:
            buffers.check(state.buffer, span)
            left = state.buffer.fill[1]
            longest = widths(state)
            width = int(longest[(span - left) // batch_size]) if len(longest) else 0
        order = _order(state)[1] if bucket is not None else None
        buffer, (batch, weights) = buffers.pop(state.buffer, batch_size, window=window, order=order)
        batch = trees.resolved(batch, chunks.first(buffer.rows)) if trees.serial(batch) else batch
        if width and pads:
            batch = trees.trim(batch, pads, width)
        return state._replace(buffer=buffer), (batch, weights)

    def _order(state: SiftState) -> tuple[Tensor, Tensor]:
        slots = buffers.window_slots(state.buffer, span)
        assert bucket is not None
        lengths = bucket(chunks.whole(state.buffer.rows))[slots]
        # The shuffle must not change while the window leaves, so it hangs on nothing but what lies in the window.
        name = (lengths * torch.arange(1, span + 1, device=lengths.device)).sum()
        shuffle = keys.uniform(keys.fold_in(state.key, name), window)
        return slots, buffers.by_length(lengths, batch_size, shuffle)

    def widths(state: SiftState) -> Tensor:
        """Int64[W]: the longest row of each batch of the window, in the order in which they leave."""
        if length is None or not pads:
            return state.buffer.fill[:0]
        if bucket is None:
            slots = buffers.window_slots(state.buffer, span)
        else:
            slots, order = _order(state)
            slots = slots[order]
        return length(chunks.whole(state.buffer.rows))[slots].unflatten(0, (-1, batch_size)).amax(1).clamp(min=1)

    def flush(state: SiftState) -> tuple[SiftState, list[tuple[Batch, Tensor]]]:
        batches = []
        while bool(buffers.full(state.buffer)):
            state, batch = take(state)
            batches.append(batch)
        slots = buffers.held_slots(state.buffer)
        for part in slots.split(batch_size) if len(slots) else ():
            rows, weights = buffers.rows_at(state.buffer, part)
            rows = trees.resolved(rows, chunks.first(state.buffer.rows)) if trees.serial(rows) else rows
            if length is not None and pads:
                rows = trees.trim(rows, pads, max(int(length(rows).max()), 1))
            batches.append((rows, weights))
        left = torch.stack([torch.zeros_like(state.step), torch.full_like(state.step, span), state.buffer.fill[2]])
        return state._replace(buffer=Buffer(state.buffer.rows, state.buffer.weights, left)), batches

    def observe(state: SiftState, batch: Batch, losses: Losses) -> SiftState:
        if memory.observe is None:
            raise ValueError("this sifter's score remembers nothing, so there is nothing to observe")
        batch = trees.plain(batch)
        losses = per_row(losses.detach(), trees.batch_size(batch)).float()
        return state._replace(score=memory.observe(state.score, batch, losses))

    return Sifter(init, step, take, flush, observe)


def _unscored(state: Any, params: Params, batch: Batch) -> tuple[Any, Losses]:
    raise AssertionError("a sifter without a score never scores")


def _stand_in(losses: Losses, finite: Tensor) -> Losses:
    """The losses with the pool's median finite loss in place of NaN and infinities."""
    median = torch.where(finite, losses, torch.nan).nanmedian()
    return torch.where(finite, losses, torch.where(median.isnan(), 0.0, median))


def _policed(odds: Odds, finite: Tensor, *, kept: bool) -> Odds:
    """The odds with rows of non-finite loss kept at weight 1, or dropped."""
    probs = torch.where(finite, odds.probs, 1.0 if kept else 0.0)
    return Odds(probs, torch.where(finite, odds.weights, 1.0) if kept else odds.weights)
