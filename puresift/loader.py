"""A loader in place of a loader: any loop, or any trainer, that iterates over batches trains on sifted ones."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from puresift import checkpoint, distributed, keys, sifters, trees
from puresift.governor import Governor
from puresift.handout import Handout
from puresift.pools import behind, peek, put_back, randomness, set_epoch
from puresift.stream import Stream, sift
from puresift.types import Batch, Info, Key, Losses, Params, Rule, Score, ScoreFn, SiftState

_SETTINGS = tuple(inspect.signature(sifters.sifter).parameters)[3:]  # behind score, rule and batch_size
_OURS = "loader/"
_CHANCE = _OURS + "randomness/"


class SiftingDataLoader(Iterable[Any]):
    """A loader whose batches are sifted, for loops and trainers that know loaders only.

    One `iter()` is one pass over the wrapped loader, whose epoch is set to `epoch` where it has a `set_epoch`. The
    sifter's state lives on: rows that never filled a batch wait for the next pass. How many batches a pass gives is
    not known ahead, so there is no length: let a trainer count steps, and the schedule follow `ps.progress`.

    Scores are those of the newest parameters, so wrap last: outside of whatever reads batches ahead.

    Args:
        loader: an iterable of batches that starts anew each time it is asked, such as a DataLoader.
        score: as in `ps.sifter`.
        rule: as in `ps.sifter`.
        params: `ps.live(model)`, a zero-argument callable, or a mapping; as in `ps.sift`.
        batch_size: rows in a batch; by default as many as the loader's own batches have.
        key: Int64[2]; by default `ps.key(0)`. Where there are several ranks, each folds its own number in.
        weights: how the weights, Float[batch_size], reach the loss: None leaves them in the attribute `weights`, a
            name puts them into dict batches, True yields (batch, weights).
        governor: as in `ps.sift`; it measures anew in each pass.
        in_step: whether a pass ends on all ranks together, when the shortest has no batch left; for DDP.
        settings: the other settings of `ps.sifter`: draw, columns, pad, length, bucket, window, nonfinite.

    Attributes: `loader`, `batch_size`, `epoch` (of the current or the next pass), `state` (the newest), `info` (that
    of the batch last yielded; after a pass, of the pools read since) and `weights` (of the batch last yielded).

    Raises:
        ValueError: here, or at the first batch, when something does not fit; while iterating, when weights are not all
            1 and nobody has looked at them.
        TypeError: there is no such setting.

    Example:
        >>> import puresift as ps
        >>> pools = torch.arange(8.0).split(4)
        >>> loader = SiftingDataLoader(pools, lambda params, batch: batch, ps.top(keep=0.5), params={}, batch_size=2)
        >>> [batch.tolist() for batch in loader]
        [[2.0, 3.0], [6.0, 7.0]]
    """

    info: Info | None = None
    epoch: int = 0

    def __init__(
        self,
        loader: Iterable[Batch],
        score: ScoreFn | Score | None,
        rule: Rule,
        *,
        params: Params | Callable[[], Params],
        batch_size: int | None = None,
        key: Key | None = None,
        weights: str | bool | None = None,
        governor: Governor | None = None,
        in_step: bool = False,
        **settings: Any,
    ):
        _check(loader, params, settings)
        self.loader = loader
        self.batch_size = _batch_size(loader) if batch_size is None else batch_size
        self._params, self._governor = params, governor
        self._key = distributed.rank_key(keys.key(0) if key is None else key)
        self._in_step = in_step
        self._handout = Handout(weights)
        self._build = lambda size: sifters.sifter(score, rule, batch_size=size, **settings)
        self._sifter = self._build(
            1 if self.batch_size is None else self.batch_size
        )  # settings are checked now, even if the size comes later
        self._state: SiftState | None = None
        self._stream: Stream | None = None
        self._open = False  # whether a pass is under way
        self._began = 0  # pools read before this pass
        self._skip, self._upstream = 0, None  # where the next pass begins: pools, and the source's own word for it
        self._chance: list[Tensor] | None = None  # and what the order of its pools hangs on

    def __iter__(self) -> Iterator[Any]:
        return distributed.in_step(self._pass()) if self._in_step else self._pass()

    @property
    def state(self) -> SiftState:
        """The newest state."""
        return self._ready() if self._stream is None else self._stream.state

    @property
    def weights(self) -> Tensor:
        """The weights of the batch last yielded, Float[batch_size]."""
        return self._handout.look()

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of `epoch`; a place remembered in another epoch is forgotten."""
        if self._open or epoch != self.epoch:
            self._leave(epoch)
        set_epoch(self.loader, epoch)

    def observe(self, losses: Losses, batch: Batch = None) -> None:
        """Feed training losses, Float[B], to a score that remembers: those of the batch last yielded, or of `batch`."""
        if self._stream is None:
            raise ValueError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self._stream.observe(losses, batch)

    def flush(self) -> list[Any]:
        """All rows that are left, as batches of at most `batch_size`; a pass under way ends with it.

        Raises:
            ValueError: weights are not all 1, and this loader does not yield them.
        """
        state, left = self._sifter.flush(self.state)
        batches = self._handout.rest(left)
        self._leave(self.epoch + self._open)
        self._state, self._stream = state, None
        return batches

    def state_dict(self) -> dict[str, Any]:
        """The newest state and the place in this pass, as a flat dict; `torch.load` reads it with weights_only=True.

        A wrapped loader that tells its own position, by `state_dict` and `load_state_dict`, has that saved along; with
        others the pools are counted, and passed over again in the same order, shuffled or not.
        """
        flat: dict[str, Any] = dict(checkpoint.state_dict(self.state))
        pools = int(self.state.step) - self._began if self._open else self._skip
        flat[_OURS + "epoch"], flat[_OURS + "pools"] = torch.tensor(self.epoch), torch.tensor(pools)
        upstream, chance = self._upstream, self._chance
        if self._open and pools and _stateful(self.loader):
            upstream, chance = copy.deepcopy(self.loader.state_dict()), None  # type: ignore[attr-defined]
        if upstream is not None:
            flat[_OURS + "upstream"] = upstream
        for number, generator in enumerate(chance or randomness(self.loader)):
            flat[f"{_CHANCE}{number}"] = generator
        return distributed.stamped(flat)

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Go on with the next `iter()` where `flat` was taken, to the bit.

        What else hangs on the global generators (dropout, the shuffles of later passes) is as exact as the caller
        restores those.

        Raises:
            ValueError: it is no state of such a loader, or one with another rule, score, size, rank or world size.
        """
        flat = distributed.unstamped(flat)
        ours = {name.removeprefix(_OURS): value for name, value in flat.items() if name.startswith(_OURS)}
        if not {"epoch", "pools"} <= ours.keys():
            raise ValueError(
                "this is not what a SiftingDataLoader's state_dict() gave: the place in the loader is missing; "
                "a bare ps.state_dict(...) goes back by ps.load_state_dict"
            )
        if "upstream" in ours and not _stateful(self.loader):
            raise ValueError(
                "the state was saved with a loader that tells its own position, which this one does not; "
                "wrap the same kind of loader as when it was saved"
            )
        template = self._ready()
        state = checkpoint.load_state_dict(template, {n: v for n, v in flat.items() if not n.startswith(_OURS)})
        self._leave(int(ours["epoch"]))
        self._state, self._stream = state, None
        self._skip, self._upstream = int(ours["pools"]), ours.get("upstream")
        self._chance = [flat[name] for name in sorted(flat) if name.startswith(_CHANCE)]

    def _pass(self) -> Iterator[Any]:
        if self._open:  # a pass that was broken off is over
            self._leave(self.epoch + 1)
        set_epoch(self.loader, self.epoch)
        skip, chance = self._skip, self._chance
        if self._upstream is not None:
            self.loader.load_state_dict(copy.deepcopy(self._upstream))
            self._chance, pools = None, iter(self.loader)
            put_back(self.loader, chance or ())
        else:
            self._chance = chance or randomness(self.loader)
            pools, _ = behind(self.loader, skip, chance or ())
        if self._state is None:
            first = next(pools, None)
            if first is None:
                raise ValueError("the loader is empty: it gave no batch")
            self._state, pools = self._init(first), chain([first], pools)
        state = self.state
        self._began = int(state.step) - skip
        ahead = not _stateful(self.loader)
        stream = sift(self._sifter, state, self._params, pools, skip=0, governor=self._governor, ahead=ahead)
        self._stream, self._open = stream, True
        for sifted in stream:
            if len(sifted.info.losses):  # a pool was read since, and all that was queued before it is done
                self._handout.settle()
            self.info = sifted.info
            yield self._handout.give(sifted.batch, sifted.weights)
            if self._stream is not stream:
                raise RuntimeError(
                    "a newer pass has begun, a state was loaded or the rows were flushed, so this pass cannot go on; "
                    "one SiftingDataLoader serves one loop at a time"
                )
            self._handout.trained()
        self.info = stream.info
        if int(stream.state.step) == self._began:
            raise ValueError("the loader gave no batch in this pass; pass an iterable that starts anew each time")
        self._leave(self.epoch + 1)

    def _leave(self, epoch: int) -> None:
        self._open, self.epoch = False, epoch
        self._skip, self._upstream, self._chance = 0, None, None

    def _ready(self) -> SiftState:
        """The state; before the first pass, out of a look at the first batch."""
        if self._state is None:
            loader: Any = self.loader
            place = copy.deepcopy(loader.state_dict()) if _stateful(loader) else None
            self._state = self._init(peek(loader))
            if place is not None:
                loader.load_state_dict(place)
        return self._state

    def _init(self, first: Batch) -> SiftState:
        if self.batch_size is None:
            self.batch_size = trees.batch_size(trees.plain(first))
            self._sifter = self._build(self.batch_size)
        return self._sifter.init(self._key, first)


def _check(loader: Any, params: Any, settings: Mapping[str, Any]) -> None:
    if isinstance(loader, SiftingDataLoader) or isinstance(_inner(loader), SiftingDataLoader):
        raise ValueError("this loader is sifted already; wrap the loader inside of it, once")
    if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
        kind = "a one-shot iterator" if isinstance(loader, Iterator) else f"a {type(loader).__name__}"
        raise ValueError(f"the loader is {kind}; pass an iterable that starts anew each time, such as a DataLoader")
    if isinstance(params, nn.Module):
        raise ValueError("params is a model; pass params=ps.live(model), which reads its parameters at each use")
    if not callable(params) and not isinstance(params, Mapping):
        raise ValueError(f"params is a {type(params).__name__}; pass ps.live(model), a callable or a mapping")
    if unknown := sorted(settings.keys() - set(_SETTINGS)):
        raise TypeError(f"there is no setting {', '.join(unknown)}; those of the sifter are {', '.join(_SETTINGS)}")


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None


def _stateful(loader: Any) -> bool:
    """Whether a loader tells and takes its own position. Accelerate's forget how they shuffled, so they are counted."""
    return all(hasattr(loader, name) for name in ("state_dict", "load_state_dict")) and _inner(loader) is None


def _inner(loader: Any) -> Any:
    return getattr(loader, "base_dataloader", None)
