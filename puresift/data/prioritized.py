"""The prioritizer as a sampler: drawn batches through a DataLoader with workers, pinning and prefetch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from puresift import keys, settings
from puresift.data.loaders import Ids, length
from puresift.data.queues import Handed, Queue
from puresift.data.tables import Table
from puresift.distributed import place
from puresift.errors import SiftError
from puresift.prioritizers import Prioritizer, PrioritizerState
from puresift.types import Losses


class PrioritizedSampler(Sampler[list[int]]):
    """Batches of ids from a prioritizer, for `DataLoader(ps.with_ids(dataset), batch_sampler=sampler)`.

    An epoch is ceil(size / batch_size) batches, or what is left of the plan's steps where that is less. A DataLoader
    runs ahead of training, so draws go by losses that are its prefetch older; each batch waits in a queue until its
    losses are observed. What waits when an iteration begins is handed out again first, in the epoch that it belongs
    to: after a break nothing is lost, and a run resumed with as many workers goes on with the same bits. So observe
    each batch, and before the next epoch begins.

    On several ranks all draw the same batches of the prioritizer's batch_size, and rank r takes the rows [r::ranks].
    `observe` gathers the losses of all ranks, so that their tables agree; every rank must call it equally often. What
    shares out batches among ranks by itself, as accelerate's `prepare` and Lightning do, would do so twice: go through
    `ps.integrations` there.

    Losses on a GPU are not read before the next draw, so that nothing waits for them; what is wrong with them is told
    then. On several ranks they are read where they are gathered.

    Args:
        prioritizer: from `ps.prioritizer`, with size=len(dataset).
        seed: a whole number; the same on all ranks.
        prefetch: how many batches may wait for their losses.
        sync: on several ranks, gather once in so many calls of `observe`.

    Attributes: `batch_size`, rows in a batch of this rank; `ids`, single ids for `DataLoader(dataset,
    batch_size=sampler.batch_size, sampler=sampler.ids)`; `state`, the prioritizer's; `epoch`; and `position`, the
    batches of it that were trained on.

    Raises:
        SiftError: a setting is out of range, or the ranks do not divide the batch; in an iteration, when more than
            `prefetch` batches came back without losses, or another iteration has begun since.

    Example:
        >>> import puresift as ps
        >>> dataset = ps.with_ids(torch.arange(4.0))
        >>> sampler = PrioritizedSampler(ps.prioritizer(ps.importance(keep=0.5), size=4, batch_size=2))
        >>> loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=dataset.collate)
        >>> for x, ids in loader:
        ...     losses = x.square()
        ...     loss = (sampler.weights(ids) * losses).mean()
        ...     sampler.observe(ids, losses)
        >>> len(loader), sampler.state.step
        (2, tensor(2))

    References:
        Tom Schaul, John Quan, Ioannis Antonoglou, David Silver, "Prioritized Experience Replay", 2016.
        Ilya Loshchilov, Frank Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015.
    """

    drop_last = False  # what trainers ask a batch sampler for

    def __init__(self, prioritizer: Prioritizer, *, seed: int = 0, prefetch: int = 1000, sync: int = 1):
        self.prefetch = settings.count("prefetch", prefetch)
        sync = settings.count("sync", sync)
        self.plan, self._table = prioritizer.plan, Table(prioritizer, keys.key(seed), sync)
        self._epoch, self._begun = 0, 0  # the epoch, and the batches before it
        self._queue = Queue(prefetch, self.plan.batch_size, self.plan.size)
        self._unheard, self._turn = 0, 0  # batches since the last loss, and iterations begun
        self._ranks()

    @property
    def state(self) -> PrioritizerState:
        """The prioritizer's, without the losses that have not entered it yet."""
        return self._table.state

    @property
    def epoch(self) -> int:
        """The epoch that is under way or comes next: `for epoch in range(sampler.epoch, epochs)` resumes too."""
        return self._next_epoch()[0]

    @property
    def position(self) -> int:
        """Batches of this epoch that were trained on."""
        return self._trained() - self._next_epoch()[1]

    @property
    def batch_size(self) -> int:
        """Rows in a batch of this rank."""
        return self.plan.batch_size // self._ranks()[1]

    @property
    def ids(self) -> Sampler[int]:
        """The same, one id at a time."""
        return Ids(self)

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch, unless it is the one under way."""
        if epoch < self.epoch:
            raise SiftError(f"epoch {epoch} is over; go on with epoch {self.epoch}, or build a new sampler")
        if epoch > self.epoch:
            self._epoch, self._begun = epoch, self._trained()

    def __len__(self) -> int:
        return self._length(self._next_epoch()[1])

    def __iter__(self) -> Iterator[list[int]]:
        self._epoch, self._begun = self._next_epoch()
        self._queue.out, self._turn = 0, self._turn + 1
        turn, batches = self._turn, self._length(self._begun)
        while self._trained() + self._queue.out - self._begun < batches:
            handed = self._next()
            rank, world = self._ranks()
            yield handed.ids[rank::world].tolist()
            if turn != self._turn:
                raise SiftError("another iteration has begun since, or a state was loaded; go on with the newest one")

    def weights(self, ids: Tensor | Sequence[int]) -> Tensor:
        """What the rows of a batch weigh in the loss.

        Args:
            ids: Int[B], of a batch handed out and not observed yet.

        Returns:
            Float[B], on the device of the ids.

        Raises:
            SiftError: there is no such batch.
        """
        ids, (rank, world) = torch.as_tensor(ids), self._ranks()
        handed = self._queue.waiting[self._queue.find(ids.tolist(), rank, world)]
        return handed.weights[rank::world].to(ids.device)

    def observe(self, ids: Tensor | Sequence[int], losses: Losses) -> None:
        """Feed training losses back, by which the next draws go.

        Args:
            ids: Int[B], of a batch handed out and not observed yet; best on the CPU, for they are read.
            losses: Float[B], per sample; on several ranks of the same shape.

        Raises:
            SiftError: there is no such batch, there is not one loss an id, or losses are not finite.
        """
        ids = torch.as_tensor(ids).cpu().long()
        found = self._queue.find(ids.tolist(), *self._ranks())
        if losses.shape != ids.shape:
            raise SiftError(
                f"observe takes one loss an id, got losses {list(losses.shape)} for ids {list(ids.shape)}; "
                'pass reduction="none"'
            )
        self._table.observe(ids, losses.detach())
        self._queue.take(found)
        self._unheard = 0

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of fixed shapes: the prioritizer's state, and the batches that wait for their losses.

        On several ranks all states are the same with sync=1; else each rank has losses of its own in it.
        """
        epoch = {"epoch": torch.tensor(self._epoch), "begun": torch.tensor(self._begun)}
        flat = {**self._table.state_dict(), **self._queue.state_dict(), **epoch}
        return {name: tensor.clone() for name, tensor in flat.items()}

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken, in a sampler built alike: what waited is handed out again first.

        Raises:
            SiftError: it is the state of another plan, rule, rank or number of ranks, or of something else.
        """
        own = {*self._queue.state_dict(), "epoch", "begun"}
        self._table.load_state_dict({name: tensor for name, tensor in flat.items() if name not in own})
        self._queue.load_state_dict(flat)
        self._epoch, self._begun = int(flat["epoch"]), int(flat["begun"])
        self._unheard, self._turn = 0, self._turn + 1

    def _ranks(self) -> tuple[int, int]:
        """Asked for each time, because a trainer may start its ranks after the sampler was made."""
        rank, world = place()
        if self.plan.batch_size % world:
            raise SiftError(
                f"batch_size={self.plan.batch_size} of the prioritizer is that of all ranks, and {world} ranks do not "
                f"divide it; pass it batch_size={self.plan.batch_size // world * world + world}, or any multiple"
            )
        return rank, world

    def _trained(self) -> int:
        """Batches handed out and not waiting."""
        return int(self.state.step) - len(self._queue)

    def _length(self, begun: int) -> int:
        whole = length(self.plan)
        return whole if self.plan.steps is None else min(whole, self.plan.steps - begun)

    def _next_epoch(self) -> tuple[int, int]:
        """The epoch under way and where it began; the next one when it is over."""
        trained = self._trained()
        over = trained > self._begun and trained - self._begun >= self._length(self._begun)
        return (self._epoch + 1, trained) if over else (self._epoch, self._begun)

    def _next(self) -> Handed:
        again = self._queue.again()
        if self._unheard >= self.prefetch or (not again and len(self._queue) >= self.prefetch):
            raise SiftError(
                f"{self.prefetch} batches were handed out and their losses did not come back; call "
                "sampler.observe(ids, losses) after each of them, or pass a larger prefetch= when more are in flight"
            )
        self._unheard += 1
        if not again:
            self._queue.waiting.append(self._table.next())
        return self._queue.next()
