"""Saved states that know their rank and the number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from puresift.distributed.ranks import place
from puresift.errors import SiftError

_PLACE = "place"


def stamped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state with this rank and the world size.

    Example:
        >>> sorted(stamped({"step": torch.tensor(3)}))
        ['place', 'step']
    """
    return {**flat, _PLACE: torch.tensor(place())}


def unstamped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state without its stamp.

    Raises:
        SiftError: it belongs to another rank or another world size.

    Example:
        >>> unstamped(stamped({"step": torch.tensor(3)}))
        {'step': tensor(3)}
    """
    rest = dict(flat)
    here = place()
    stamp = rest.pop(_PLACE, None)
    rank, world = here if stamp is None else stamp.tolist()
    if world != here[1]:
        raise SiftError(
            f"the state was saved on {world} ranks and there are {here[1]} now; a rank's rows and place cannot be "
            "redistributed, so resume on as many ranks, or start with a new sifter state"
        )
    if rank != here[0]:
        raise SiftError(
            f"the state was saved by rank {rank} and this is rank {here[0]}; save one file a rank, and load its own"
        )
    return rest
