"""Where in a loader the next pass begins, and how a saved place is restored."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from puresift.data.generators import generator_states, restore
from puresift.data.pools import after, peek, set_epoch
from puresift.errors import SiftError
from puresift.types import Batch

PREFIX = "loader/"  # of a place's entries in a saved state
_GENERATORS = PREFIX + "randomness/"


class Place:
    """The epoch of a loader, and how far into it the next pass begins.

    A loader with its own `state_dict` and `load_state_dict` saves its position; with others the pools are counted, and
    skipped on resume in the same order, shuffled or not.
    """

    def __init__(self, loader: Iterable[Batch]):
        self.loader: Any = loader
        self.epoch = 0
        self.skip = 0  # pools of the epoch that were read before
        self._position: Any = None  # the loader's own state
        self._generators: list[Tensor] | None = None  # generator states that determine this epoch's order

    def leave(self, epoch: int) -> None:
        """Start the next pass at the beginning of `epoch`."""
        self.epoch, self.skip = epoch, 0
        self._position = self._generators = None

    def pools(self) -> Iterator[Batch]:
        """The pools of the next pass."""
        set_epoch(self.loader, self.epoch)
        if self._position is None:
            self._generators = self._generators or generator_states(self.loader)
            return after(self.loader, self.skip, self._generators)[0]
        self.loader.load_state_dict(copy.deepcopy(self._position))
        states, self._generators = self._generators, None
        pools = iter(self.loader)
        restore(self.loader, states or ())
        return pools

    def peek(self) -> Batch:
        """The loader's first batch; its position is unchanged."""
        position = copy.deepcopy(self.loader.state_dict()) if self.stateful else None
        first = peek(self.loader)
        if position is not None:
            self.loader.load_state_dict(position)
        return first

    @property
    def stateful(self) -> bool:
        """Whether the loader saves its own position. Accelerate's do not save their shuffle, so pools are counted."""
        known = all(hasattr(self.loader, name) for name in ("state_dict", "load_state_dict"))
        return known and wrapped(self.loader) is None

    def state_dict(self, read: int | None) -> dict[str, Any]:
        """The place after `read` pools of the current pass; `read` is None if there is no current pass."""
        position, states = self._position, self._generators
        if read and self.stateful:
            position, states = copy.deepcopy(self.loader.state_dict()), None
        pools = self.skip if read is None else read
        flat: dict[str, Any] = {"epoch": torch.tensor(self.epoch), "pools": torch.tensor(pools)}
        if position is not None:
            flat["upstream"] = position
        flat = {PREFIX + name: value for name, value in flat.items()}
        return flat | {f"{_GENERATORS}{n}": state for n, state in enumerate(states or generator_states(self.loader))}

    def check(self, flat: Mapping[str, Any]) -> None:
        """Raise unless the entries are a place in such a loader.

        Raises:
            SiftError: naming what is missing.
        """
        if not {PREFIX + "epoch", PREFIX + "pools"} <= flat.keys():
            raise SiftError(
                "this is not what a SiftingDataLoader's state_dict() gave: the place in the loader is missing; "
                "a bare ps.state_dict(...) goes back by ps.load_state_dict"
            )
        if PREFIX + "upstream" in flat and not self.stateful:
            raise SiftError(
                "the state was saved with a loader that tells its own position, which this one does not; "
                "wrap the same kind of loader as when it was saved"
            )

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Begin the next pass where `flat` was taken."""
        self.leave(int(flat[PREFIX + "epoch"]))
        self.skip, self._position = int(flat[PREFIX + "pools"]), flat.get(PREFIX + "upstream")
        self._generators = [flat[name] for name in sorted(flat) if name.startswith(_GENERATORS)]


def wrapped(loader: Any) -> Any:
    """The loader inside one that Accelerate prepared; None for any other."""
    return getattr(loader, "base_dataloader", None)
