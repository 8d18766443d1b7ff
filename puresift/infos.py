"""Infos of several pools as one, and which of their entries are per pool rather than per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from puresift import signals, trees
from puresift.errors import SiftError
from puresift.types import Info, Odds

# Entries of `extra` with one value per pool; all others have one per row.
POOLWISE = ("nonfinite", "sifting", "phi", "reading", "left_short", signals.NAME)


# What rules call their first two arguments, so that no column can be passed under these names.
ARGUMENTS = ("state", "losses")


def a_row(name: str, values: Any, size: int) -> Tensor:
    """The values, checked to have one entry a row.

    Raises:
        SiftError: naming what they are instead.
    """
    if isinstance(values, Tensor) and values.ndim and values.shape[0] == size:
        return values
    got = f"{values.dtype}{list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
    raise SiftError(f"{name} must be a tensor with one entry for each of the {size} rows of the pool, got {got}")


def join(infos: Sequence[Info], device: torch.device | None = None, like: Info | None = None) -> Info:
    """Infos of several pools as one, rows concatenated; of none, an info with zero rows.

    Args:
        infos: one a pool.
        device: of an info of no pool.
        like: an info whose entries, with zero rows, an info of no pool has too.

    Returns:
        An info whose `extra` holds the entries that all of them have.
    """
    if len(infos) == 1:
        return infos[0]
    if not infos and like is not None:
        return trees.map_leaves(lambda leaf: leaf[:0], like)
    if not infos:
        none = torch.empty(0, device=device)
        return Info(none, Odds(none, none), none.bool(), {})
    shared = [name for name in infos[0].extra if all(name in info.extra for info in infos)]
    return Info(
        torch.cat([info.losses for info in infos]),
        Odds(torch.cat([info.odds.probs for info in infos]), torch.cat([info.odds.weights for info in infos])),
        torch.cat([info.mask for info in infos]),
        {name: torch.cat([info.extra[name] for info in infos]) for name in shared},
    )


def pools(info: Info) -> int:
    """How many pools an info joins."""
    return len(info.extra["nonfinite"]) if "nonfinite" in info.extra else int(len(info.losses) > 0)


def columns(info: Info) -> dict[str, Tensor]:
    """The entries of `extra` that have one value per row."""
    return {name: value for name, value in info.extra.items() if name not in POOLWISE}
