"""Samplers over sample ids: what an epoch loads at all. Functions of (seed, epoch) and of the losses seen so far.

Epochs differ in length here, so read several through `ps.epochs`, which asks each for its own; a saved stream finds its
place again once `load_state_dict` has told the sampler how long the past ones were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import Sampler

from puresift import draws, keys, settings, tables
from puresift.errors import SiftError
from puresift.ids import checked, newest
from puresift.settings import Number
from puresift.types import Draw, Key, Losses, Rule


class _Planned(Sampler[int]):
    """An epoch is planned when it is first asked for: what each sample weighs in it, 0 for those it leaves out."""

    def __init__(self, size: int, epochs: int, seed: int):
        self.size, self.epochs = settings.count("size", size), settings.count("epochs", epochs)
        self.key, self.epoch = keys.key(seed), 0
        self.tables = {
            "plan": torch.zeros(size),  # Float[size], weights in the epoch planned last
            "planned": torch.tensor(-1),  # Int[], that epoch
            "lengths": torch.zeros(epochs, dtype=torch.int64),  # Int[epochs], samples of each epoch so far
        }

    def plan(self, epoch: int, key: Key) -> Tensor:
        """Float[size]: the weights of an epoch, 0 for samples that are left out."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; it is planned, once, when its length or its samples are first asked for."""
        if not 0 <= epoch < self.epochs:
            raise SiftError(f"epoch must lie in [0, {self.epochs}), got {epoch}; pass the sampler more epochs=")
        self.epoch = epoch

    def weights(self, ids: Tensor) -> Tensor:
        """What the samples of the epoch planned last weigh in the loss, Float[B]."""
        return self.tables["plan"].to(ids.device)[ids]

    def __len__(self) -> int:
        self._planned()
        return int(self.tables["lengths"][self.epoch])

    def __iter__(self) -> Iterator[int]:
        if self._planned() != self.epoch:
            raise SiftError(f"epoch {self.epoch} is over, and its plan is gone; go on with {self._planned()}")
        ids = self.tables["plan"].nonzero()[:, 0]
        shuffle = keys.uniform(keys.fold_in(keys.fold_in(self.key, self.epoch), 1), len(ids))
        yield from ids[shuffle.argsort(stable=True)].tolist()

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of fixed shapes, to be saved beside the stream's state."""
        return {**{name: table.clone() for name, table in self.tables.items()}, "epoch": torch.tensor(self.epoch)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken, in a sampler built alike."""
        ours = self.state_dict()
        if {name: table.shape for name, table in state.items()} != {name: table.shape for name, table in ours.items()}:
            raise SiftError(
                f"the state holds {_shapes(state)} and this sampler {_shapes(ours)}; "
                "build it with the same size and epochs as when it was saved"
            )
        self.tables = {name: state[name].clone() for name in self.tables}
        self.epoch = int(state["epoch"])

    def _planned(self) -> int:
        for epoch in range(int(self.tables["planned"]) + 1, self.epoch + 1):
            plan = self.plan(epoch, keys.fold_in(keys.fold_in(self.key, epoch), 0))
            lengths = self.tables["lengths"].index_fill(0, torch.tensor(epoch), int(plan.count_nonzero()))
            self.tables |= {"plan": plan, "planned": torch.tensor(epoch), "lengths": lengths}
        return int(self.tables["planned"])


class infobatch(_Planned):
    """Epoch-level InfoBatch: samples below the mean loss are left out with probability `ratio`, unloaded and unscored.

    Those of them that stay weigh 1 / (1 - ratio), so that the expected gradient is that of all samples. The last epochs
    take everything. Multiply `sampler.weights(ids)` into the losses, and feed these back by `sampler.observe`.

    Differs from the original: the mean is over the samples seen so far (theirs start at a loss of 1), each epoch draws
    from (seed, epoch) and not from a global generator, and the state can be saved.

    Args:
        size: samples in the dataset.
        epochs: how many there will be.
        ratio: the probability of leaving out a sample below the mean, in (0, 1).
        anneal: the fraction of the epochs after which nothing is left out, in (0, 1].
        seed: a whole number.

    Raises:
        SiftError: a setting is out of range; later, ids are, or the epoch.

    Example:
        >>> sampler = infobatch(4, epochs=8, ratio=0.5)
        >>> sorted(sampler)
        [0, 1, 2, 3]
        >>> sampler.observe(torch.arange(4), torch.tensor([0.1, 0.1, 0.1, 9.0]))
        >>> sampler.set_epoch(1)
        >>> 3 in sampler, sampler.weights(torch.tensor([3]))
        (True, tensor([1.]))

    References:
        Ziheng Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", 2024.
    """

    def __init__(self, size: int, *, epochs: int, ratio: float = 0.5, anneal: float = 0.875, seed: int = 0):
        super().__init__(size, epochs, seed)
        anneal = settings.fraction("anneal", anneal)
        if not settings.fraction("ratio", ratio) < 1:
            raise SiftError(f"ratio must be in (0, 1), got {ratio!r}; with 1 nothing would stand for what is left out")
        self.ratio, self.anneal = ratio, anneal
        self.tables["losses"] = torch.full((size,), torch.nan)

    def plan(self, epoch: int, key: Key) -> Tensor:
        if epoch >= self.anneal * self.epochs:
            return torch.ones(self.size)
        losses = self.tables["losses"]
        below = losses < losses.nanmean()  # False where nothing is known
        rescaled = torch.where(keys.uniform(key, self.size) < self.ratio, 0.0, 1 / (1 - self.ratio))
        return torch.where(below, rescaled, 1.0)

    def observe(self, ids: Tensor, losses: Losses) -> None:
        """Remember training losses, Float[B], of the samples Int[B]; of a repeated id the last one."""
        ids, losses = ids.cpu(), losses.detach().float().cpu()
        if ids.shape != losses.shape:
            raise SiftError(f"observe takes one loss an id, got {list(losses.shape)} for {list(ids.shape)}")
        known = torch.where(losses.isfinite(), losses, torch.nan)[newest(checked(ids, self.size))]
        self.tables["losses"] = self.tables["losses"].index_copy(0, ids, known)


class skipping(_Planned):
    """Load only what a rule keeps, by the losses last known: what is skipped is never read from disk.

    Each epoch the rule sees the known losses of the table as one pool and the draw decides; samples without a loss are
    loaded at weight 1. What was skipped in `every` epochs on end is loaded too, so that no loss grows older than that.

    Differs from sifting the stream: losses are an epoch old or more, and the rule starts anew each epoch.

    Args:
        rule: losses to odds; a history has to hold the dataset, as in `ps.relative(keep=0.5, history=size)`.
        table: gives the newest losses, Float[size], NaN where unknown: `lambda: stream.state.score.losses` for a
            stream whose score is `remembered`.
        size: samples in the dataset.
        epochs: how many there will be.
        every: epochs that a sample may be skipped on end, >= 1.
        draw: odds to mask.
        seed: a whole number.

    Raises:
        SiftError: a setting is out of range; later, the table has another shape, or the epoch is out of range.

    Example:
        >>> from puresift import rules
        >>> losses = torch.tensor([0.1, 3.0, torch.nan, 0.2])
        >>> sorted(skipping(rules.top(keep=1 / 3), lambda: losses, size=4, epochs=8, every=3))
        [1, 2]

    References:
        Ilya Loshchilov, Frank Hutter, "Online Batch Selection for Faster Training of Neural Networks", 2015.
    """

    def __init__(
        self,
        rule: Rule,
        table: Callable[[], Tensor],
        *,
        size: int,
        epochs: int,
        every: int,
        draw: Draw = draws.bernoulli,
        seed: int = 0,
    ):
        super().__init__(size, epochs, seed)
        self.rule, self.table, self.draw, self.every = rule, table, draw, settings.count("every", every)
        self.tables["skipped"] = torch.zeros(size, dtype=torch.int64)  # epochs on end

    def plan(self, epoch: int, key: Key) -> Tensor:
        losses = tables.values(self.table()).cpu()
        if losses.shape != (self.size,):
            raise SiftError(
                f"the table must have shape [{self.size}], one loss a sample, got {list(losses.shape)}; "
                "build the remembered score with size=len(dataset)"
            )
        known = losses.isfinite()
        plan = torch.ones(self.size)
        if bool(known.any()):
            _, odds = self.rule.select(self.rule.init(), losses[known])
            plan[known] = odds.weights * self.draw(key, odds.probs)
            plan[(plan == 0) & (self.tables["skipped"] >= self.every)] = 1.0
        self.tables["skipped"] = torch.where(plan == 0, self.tables["skipped"] + 1, 0)
        return plan


class rs2(_Planned):
    """Repeated random sampling: a fresh random part each epoch, none twice before all were seen.

    The bar for every rule: no loss is looked at. Give the learning-rate schedule the shortened run,
    epochs * len(sampler) samples.

    Args:
        size: samples in the dataset.
        keep: the fraction of an epoch, in (0, 1].
        epochs: how many there will be.
        seed: a whole number.

    Raises:
        SiftError: a setting is out of range; later, the epoch is.

    Example:
        >>> sampler = rs2(4, keep=0.5, epochs=2)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first + list(sampler))
        [0, 1, 2, 3]

    References:
        Patrik Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning", 2024.
    """

    def __init__(self, size: int, *, keep: Number, epochs: int, seed: int = 0):
        super().__init__(size, epochs, seed)
        self.count = max(round(float(settings.fraction("keep", keep)) * size), 1)
        self.tables["seen"] = torch.zeros(size, dtype=torch.int64)

    def plan(self, epoch: int, key: Key) -> Tensor:
        order = self.tables["seen"] + keys.uniform(key, self.size).double()  # the least seen, in random order
        plan = torch.zeros(self.size).index_fill(0, order.argsort(stable=True)[: self.count], 1.0)
        self.tables["seen"] = self.tables["seen"] + plan.long()
        return plan


def _shapes(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(table.shape)}" for name, table in sorted(state.items()))
