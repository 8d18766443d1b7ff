"""Sifting inside a loop of Hugging Face Accelerate.

    model, optimizer, pools = accelerator.prepare(model, optimizer, pools)
    loader = sifting(accelerator, pools, score, rule, params=ps.live(model), weights=True)

    for batch, weights in loader:
        with accelerator.accumulate(model):
            accelerator.backward((weights * loss(model, batch)).mean())
            optimizer.step()
            optimizer.zero_grad()

It wraps the prepared loader, which reads one batch ahead: inside it, every score would be one step old.

On drawn batches nothing is scored, and the loader is left unprepared:

    loader = drawing(accelerator, loader, ps.prioritizer(rule, size=len(dataset), batch_size=32))

    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loader.mean(loss(model, batch)))
            optimizer.step()
            optimizer.zero_grad()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from puresift import trees
from puresift.data.feeding import Fed
from puresift.data.prioritized import PrioritizedSampler
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.infos import join
from puresift.prioritizers import Prioritizer
from puresift.stream.loader import SiftingDataLoader
from puresift.types import Batch, Info, Rule, Score, ScoreFn


def sifting(
    accelerator: Accelerator, loader: Iterable[Batch], score: ScoreFn | Score | None, rule: Rule, **settings: Any
) -> SiftingDataLoader:
    """A `SiftingDataLoader` around a prepared loader; on several ranks, in step by default.

    It is registered for checkpointing: `accelerator.save_state` saves every rank's state and place, and after
    `accelerator.load_state` the next pass resumes there. `accelerator.accumulate` counts sifted batches across the
    ends of passes, because the last batch of a pass is not known ahead.

    Args:
        accelerator: the one that prepared the loader.
        loader: from `accelerator.prepare`.
        score: as in `ps.sifter`.
        rule: as in `ps.sifter`.
        settings: the other arguments of `SiftingDataLoader`: params, weights, batch_size, key and so on; pad is
            "auto" by default.

    Raises:
        SiftError: the loader was not prepared, is a stateful one, or one rank reads for all.

    Example:
        >>> import puresift as ps
        >>> accelerator, model = Accelerator(cpu=True), torch.nn.Linear(1, 1)
        >>> prepared = accelerator.prepare(DataLoader(torch.arange(8.0)[:, None], batch_size=4))
        >>> score = ps.batched(model, lambda model, x: x[:, 0])
        >>> for batch in sifting(accelerator, prepared, score, ps.top(keep=0.5), params=ps.live(model), batch_size=4):
        ...     print(batch[:, 0])
        tensor([2., 3., 6., 7.])
    """
    if isinstance(loader, DataLoader) and not isinstance(loader, DataLoaderStateMixin):
        raise SiftError("prepare the loader first, loader = accelerator.prepare(loader), and sift what comes back")
    if isinstance(loader, DataLoaderDispatcher) and accelerator.num_processes > 1:
        raise SiftError(
            "one rank reads this loader for all, and sifting ranks do not ask for pools at the same time; pass "
            "Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=False))"
        )
    if getattr(loader, "use_stateful_dataloader", False):
        raise SiftError(
            "the sifting loader keeps the place in this loader itself, and exactly; leave use_stateful_dataloader out"
        )
    if settings.get("pad") is None:
        settings["pad"] = "auto"
    sifted = _Loader(loader, score, rule, **{"in_step": accelerator.num_processes > 1, **settings})
    accelerator.register_for_checkpointing(sifted)
    return sifted


def drawing(
    accelerator: Accelerator, loader: DataLoader[Any], prioritizer: Prioritizer, *, seed: int = 0, prefetch: int = 1000
) -> Drawn:
    """A loader of batches drawn by a prioritizer, on the accelerator's device; they look as the loader's own.

    Train on `loader.mean(losses)`, for the per-sample losses of each batch. It is registered for checkpointing: after
    `accelerator.load_state` the next iteration goes on in the epoch, with the same bits for as many workers;
    `loader.sampler.epoch` counts epochs.

    Args:
        accelerator: any.
        loader: a DataLoader over a map-style dataset, not prepared, with one rank's rows a batch.
        prioritizer: from `ps.prioritizer`; its size is len(dataset), and its batch_size that of all ranks.
        seed: a whole number.
        prefetch: how many batches may wait for their losses.

    Raises:
        SiftError: the loader was prepared, the dataset has another length, or a setting is out of range; in an
            iteration, when batches have another size, or no losses came back for one.

    Example:
        >>> import puresift as ps
        >>> loader = DataLoader(torch.arange(8.0), batch_size=4)
        >>> drawn = drawing(Accelerator(cpu=True), loader, ps.prioritizer(ps.uniform(keep=0.5), size=8, batch_size=4))
        >>> for batch in drawn:
        ...     mean = drawn.mean(batch)  # in place of the model's per-sample losses
        >>> batch.shape
        torch.Size([4])
    """
    if isinstance(loader, DataLoaderStateMixin) or not isinstance(loader, DataLoader):
        raise SiftError("pass the plain DataLoader: prepared ones share out rows themselves, which the sampler does")
    ours = Drawn(loader, PrioritizedSampler(prioritizer, seed=seed, prefetch=prefetch), accelerator.device)
    accelerator.register_for_checkpointing(ours)
    return ours


def gathered(accelerator: Accelerator, info: Info) -> Info:
    """The infos of all ranks as one, on the host; every rank must call it. `ps.summarize` turns it into numbers.

    Example:
        >>> import puresift as ps
        >>> sifter, pool = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2), torch.arange(4.0)
        >>> _, info = sifter.step(sifter.init(ps.key(0), pool), {}, pool)
        >>> ps.summarize(gathered(Accelerator(cpu=True), info))["keep"]
        0.5
    """
    host = trees.to(info, torch.device("cpu"))
    return join(gather_object([host])) if accelerator.num_processes > 1 else host


class Drawn(DataLoaderStateMixin, Fed):
    """What `drawing` returns: the active loader while it yields, so that accumulation ends with an epoch.

    Example:
        >>> import puresift as ps
        >>> loader = DataLoader(torch.arange(8.0), batch_size=4)
        >>> drawn = drawing(Accelerator(cpu=True), loader, ps.prioritizer(ps.uniform(keep=0.5), size=8, batch_size=4))
        >>> len(drawn), drawn.sampler.epoch
        (2, 0)
    """

    def __init__(self, loader: DataLoader[Any], sampler: PrioritizedSampler, device: torch.device):
        Fed.__init__(self, loader, sampler)
        self.gradient_state, self._device = GradientState(), device

    def __iter__(self) -> Iterator[Batch]:
        left = len(self.sampler) - self.sampler.position
        self.begin()
        try:
            for place, batch in enumerate(Fed.__iter__(self), 1):
                self.end_of_dataloader = place == left
                yield send_to_device(batch, self._device, non_blocking=True)
        finally:
            self.end()

    def state_dict(self) -> dict[str, Tensor]:
        """The sampler's, which is the same on all ranks."""
        return self.sampler.state_dict()

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Go on there."""
        self.sampler.load_state_dict(flat)


class _Loader(DataLoaderStateMixin, SiftingDataLoader):
    """Is the active loader while it yields, so that the end of the pools is not taken for the end of the batches."""

    def __init__(self, *arguments: Any, **settings: Any):
        SiftingDataLoader.__init__(self, *arguments, **settings)
        self.gradient_state = GradientState()

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in super().__iter__():
                if self.gradient_state.active_dataloader is not self:  # the prepared loader has started since
                    self.end()
                    self.begin()
                yield batch
        finally:
            self.end()

    def state_dict(self) -> dict[str, Any]:
        """Every rank's state, because one rank writes the file; every rank must call it."""
        flat = super().state_dict()
        if place()[1] == 1:
            return flat
        host = trees.to(flat, torch.device("cpu"))
        return {
            f"rank{rank}/{name}": value for rank, one in enumerate(gather_object([host])) for name, value in one.items()
        }

    def load_state_dict(self, flat: Mapping[str, Any]) -> None:
        """Load this rank's state from those of all ranks."""
        ranks = {name.split("/")[0] for name in flat if name.startswith("rank")}
        if ranks:
            mine = f"rank{place()[0]}"
            mine = f"{mine if mine in ranks else 'rank0'}/"  # another world size; its stamp is refused later
            flat = {name.removeprefix(mine): value for name, value in flat.items() if name.startswith(mine)}
        super().load_state_dict(flat)
