"""A Trainer whose batches are drawn by a prioritizer: its loader, its loss, and what it requires."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from puresift.data.loaders import covers, drawn, fits, length
from puresift.data.prioritized import PrioritizedSampler
from puresift.errors import SiftError
from puresift.ids import Numbered
from puresift.integrations.huggingface.losses import weighed
from puresift.integrations.huggingface.passes import saved
from puresift.integrations.huggingface.settings import Loss, losses_of
from puresift.prioritizers import Prioritizer
from puresift.scores.model import per_row
from puresift.types import Batch

IDS = "sift_ids"  # the batch entry that passes ids from the loader to the loss; a list, so that it stays on the host


class Drawn(NamedTuple):
    """How a trainer draws."""

    sampler: Callable[[], PrioritizedSampler]
    loss: Loss


def planned(trainer: Any, prioritizer: Prioritizer, loss: Loss | None, settings: Mapping[str, Any]) -> Drawn:
    """The settings, checked against this trainer."""

    def sampler() -> PrioritizedSampler:
        return PrioritizedSampler(prioritizer, seed=trainer.args.seed, **settings)

    sampler()  # checks them
    per_sample, args, plan = losses_of(trainer, loss), trainer.args, prioritizer.plan
    rows = trainer._train_batch_size * args.world_size
    if plan.batch_size != rows:
        raise SiftError(
            f"the prioritizer has batch_size={plan.batch_size}, and this Trainer's batches are of {rows} rows, over "
            f"{args.world_size} processes; build it with batch_size={rows}"
        )
    fits(trainer.train_dataset, plan)
    accumulated, whole = args.gradient_accumulation_steps, length(plan)
    updates = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * -(-whole // accumulated))
    covers(plan, whole, accumulated, updates)
    return Drawn(sampler, per_sample)


class Drawing:
    """What a drawing trainer changes; comes before any Trainer among its bases."""

    _drawn: Drawn | None = None  # a trainer that sifts has none
    _resume: str | None

    def get_train_dataloader(self: Any) -> Any:
        """The trainer's own loader, with batches drawn by the prioritizer."""
        if self._drawn is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        self.args.ignore_data_skip = False  # by what it skips, the Trainer knows its place in the epoch
        inner, sampler = super().get_train_dataloader(), self._drawn.sampler()  # type: ignore[misc]
        fits(inner.dataset, sampler.plan)
        if self._resume is not None:
            sampler.load_state_dict(saved(self._resume, self.args))
        return drawn(inner, Whole(sampler), Collate(inner.collate_fn))

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted mean of per-sample losses for drawn batches; the Trainer's own loss for all others."""
        if IDS not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        ids, sampler = inputs[IDS], self.callback_handler.train_dataloader.batch_sampler.sampler
        batch = {name: leaf for name, leaf in inputs.items() if name != IDS}
        losses = per_row(self._drawn.loss(model, batch), len(ids))
        weights: Tensor = sampler.weights(ids).to(losses.device, non_blocking=True)
        sampler.observe(ids, losses)
        return (weights * weighed(self._drawn.loss, model, batch, losses)).mean()


class Whole(Sampler[list[int]]):
    """A sampler's epochs in full length. In a resumed one nothing stands for the batches that were trained on.

    The Trainer itself passes over these, and by them it knows where it is in the epoch.
    """

    drop_last = False

    def __init__(self, sampler: PrioritizedSampler):
        self.sampler, self.batch_size, self._passed = sampler, sampler.batch_size, sampler.position

    def __len__(self) -> int:
        return length(self.sampler.plan)

    def __iter__(self) -> Iterator[list[int]]:
        passed, self._passed = self._passed, 0
        yield from [[]] * passed
        yield from self.sampler


class Collate:
    """The trainer's collated batch, with the ids of its rows."""

    def __init__(self, collate: Callable[[list[Any]], Batch]):
        self._collate = collate

    def __call__(self, rows: list[Numbered]) -> Batch:
        batch = self._collate([row.item for row in rows])
        if not isinstance(batch, Mapping):
            raise SiftError(f"the data collator must give a mapping, as the Trainer takes, got {type(batch).__name__}")
        return {**batch, IDS: [row.id for row in rows]}


def found(loader: DataLoader[Any], args: Any, steps: int) -> None:
    """Check that the Trainer resumes after `steps` where the sampler does.

    Raises:
        SiftError: it counts otherwise.
    """
    place = steps % -(-len(loader) // args.gradient_accumulation_steps) * args.gradient_accumulation_steps
    position = loader.batch_sampler.sampler.position  # type: ignore[union-attr]
    if place != position:
        raise SiftError(
            f"the Trainer resumes after {place} batches of the epoch, and {position} were trained on; keep "
            "gradient_accumulation_steps as when it was saved"
        )
