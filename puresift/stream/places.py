"""Where in a loader the next pass begins, and how a saved place is restored."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from puresift.data import positions
from puresift.data.generators import generator_states, restore
from puresift.data.pools import after, peek, set_epoch, size
from puresift.errors import SiftError
from puresift.stream.telling import AGAIN, SHORT
from puresift.types import Batch

PREFIX = "loader/"  # of a place's entries in a saved state
_GENERATORS = PREFIX + "randomness/"
_FEW = 1000  # pools that are read again without a word


class Place:
    """The epoch of a loader, and how far into it the next pass begins.

    A source with its own `state_dict` and `load_state_dict` saves its position; with others the pools are counted, and
    skipped on resume in the same order, shuffled or not.
    """

    def __init__(self, loader: Iterable[Batch]):
        self.loader: Any = loader
        self.epoch = 0
        self.skip = 0  # pools of the epoch that were read before
        self._position: Any = None  # the source's own
        self._past = 0  # pools to pass over from there
        self._given = 0  # pools that the source gave since the pass began
        self._generators: list[Tensor] | None = None  # generator states that determine this epoch's order

    def leave(self, epoch: int) -> None:
        """Start the next pass at the beginning of `epoch`."""
        self.epoch, self.skip, self._past, self._given = epoch, 0, 0, 0
        self._position = self._generators = None

    def pools(self, *, padded: bool = False) -> Iterator[Batch]:
        """The pools of the next pass; `padded`, where a rank that has fewer counts those of the longest.

        Raises:
            SiftError: the loader ended before the saved place.
        """
        set_epoch(self.loader, self.epoch)
        self._given = 0
        if self._position is None:
            self._generators = self._generators or generator_states(self.loader)
            pools, short = after(self.loader, self.skip, self._generators)
            if short and not padded:
                raise SiftError(SHORT.format(self.skip - short, self.skip))
        else:
            pools = positions.resumed(self.loader, self._position)
            restore(self.loader, self._generators or ())
            pools = islice(pools, self._past, None) if self._past else pools
        if wrapped(self.loader) is not None:
            return self._owned(pools)
        return self._counted(pools) if self.stateful else pools

    def peek(self) -> Batch:
        """The loader's first batch; its position is unchanged."""
        if positions.teller(self.loader) is None:
            return peek(self.loader)
        position = positions.position(self.loader)
        first = peek(self.loader)
        positions.put(self.loader, position)
        return first

    @property
    def stateful(self) -> bool:
        """Whether the source's own position is saved, which then holds all that was read."""
        return positions.teller(self.loader) is not None and not positions.buffered(self.loader)

    def state_dict(self, read: int | None) -> dict[str, Any]:
        """The place after `read` pools of the current pass; `read` is None if there is no current pass."""
        position, states, past = self._position, self._generators, self._past
        if read and self.stateful:
            if self._given <= read - self.skip:
                position, states, past = positions.position(self.loader), None, 0
            elif position is not None:  # the last pool that it gave is not in the state: it comes again
                past += read - self.skip
        pools = self.skip if read is None else read
        flat: dict[str, Any] = {"epoch": torch.tensor(self.epoch), "pools": torch.tensor(pools)}
        if position is not None:
            flat["upstream"] = position
            flat |= {"past": torch.tensor(past)} if past else {}
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
        if PREFIX + "upstream" in flat and positions.teller(self.loader) is None:
            raise SiftError(
                "the state was saved with a loader that tells its own position, which this one does not; "
                "wrap the same kind of loader as when it was saved"
            )

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Begin the next pass where `flat` was taken.

        Warns:
            UserWarning: a stream without length has to be read again from its beginning.
        """
        self.leave(int(flat[PREFIX + "epoch"]))
        self.skip, self._position = int(flat[PREFIX + "pools"]), flat.get(PREFIX + "upstream")
        self._past = int(flat.get(PREFIX + "past", 0))
        self._generators = [flat[name] for name in sorted(flat) if name.startswith(_GENERATORS)]
        if self._position is None and self.skip > _FEW and size(self.loader) is None:
            warnings.warn(AGAIN.format(self.skip), stacklevel=3)

    def _owned(self, pools: Iterator[Batch]) -> Iterator[Batch]:
        """The pools of a prepared loader; that they end is not the end of the batches, which Accelerate would believe.

        It would take a step too early, on each rank at another batch, and cut metrics to the size of the last pool.
        """
        for batch in pools:
            self.loader.end_of_dataloader, self.loader.remainder = False, -1
            yield batch

    def _counted(self, pools: Iterator[Batch]) -> Iterator[Batch]:
        for batch in pools:
            self._given += 1
            yield batch


def wrapped(loader: Any) -> Any:
    """The loader inside one that Accelerate prepared; None for any other."""
    return getattr(loader, "base_dataloader", None)
