"""The composition: score + rule + draw + buffer -> Sifter, pure from end to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from puresift import draws, infos, keys, settings, signals, trees
from puresift.buffers import objects, ring
from puresift.buffers.windows import Windows, declared
from puresift.cascades import Cascade, spread
from puresift.errors import ArgumentError, SiftError
from puresift.scores.compiling import limits
from puresift.scores.losses import Stateless, lift
from puresift.scores.model import per_row
from puresift.steps import Column, Looked, Parts, decided, known, looked, measured, wanted
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


def sifter(
    score: ScoreFn | Score | Cascade | None,
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
    ranks: Literal["own", "global"] = "own",
) -> Sifter:
    """Compose a score, a rule and a draw into a pure sifter.

    A step scores the pool, asks the rule for odds, draws and refills the buffer:

        losses = score(params, batch);  odds = select(losses);  mask = draw(fold_in(key, step), odds.probs)

    Args:
        score: `score(params, batch)`, a stateful `Score`, a `ps.cascade`, or None for a rule that ignores losses.
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
        ranks: on several ranks, "own" sifts the pools of each apart; with "global" `ps.sift` decides over the pools of
            all ranks as over one, and moves kept rows so that every rank gets as many batches. `step` itself is pure
            and knows one pool only. In a single process both are the same.

    Returns:
        `Sifter(init, step, take, flush, observe)`:
        `init(key, batch) -> state`, from the first (and largest) pool;
        `step(state, params, batch, through=False, uniforms=None) -> (state, info)`; params is a mapping, None for a
        pool that is not to be scored, or a zero-argument callable, called only if the rule wants scores; with `through`
        the pool is kept whole at weight 1, and neither score nor rule sees it; `uniforms` are the draw's numbers, where
        they were made ahead;
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
    if ranks not in ("own", "global"):
        raise SiftError(f'ranks must be "own" or "global", got {ranks!r}')
    if ranks == "global" and bucket is not None:
        raise SiftError(
            'bucket= sorts the rows of each rank apart, and ranks="global" moves them; leave out one of both'
        )
    if ranks == "global" and isinstance(score, Cascade):
        raise SiftError('a cascade thins the pool of one rank, and ranks="global" has one for all; leave out either')
    if window is not None and bucket is None:
        raise SiftError("window= sorts rows by length, so it needs bucket=, a function batch -> Int[B]")
    if window is None:
        window = 8 if bucket else 1
    window = settings.count("window", window)
    _check(draw, columns or {})
    if score is None and bool(rule.wants(rule.init())):
        raise SiftError("this rule looks at losses, so it needs a score; ps.uniform(keep=...) does not")
    spare = batch_size if ranks == "global" else 0
    windows = Windows(batch_size, window, length or bucket, bucket, declared(pad or {}), spare)
    lifted = score if score is None or isinstance(score, Cascade) else lift(score)
    count = known(score, rule, draw, nonfinite)
    parts = Parts(lifted, rule, draw, dict(columns or {}), windows, nonfinite, ranks == "global", count)
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
        raise ArgumentError(f"columns is {columns!r}; pass functions of the batch by name: {{'id': lambda b: b['id']}}")
    if taken := set(columns) & {*infos.POOLWISE, *infos.ARGUMENTS}:
        raise SiftError(f"columns= may not use the names {sorted(taken)}, which have a meaning already; rename them")
    for name, column in columns.items():
        if not callable(column):
            raise ArgumentError(
                f"the column {name!r} is {column!r}; pass a function of the batch that gives its values"
            )


def parts_of(sifter: Sifter) -> Parts | None:
    """What `sifter` was made of; None where it is a caller's own."""
    step = sifter.step
    return step.args[0] if isinstance(step, partial) and step.func is _step else None


def compiled(sifter: Sifter, *, backend: str | Callable[..., Any] = "inductor") -> Sifter:
    """The sifter with all that follows the score in one graph, and taking a batch in another: fewer, larger kernels.

    The score is left as it is; `ps.compiled` compiles it. Each size of pool costs a graph, at most 64 of them, and
    the first pool waits until it is made, which takes seconds to a minute. `ps.sift(..., compiled=True)` does this.

    Args:
        sifter: from `ps.sifter`.
        backend: as `torch.compile` takes it; "inductor" needs a C++ compiler, or Triton on a GPU.

    Returns:
        A sifter with the same states; of its odds the last bits may differ, where a compiler reorders sums.

    Raises:
        SiftError: the sifter is not from `ps.sifter`.

    Example:
        >>> from puresift import rules
        >>> sift = compiled(sifter(None, rules.uniform(keep=1.0), batch_size=2), backend="eager")
        >>> pool = torch.arange(2)
        >>> state, info = sift.step(sift.init(keys.key(0), pool), None, pool)
        >>> sift.take(state)[1]
        (tensor([0, 1]), tensor([1., 1.]))
    """
    if (parts := parts_of(sifter)) is None:
        raise SiftError("this sifter has a step of its own, which cannot be split; build it by ps.sifter")
    one = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend, **limits())
    return sifter._replace(step=partial(_step, parts, run=one(_kept)), take=partial(_take, parts, run=one(ring.pop)))


def _init(parts: Parts, key: Key, batch: Batch) -> SiftState:
    batch = trees.plain(batch)
    if not trees.batch_size(batch):
        raise SiftError("the first batch has no rows")
    trees.valued(batch)
    buffer = parts.windows.empty(batch)
    remembered = Stateless() if parts.score is None else parts.score.init()
    state = SiftState(remembered, parts.rule.init(), buffer, keys.checked(key), torch.zeros((), dtype=torch.int64))
    return trees.to(state, buffer.fill.device)


def _step(
    parts: Parts,
    state: SiftState,
    params: Params | Callable[[], Params] | None,
    batch: Batch,
    *,
    through: bool = False,
    uniforms: Tensor | None = None,
    run: Callable[..., tuple[SiftState, Info]] | None = None,
) -> tuple[SiftState, Info]:
    batch = trees.plain(batch, lambda: ring.example(state.buffer))
    pool = looked(parts, state, None if through else params, batch)
    after, info = (run or _kept)(parts, state, pool, through, uniforms)
    objects.carry(after.buffer, state.buffer, batch)
    return after, info


def _kept(
    parts: Parts, state: SiftState, pool: Looked, through: bool, uniforms: Tensor | None
) -> tuple[SiftState, Info]:
    """The state after a pool that was looked at, and its info: what can be compiled, whatever the score."""
    losses, finite = measured(pool)
    columns = pool.columns if pool.thinned is None else trees.index(pool.columns, pool.thinned.rows)
    shown = losses if pool.thinned is None else pool.thinned.shown(losses)
    ruled, odds, mask = decided(parts, state, shown, finite, columns, through, uniforms)
    count = None if through else parts.exactly(len(mask))
    if pool.thinned is not None:
        odds = Odds(odds.probs * pool.thinned.probs, odds.weights * pool.thinned.weights)
    buffer = ring.refill(state.buffer, Kept(pool.rows, odds.weights, mask), count=count)
    after = SiftState(pool.score, ruled, buffer, state.key, state.step + 1)
    choices = torch.arange(2, device=state.step.device).unbind()
    none = choices[0]
    bad = none if finite is None else (~finite).sum()
    refused = bad if parts.nonfinite == "raise" else none
    cut, widths = none if pool.cut is None else pool.cut, parts.windows.widths(buffer, state.key)
    signal = signals.pack(buffer.fill, refused, wanted(parts, after, choices), widths, cut)
    extra = {**pool.columns, "nonfinite": bad[None], signals.NAME: signal}
    info = Info(losses, odds, mask, extra)
    return after, info if pool.thinned is None else spread(info, pool.thinned)


def _take(
    parts: Parts, state: SiftState, width: int | None = None, *, run: Callable[..., Any] = ring.pop
) -> tuple[SiftState, tuple[Batch, Tensor]]:
    buffer, taken = parts.windows.take(state.buffer, state.key, width, run)
    return state._replace(buffer=buffer), taken


def _flush(parts: Parts, state: SiftState) -> tuple[SiftState, list[tuple[Batch, Tensor]]]:
    buffer, batches = parts.windows.flush(state.buffer, state.key)
    return state._replace(buffer=buffer), batches


def _observe(parts: Parts, state: SiftState, batch: Batch, losses: Losses) -> SiftState:
    if parts.score is None or parts.score.observe is None:
        raise SiftError("this sifter's score remembers nothing, so there is nothing to observe")
    batch = trees.plain(batch, lambda: ring.example(state.buffer))
    losses = per_row(losses.detach(), trees.batch_size(batch)).float()
    return state._replace(score=parts.score.observe(state.score, batch, losses))
