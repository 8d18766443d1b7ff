"""Rules over the tokens of a batch: which of them count in the loss."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from puresift import settings
from puresift.errors import SiftError
from puresift.types import Draw, Key, Losses, Rule


class TokenSelect(Protocol):
    """`state, weights = select(state, key, losses, mask)`: each token's weight in the loss, Float[B, T]."""

    def __call__(self, state: Any, key: Key, losses: Losses, mask: Tensor) -> tuple[Any, Tensor]: ...


def tokens(rule: Rule, *, draw: Draw | None = None) -> TokenSelect:
    """Select tokens instead of rows: the rule's `select` over the losses of all real tokens of a batch, flattened.

        weights[b, t] = mask[b, t] * m[b, t] * w[b, t],   m the draw, or p itself without one

    It changes what is learnt, not what a step costs: the forward still runs over every token, and only dropping whole
    rows saves time. Sift rows for that; the two combine.

    Args:
        rule: losses to odds. A history must hold all tokens of a batch; `ps.top(keep=0.6)` over `reducible` token
            losses is Rho-1.
        draw: odds to mask, such as `ps.bernoulli`. Without one, each token is weighted by its probability.

    Returns:
        `select(state, key, losses, mask)`, pure: losses Float[B, T], mask Bool[B, T] or 0/1 (False on padding and on
        what has no label); start from `rule.init()`; returns (state, weights Float[B, T]). Reads the number of real
        tokens, so it synchronises once.

    Raises:
        SiftError: when called, losses and mask do not share one shape [B, T].

    Example:
        >>> from puresift import keys, rules
        >>> rule = rules.top(keep=0.5)
        >>> losses, mask = torch.tensor([[3.0, 1.0], [2.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])
        >>> state, weights = tokens(rule)(rule.init(), keys.key(0), losses, mask)
        >>> weights
        tensor([[1.0000, 0.0000],
                [0.5000, 0.0000]])

    References:
        Zhenghao Lin et al., "Rho-1: Not All Tokens Are What You Need", 2024.
    """
    settings.called("rule", rule, "select")

    def select(state: Any, key: Key, losses: Losses, mask: Tensor) -> tuple[Any, Tensor]:
        if losses.ndim != 2 or losses.shape != mask.shape:
            raise SiftError(
                f"token losses and their mask must both have shape [B, T], got {list(losses.shape)} and "
                f'{list(mask.shape)}; pass reduction="none" and shift labels and mask alike'
            )
        real = mask.bool()
        state, odds = rule.select(state, losses.detach()[real])
        thinned = odds.weights * (odds.probs if draw is None else draw(key, odds.probs))
        return state, torch.zeros_like(losses, dtype=torch.float32).masked_scatter(real, thinned)

    return select
