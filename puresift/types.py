"""The types of puresift: named tuples of tensors, and the interfaces of scores, rules and draws.

Shape legend: B rows in a pool, C slots in a buffer, P the largest pool, W batches in a window.
Every state is a NamedTuple of tensors with fixed shapes and dtypes; settings are held in closures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

Params = Mapping[str, Tensor]  # every parameter and buffer of a model, by its qualified name
Batch = Any  # a pytree of tensors that share their leading dimension
Losses = Tensor  # Float[B], one number per row; larger is more informative
Key = Tensor  # Int64[2], see keys.py


class ScoreFn(Protocol):
    """`losses = score(params, batch)`: one number per row, Float[B].

    Pure: no gradient, no side effect on the model, its buffers, the inputs or the global RNG.
    """

    def __call__(self, params: Params, batch: Batch) -> Losses: ...


class Score(NamedTuple):
    """A stateful score. A plain `ScoreFn` is lifted to one whose state is empty."""

    init: Callable[[], Any]  # () -> state
    apply: Callable[[Any, Params, Batch], tuple[Any, Losses]]  # state, params, batch -> (state, losses)
    observe: Callable[[Any, Batch, Losses], Any] | None = None  # state, batch, training losses -> state


class Odds(NamedTuple):
    """The result of a rule: how likely each row is to be kept, and its weight if kept."""

    probs: Tensor  # Float[B] in [0, 1]
    weights: Tensor  # Float[B], finite and > 0


class Rule(NamedTuple):
    """Losses to odds. `select` is pure and equivariant under permutations of the rows."""

    init: Callable[[], Any]  # () -> state
    select: Callable[..., tuple[Any, Odds]]  # state, losses, **columns -> (state, odds)
    wants: Callable[[Any], Tensor]  # state -> Bool[]; False where the next losses have no effect


class Draw(Protocol):
    """`mask = draw(key, probs)`: Bool[B] whose expectation is probs.

    A draw that also takes `count=` keeps exactly so many rows where the probabilities sum to it.
    """

    def __call__(self, key: Key, probs: Tensor) -> Tensor: ...


class Kept(NamedTuple):
    """A pool on its way into the buffer."""

    rows: Batch  # leaves [B, ...]
    weights: Tensor  # Float[B]
    mask: Tensor  # Bool[B]


class Buffer(NamedTuple):
    """A fixed-capacity FIFO of rows, stored as a ring."""

    rows: Batch  # leaves [C, ...]
    weights: Tensor  # Float[C]
    fill: Tensor  # Int64[3]: rows held; rows due before the next batch leaves; slot the next row goes to


class SiftState(NamedTuple):
    """All that the next step needs."""

    score: Any
    rule: Any
    buffer: Buffer
    key: Tensor  # Int64[2], never advanced: step s draws from fold_in(key, s)
    step: Tensor  # Int64[], pools read


class Info(NamedTuple):
    """Values to inspect or log. They never affect the sifting."""

    losses: Tensor  # Float[B]; NaN where the pool was not scored
    odds: Odds
    mask: Tensor  # Bool[B]
    extra: dict[str, Tensor]  # declared columns, counts, governor decisions


class Sifter(NamedTuple):
    """Score, rule, draw and buffer composed; every member is pure."""

    init: Callable[..., SiftState]  # key, batch -> state
    step: Callable[..., tuple[SiftState, Info]]  # state, params, batch -> (state, info)
    take: Callable[..., tuple[SiftState, tuple[Batch, Tensor]]]  # state -> (state, (batch, weights)), when full
    flush: Callable[[SiftState], tuple[SiftState, list[tuple[Batch, Tensor]]]]
    observe: Callable[[SiftState, Batch, Losses], SiftState]


class Sifted(NamedTuple):
    """What the stream yields. `state` resumes right after this batch."""

    batch: Batch
    weights: Tensor  # Float[batch_size]
    state: SiftState
    info: Info


class Pad(NamedTuple):
    """How a ragged leaf is padded on the right: with `value`, to `length` along its second dimension."""

    value: float
    length: int
