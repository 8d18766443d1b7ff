"""Loaders of drawn batches, made like a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Sampler

from puresift.data.pools import size
from puresift.errors import SiftError
from puresift.ids import with_ids
from puresift.prioritizers import Plan

_SAME = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")


def drawn(loader: Any, batches: Sampler[list[int]], collate: Callable[[list[Any]], Any]) -> DataLoader[Any]:
    """A loader with the dataset and workers of this one, its items numbered, and other batches."""
    same = {name: getattr(loader, name) for name in _SAME}
    workers = {"persistent_workers": loader.persistent_workers, "in_order": loader.in_order}
    return DataLoader(with_ids(loader.dataset), batch_sampler=batches, collate_fn=collate, **same, **workers)


def fits(dataset: Any, plan: Plan) -> None:
    """Check that a prioritizer is for this dataset.

    Raises:
        SiftError: it has another length, or none.
    """
    rows = size(dataset) if hasattr(dataset, "__getitem__") else None
    if rows != plan.size:
        found = "is no map-style dataset with a length" if rows is None else f"has {rows} samples"
        raise SiftError(
            f"the prioritizer is for {plan.size} samples, and the dataset {found}; build it with size=len(dataset), "
            "and sift data that come once by a rule"
        )


def length(plan: Plan) -> int:
    """Batches in an epoch."""
    return -(-plan.size // plan.batch_size)


def covers(plan: Plan, whole: int, accumulated: int, updates: int) -> None:
    """Check that a plan is for as many batches as a trainer takes: epochs of `whole` batches, a few to an update.

    Raises:
        SiftError: it plans steps, and not these.
    """
    in_epoch = -(-whole // accumulated)  # updates, the last of perhaps fewer batches
    batches = updates // in_epoch * whole + updates % in_epoch * accumulated
    if plan.steps not in (None, batches):
        raise SiftError(
            f"the prioritizer plans steps={plan.steps}, and this Trainer takes {batches} batches; build it with "
            f"steps={batches}, so that its last ones are uniform"
        )


class Ids(Sampler[int]):
    """The batches of a sampler, one id at a time."""

    def __init__(self, batches: Any):
        self.batches, self.set_epoch = batches, batches.set_epoch

    def __len__(self) -> int:
        return len(self.batches) * self.batches.batch_size

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            yield from batch
