"""How much of a budget of pools is spent."""

from __future__ import annotations

from puresift import settings
from puresift.types import SiftState


def progress(state: SiftState, pools: int) -> float:
    """The fraction of the budget spent, in pools read: for a learning-rate schedule when steps are unknown.

    Args:
        state: the newest one, `stream.state`.
        pools: the budget, such as `epochs * len(loader)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> import torch, puresift as ps
        >>> sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
        >>> state = sifter.init(ps.key(0), torch.zeros(2))
        >>> progress(sifter.step(state, None, torch.zeros(2))[0], pools=4)
        0.25
    """
    return min(int(state.step) / settings.count("pools", pools), 1.0)
