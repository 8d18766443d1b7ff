"""The law of purity: a score is a function of its parameters and its batch, and changes neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from puresift import trees
from puresift.errors import SiftError
from puresift.scores.losses import lift
from puresift.scores.model import per_row
from puresift.testing.comparing import difference, layout, untouched
from puresift.types import Batch, Params, Score, ScoreFn


def assert_pure(score: ScoreFn | Score, params: Params | Callable[[], Params], batch: Batch) -> Tensor:
    """Assert that a score is pure: nothing changes, and the same input gives the same bits.

    Nothing changes: parameters, batch and the score's state, by version and by bits, the global generators, the
    gradient mode; no gradient is recorded. The same bits: at once, under other global generators, and after another
    pool went through, so that it keeps nothing aside. A stateful score's new state has the layout of its old one.

    Differs from `ps.check`, which asks before a run whether rows are independent, and allows for rounding.

    Args:
        score: `score(params, batch)`, or a stateful `Score`.
        params: as in `ps.sift`.
        batch: any.

    Returns:
        The losses, Float[B].

    Raises:
        AssertionError: naming what changed, where, and the cure.

    Example:
        >>> import puresift as ps
        >>> model = torch.nn.Linear(3, 1)
        >>> score = ps.batched(model, lambda model, x: model(x).square().sum(1))
        >>> assert_pure(score, ps.live(model), torch.ones(4, 3)).shape
        torch.Size([4])
    """
    params = dict(params() if callable(params) else params)
    batch = trees.plain(batch)
    rows, memory = trees.batch_size(batch), lift(score)
    device = next((leaf.device for leaf in trees.leaves(batch) if isinstance(leaf, Tensor)), torch.device("cpu"))
    state = trees.to(memory.init(), device)

    def ask(batch: Batch, rows: int) -> tuple[Any, Tensor]:
        with untouched(params=params, batch=batch, state=state):
            after, losses = memory.apply(state, params, batch)
            try:
                losses = per_row(losses, rows)
            except SiftError as error:
                raise AssertionError(f"a score gives one number a row: {error}") from error
        recorded = losses.requires_grad
        assert not recorded, "the score records gradients; compute it under torch.no_grad(), as ps.batched does"
        return after, losses

    first = ask(batch, rows)
    found = layout(state, first[0])
    assert not found, f"the score's new state is laid out differently: {found}"
    found = difference(first, ask(batch, rows))
    assert not found, f"the same input gives another answer at the second call: {found}; draw nothing, keep nothing"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        found = difference(first, ask(batch, rows))
    assert not found, f"the answer depends on the global RNG: {found}; score an eval-mode copy, as ps.batched does"
    ask(trees.index(batch, torch.arange(rows - 1, -1, -1, device=device)[: -(-rows // 2)]), -(-rows // 2))
    found = difference(first, ask(batch, rows))
    assert not found, f"the answer depends on the pools that came before: {found}; keep them in a ps.Score's state"
    return first[1]
