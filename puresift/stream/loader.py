"""A drop-in DataLoader whose batches are sifted, for any loop or trainer that iterates over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from torch import Tensor

from puresift import checkpoint, keys, sifters
from puresift.data.pools import set_epoch
from puresift.distributed.company import Company
from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import rank_key
from puresift.distributed.saving import stamped, unstamped
from puresift.errors import MomentError, SiftError
from puresift.infos import join
from puresift.settings import called
from puresift.stream import given
from puresift.stream.fitting import Fitted
from puresift.stream.governors import Governor
from puresift.stream.joining import accompanied
from puresift.stream.pacing import Pace
from puresift.stream.places import PREFIX, Place, wrapped
from puresift.stream.runs import Run
from puresift.stream.shares import Shares
from puresift.stream.stream import Stream
from puresift.stream.stream import stream as started
from puresift.stream.telling import LOADER_WAY_ON, NONE, OVER, same
from puresift.stream.weights import Handout
from puresift.types import Batch, Info, Key, Losses, Params, Rule, Score, ScoreFn, SiftState


class SiftingDataLoader(Fitted, Iterable[Any]):
    """A loader whose batches are sifted, for loops and trainers that take a loader.

    One `iter()` is one pass over the wrapped loader, whose epoch is set to `epoch` where it has a `set_epoch`. The
    sifter's state persists: rows that did not fill a batch wait for the next pass. The number of batches in a pass is
    not known ahead, so there is no length: let a trainer count steps, and the schedule follow `ps.progress`.

    Scores are those of the newest parameters, so wrap last: outside of any prefetching.

    Args:
        loader: an iterable of batches that can be iterated again, such as a DataLoader.
        score: as in `ps.sifter`.
        rule: as in `ps.sifter`.
        params: `ps.live(model)`, a zero-argument callable, or a mapping; as in `ps.sift`.
        batch_size: rows in a batch; by default as many as the loader's own batches have.
        key: Int64[2]; by default `ps.key(0)`. With several ranks, each folds in its rank.
        weights: how the weights, Float[batch_size], reach the loss: None leaves them in the attribute `weights`, a
            name puts them into dict batches, True yields (batch, weights).
        governor: as in `ps.sift`; it measures again in each pass.
        in_step: for DDP. With True a pass ends on all ranks together, when one has read its pools; what the others
            have left comes first in their next pass, and a rank that fails ends all of them, by name. With False each
            goes alone. By default ranks whose rule keeps a constant number (`ps.hold`, drawn by `ps.systematic`) are
            compared as a pass begins: of equally many pools they fill batches at the same steps, without a word; else
            they go as with True. Other rules go as with False, and warn; but around a loader that Accelerate prepared,
            whose passes begin on all ranks at once, as with True.
        settings: the other settings of `ps.sifter`: draw, columns, pad, length, bucket, window, nonfinite. With
            pad="auto" the entries that tokenizers make (input_ids, attention_mask, labels and so on) may have another
            length in each batch: they are padded as far as needed, and rows leave cut to the longest of their batch.

    Attributes: `loader`, `batch_size`, `epoch` (of the current or the next pass), `state` (the newest), `info` (that
    of the batch last yielded; after a pass, of the pools read since) and `weights` (of the batch last yielded). Set
    `endless` to True where passes follow without end, until all ranks have taken as many batches, as in trainers that
    count steps: with in_step=False a sharded model can be scored there alone.

    Raises:
        SiftError: here, or at the first batch, for an invalid setting or batch; as a pass begins, when ranks that score
            a sharded model go each alone; while iterating, when weights are not all 1 and were not read.
        TypeError: there is no such setting.

    Example:
        >>> import torch
        >>> import puresift as ps
        >>> pools = torch.arange(8.0).split(4)
        >>> loader = SiftingDataLoader(pools, lambda params, batch: batch, ps.top(keep=0.5), params={}, batch_size=2)
        >>> [batch.tolist() for batch in loader]
        [[2.0, 3.0], [6.0, 7.0]]
    """

    info: Info | None = None
    endless = False

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
        in_step: bool | None = None,
        **settings: Any,
    ):
        if isinstance(loader, SiftingDataLoader) or isinstance(wrapped(loader), SiftingDataLoader):
            raise SiftError("this loader is sifted already; wrap the loader inside of it, once")
        given.check(loader, params, settings)
        self._told = same(loader)
        self.batch_size = given.batch_size(loader) if batch_size is None else batch_size
        self._params, self._governor = params, governor
        if governor is not None:
            called("governor", governor, "decide")
        key = keys.key(0) if key is None else keys.checked(key)
        self._pace = Pace(in_step, key, prepared=wrapped(loader) is not None)
        self._handout = Handout(weights)
        self._ragged = given.ragged(loader, settings)
        self._shares = Shares()
        self._build = lambda size: sifters.sifter(
            score, rule, batch_size=size, **(self._ragged.settings(settings) if self._ragged else settings)
        )
        # Settings are checked now, even if the size comes later.
        self._sifter = self._build(1 if self.batch_size is None else self.batch_size)
        self._key = key if self._parts.shared else rank_key(key)
        self._state: SiftState | None = None
        self._stream: Stream | None = None
        self._passed: list[Info] = []  # of pools that were read after the last batch of an epoch
        self._place = Place(loader)
        self._company: Company | None = None
        self._open = False  # whether a pass has started
        self._began = 0  # pools read before this pass

    def __iter__(self) -> Iterator[Any]:
        self._told = self._told or same(self.loader)  # a process group may have been made since
        pact = self._pace.begin(self._parts, governed=self._governor is not None)
        self._company = accompanied(self._parts, self._params, pact, self._company, endless=self.endless)
        met, batches = pact if self._company is None else self._company.pact, self._pass(pact)
        return Run(batches if met is None else met.kept(batches), LOADER_WAY_ON)

    @property
    def loader(self) -> Any:
        """The wrapped loader."""
        return self._place.loader

    @property
    def epoch(self) -> int:
        """The epoch of the current or the next pass."""
        return self._place.epoch + self._pace.behind

    @property
    def weights(self) -> Tensor:
        """The weights of the batch last yielded, Float[batch_size]."""
        return self._handout.look()

    def set_epoch(self, epoch: int) -> None:
        """Start the next pass at `epoch`; a saved place in another epoch is dropped."""
        if self._pace.stopped and epoch == self.epoch:
            return  # what this rank has left comes first
        if self._open or epoch != self.epoch:
            self._leave(epoch)
        set_epoch(self.loader, epoch)

    def observe(self, losses: Losses, batch: Batch = None) -> None:
        """Feed training losses, Float[B], to a stateful score: those of the batch last yielded, or of `batch`."""
        if self._stream is None:
            raise SiftError("observe takes the losses of the batch last yielded, but none was yielded yet")
        self._stream.observe(losses, batch)

    def fail(self, error: BaseException) -> None:
        """Tell ranks that score a sharded model together with this one that it cannot go on, so that they stop too."""
        if self._company is not None:
            self._company.pact.fail(error)

    def flush(self) -> list[Any]:
        """All rows that are left, as batches of at most `batch_size`; a pass that has started ends with it.

        Raises:
            SiftError: weights are not all 1, and this loader does not yield them.
        """
        state, left = self._sifter.flush(self.state)
        batches = self._handout.rest(left)
        self._leave(self.epoch + (self._open and not self._pace.stopped))
        self._state = state
        self._follow(None, iter(()))
        return batches

    def state_dict(self) -> dict[str, Any]:
        """The newest state and the place in this pass, as a flat dict; `torch.load` reads it with weights_only=True.

        The source's own position is saved too, and nothing is read again, where a loader tells it by `state_dict` and
        `load_state_dict`, or the stream that a DataLoader without workers reads. With others, and where a shuffle
        buffer of Hugging Face's keeps rows that are in no position, the pools are counted: on resume they are read
        again in the same order, shuffled or not, and passed over. A stream that never ends should tell its position.
        """
        read = int(self.state.step) - self._began if self._open else None
        ragged = self._ragged.state_dict() if self._ragged else {}
        place = {**self._place.state_dict(read), **self._pace.state_dict()}
        return stamped({**checkpoint.state_dict(self.state), **place, **ragged})

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Resume with the next `iter()` where `flat` was taken, bit for bit.

        Dropout and the shuffles of later passes depend on the global generator states, which the caller must restore.

        Raises:
            SiftError: it is not such a state, or from a loader with another rule, score, size, rank or world size.

        Warns:
            UserWarning: more than 1,000 pools of a stream without length have to be read again.
        """
        flat = unstamped(flat)
        self._place.check(flat)
        sifting = {name: value for name, value in flat.items() if not name.startswith(PREFIX)}
        like = self._ready() if self._ragged is None else self._ragged.template(self._ready(), flat)
        state = checkpoint.load_state_dict(like, sifting)
        if self._ragged is not None:
            assert self.batch_size is not None
            self._ragged.load_state_dict(flat)
            self._sifter = self._build(self.batch_size)
        self._open = False
        self._pace.set(flat)
        self._place.load_state_dict(flat)
        self._state = state
        self._follow(None, iter(()))

    def _pass(self, pact: Pact | None) -> Iterator[Any]:
        if not self._pace.stopped:
            self._begin(pact)
        elif self._stream is not None:
            self._stream.joint.join(self._company)
        self._pace.stopped = False
        self._pace.meet(pact, self._parts, self.state, self.loader, self._began)
        lock = None if self._parts.shared else pact  # with ranks="global" the stream keeps it
        while self._pace.goes_on(lock, self._full(pact), self._company):
            stream = self._stream
            assert stream is not None
            sifted = next(stream)
            if len(sifted.info.losses):  # a pool was read since: look at the weights that have come
                self._handout.settle()
            self.info, self._passed = join([*self._passed, sifted.info]), []
            yield self._handout.give(sifted.batch, sifted.weights)
            if self._stream is not stream:
                raise MomentError(OVER)
            self._handout.trained()
        if not self._pace.stopped:
            self._end()
        else:  # pools read since come with the batch that waits
            self.info = join([], like=self.info)
            if self._pace.passes_over(self.loader, self._source):
                self._leave(self.epoch)

    def _begin(self, pact: Pact | None) -> None:
        """Start to read the pools of an epoch."""
        if self._open:  # an unfinished pass is over
            self._leave(self.epoch + 1)
        skip, pools = self._place.skip, self._place.pools(padded=self._parts.shared)
        if self._state is None or (pact is not None and wrapped(self.loader) is not None):  # all ranks begin it at once
            first = list(islice(pools, 1))
            if self._state is None and not first:
                raise SiftError("the loader is empty: it gave no batch")
            self._state, pools = self._state or self._init(first[0]), chain(first, pools)
        self._began = int(self.state.step) - skip
        ahead = not self._place.stateful
        fitting = self._fitting(pools)
        stream = started(self._sifter, self.state, self._params, fitting, skip=0, governor=self._governor, ahead=ahead)
        self._follow(stream, pools)
        self._open, stream.shares, stream.pact = True, self._shares, pact or stream.pact
        stream.joint.join(self._company)

    def _follow(self, stream: Stream | None, pools: Iterator[Batch]) -> None:
        """Read on in another stream; the one before lets go of its pools, and of their workers."""
        before, self._stream, self._source = self._stream, stream, pools
        if before is not None:
            before.close()

    def _full(self, pact: Pact | None) -> bool:
        """Whether a batch is full; a rank that is behind goes on with the pools of its next epoch."""
        assert self._stream is not None
        while not self._stream.ready():
            if int(self.state.step) == self._began:
                raise SiftError(NONE)
            if not self._pace.behind:
                return False
            self._end()
            self._passed = [self.info] if self.info is not None and len(self.info.losses) else []
            self._pace.behind -= 1
            self._begin(pact)
        return True

    def _end(self) -> None:
        """The pools of an epoch are read."""
        assert self._stream is not None
        self.info, self._passed = join([*self._passed, self._stream.info]), []
        self._leave(self._place.epoch + 1, self._pace.behind)

    def _leave(self, epoch: int, behind: int = 0) -> None:
        self._open, self._pace.behind, self._pace.stopped = False, behind, False
        self._place.leave(epoch)
