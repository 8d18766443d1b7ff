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

    Example:
        >>> import torch
        >>> score = lambda params, batch: (batch - params["mean"]).abs()
        >>> score({"mean": torch.tensor(1.0)}, torch.tensor([1.0, 4.0]))
        tensor([0., 3.])
    """

    def __call__(self, params: Params, batch: Batch) -> Losses: ...


class Score(NamedTuple):
    """A stateful score. A plain `ScoreFn` is lifted to one whose state is empty.

    Example:
        >>> import torch, puresift as ps
        >>> counting = ps.Score(lambda: torch.tensor(0), lambda pools, params, batch: (pools + 1, batch.abs()))
        >>> counting.apply(counting.init(), {}, torch.tensor([-2.0, 1.0]))
        (tensor(1), tensor([2., 1.]))
    """

    init: Callable[[], Any]  # () -> state
    apply: Callable[[Any, Params, Batch], tuple[Any, Losses]]  # state, params, batch -> (state, losses)
    observe: Callable[[Any, Batch, Losses], Any] | None = None  # state, batch, training losses -> state


class Odds(NamedTuple):
    """The result of a rule: how likely each row is to be kept, and its weight if kept.

    Example:
        >>> import torch, puresift as ps
        >>> rule = ps.importance(keep=0.5, floor=0.0)
        >>> probs, weights = rule.select(rule.init(), torch.tensor([1.0, 3.0]))[1]
        >>> probs, probs * weights  # of each row, what it counts for in expectation
        (tensor([0.2500, 0.7500]), tensor([0.5000, 0.5000]))
    """

    probs: Tensor  # Float[B] in [0, 1]
    weights: Tensor  # Float[B], finite and > 0


class Rule(NamedTuple):
    """Losses to odds. `select` is pure and equivariant under permutations of the rows.

    Example:
        >>> import torch, puresift as ps
        >>> def select(state, losses, **columns):
        ...     return state, ps.Odds((losses > 1).float(), torch.ones_like(losses))
        >>> above = ps.Rule(lambda: (), select, lambda state: torch.tensor(True))
        >>> above.select(above.init(), torch.tensor([0.5, 2.0]))[1].probs
        tensor([0., 1.])
    """

    init: Callable[[], Any]  # () -> state
    select: Callable[..., tuple[Any, Odds]]  # state, losses, **columns -> (state, odds)
    wants: Callable[[Any], Tensor]  # state -> Bool[]; False where the next losses have no effect


class Draw(Protocol):
    """`mask = draw(key, probs)`: Bool[B] whose expectation is probs.

    A draw that also takes `count=` keeps exactly so many rows where the probabilities sum to it.

    Example:
        >>> import torch, puresift as ps
        >>> def rounded(key, probs):
        ...     return probs >= 0.5
        >>> sifter = ps.sifter(None, ps.uniform(keep=0.6), batch_size=2, draw=rounded)
        >>> sifter.step(sifter.init(ps.key(0), torch.zeros(3)), {}, torch.zeros(3))[1].mask
        tensor([True, True, True])
    """

    def __call__(self, key: Key, probs: Tensor) -> Tensor: ...


class Kept(NamedTuple):
    """A pool on its way into the buffer.

    Example:
        >>> import torch, puresift as ps
        >>> rows = torch.tensor([10.0, 20.0, 30.0])
        >>> kept = ps.Kept(rows, torch.ones(3), torch.tensor([True, False, True]))
        >>> ps.take(ps.refill(ps.empty(rows, batch_size=2), kept), 2)[1][0]
        tensor([10., 30.])
    """

    rows: Batch  # leaves [B, ...]
    weights: Tensor  # Float[B]
    mask: Tensor  # Bool[B]


class Buffer(NamedTuple):
    """A fixed-capacity FIFO of rows, stored as a ring.

    Example:
        >>> import torch, puresift as ps
        >>> buffer = ps.empty(torch.zeros(4, 3), batch_size=2)  # room for a batch, a pool and one row
        >>> buffer.rows.shape, buffer.fill.tolist()
        (torch.Size([7, 3]), [0, 2, 0])
    """

    rows: Batch  # leaves [C, ...]
    weights: Tensor  # Float[C]
    fill: Tensor  # Int64[3]: rows held; rows due before the next batch leaves; slot the next row goes to


class SiftState(NamedTuple):
    """All that the next step needs.

    Example:
        >>> import torch, puresift as ps
        >>> sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2)
        >>> state = sifter.init(ps.key(7), torch.zeros(4))
        >>> int(state.step), state.key.tolist()
        (0, [7, 0])
    """

    score: Any
    rule: Any
    buffer: Buffer
    key: Tensor  # Int64[2], never advanced: step s draws from fold_in(key, s)
    step: Tensor  # Int64[], pools read


class Info(NamedTuple):
    """Values to inspect or log. They never affect the sifting.

    Example:
        >>> import torch, puresift as ps
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
        >>> pool = torch.tensor([1.0, 4.0, 3.0, 2.0])
        >>> sifter.step(sifter.init(ps.key(0), pool), {}, pool)[1].mask
        tensor([False,  True,  True, False])
    """

    losses: Tensor  # Float[B]; NaN where the pool was not scored
    odds: Odds
    mask: Tensor  # Bool[B]
    extra: dict[str, Tensor]  # declared columns, counts, governor decisions


class Sifter(NamedTuple):
    """Score, rule, draw and buffer composed; every member is pure.

    Example:
        >>> import torch, puresift as ps
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
        >>> pool = torch.tensor([1.0, 4.0, 3.0, 2.0])
        >>> state, info = sifter.step(sifter.init(ps.key(0), pool), {}, pool)
        >>> state, (batch, weights) = sifter.take(state)
        >>> batch
        tensor([4., 3.])
    """

    init: Callable[..., SiftState]  # key, batch -> state
    step: Callable[..., tuple[SiftState, Info]]  # state, params, batch -> (state, info)
    take: Callable[..., tuple[SiftState, tuple[Batch, Tensor]]]  # state -> (state, (batch, weights)), when full
    flush: Callable[[SiftState], tuple[SiftState, list[tuple[Batch, Tensor]]]]
    observe: Callable[[SiftState, Batch, Losses], SiftState]


class Sifted(NamedTuple):
    """What the stream yields. `state` resumes right after this batch.

    Example:
        >>> import torch, puresift as ps
        >>> sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2)
        >>> pools = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
        >>> for batch, weights, state, info in ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools):
        ...     print(batch, weights, int(state.step))
        tensor([4., 3.]) tensor([1., 1.]) 1
    """

    batch: Batch
    weights: Tensor  # Float[batch_size]
    state: SiftState
    info: Info


class Pad(NamedTuple):
    """How a ragged leaf is padded on the right: with `value`, to `length` along its second dimension.

    Example:
        >>> import torch, puresift as ps
        >>> tokens = torch.ones(2, 3, dtype=torch.int64)  # the longest row of this pool has 3, of others up to 8
        >>> sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2, pad={"ids": ps.Pad(0, length=8)})
        >>> sifter.init(ps.key(0), {"ids": tokens}).buffer.rows["ids"].shape
        torch.Size([5, 8])
    """

    value: float
    length: int
