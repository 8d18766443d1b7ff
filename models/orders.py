"""Orders of the rows: a rank's share of every pool, and pools of rows of like length."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DistributedSampler, Sampler

WINDOW = 16  # pools


class Shares(Sampler[list[int]]):
    """The places of one rank's rows of every pool: the pools of a single process, each cut into a piece a rank.

    So what is in a pool, and where in it, does not hang on the number of ranks.
    """

    def __init__(self, order: DistributedSampler[Any], batch_size: int, rank: int, ranks: int) -> None:
        self.sampler, self.batch_size, self.rank, self.ranks = order, batch_size, rank, ranks

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.sampler)
        for start in range(0, len(order), self.batch_size):
            pool = order[start : start + self.batch_size]
            first, end = (len(pool) * number // self.ranks for number in (self.rank, self.rank + 1))
            yield pool[first:end]


class Alike(Sampler[int]):
    """The rows in an order in which neighbours are of like length; a function of the order it is given.

    Windows of some pools are sorted, in turns from short to long and from long to short: a batch of rows out of two
    pools that follow each other is of like length, too. Over a whole epoch, training would see the short ones first.
    """

    def __init__(self, order: DistributedSampler[Any], lengths: Sequence[int], batch_size: int) -> None:
        self.order, self.lengths, self.rows = order, lengths, WINDOW * batch_size

    def __len__(self) -> int:
        return len(self.order)

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        order = list(self.order)
        for number, start in enumerate(range(0, len(order), self.rows)):
            window = order[start : start + self.rows]
            yield from sorted(window, key=lambda row: self.lengths[row], reverse=number % 2 == 1)
