"""One batch of a draw after the other."""

from __future__ import annotations

from torch import Tensor

from puresift.prioritizers.drawing import Prioritizer
from puresift.prioritizers.table import PrioritizerState
from puresift.types import Odds


def left(state: PrioritizerState) -> int:
    """Batches drawn and not handed out yet, read on the host."""
    return int(state.draws) * state.ids.shape[0] - int(state.step)


def next_batch(prioritizer: Prioritizer, state: PrioritizerState, left: int) -> tuple[PrioritizerState, Tensor, Odds]:
    """The next batch, of a new draw where none is left; it counts as handed out.

    Args:
        prioritizer: from `ps.prioritizer`.
        state: of it.
        left: `left(state)`; counted by the caller where the state is on a GPU, so that nothing is read from it.

    Returns:
        (state, ids Int64[B], odds Float[B] each).

    Example:
        >>> import puresift as ps
        >>> drawer = ps.prioritizer(ps.importance(keep=0.5), size=4, batch_size=2, every=2)
        >>> state, first, _ = next_batch(drawer, drawer.init(ps.key(0)), 0)
        >>> state, second, _ = next_batch(drawer, state, left(state))
        >>> sorted(first.tolist() + second.tolist()), int(state.draws), int(state.step)
        ([0, 1, 2, 3], 1, 2)
    """
    if not left:
        state, _, _ = prioritizer.draw(state)
    row, (probs, weights) = -left % prioritizer.plan.every, state.odds
    return state._replace(step=state.step + 1), state.ids[row], Odds(probs[row], weights[row])
