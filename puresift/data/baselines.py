"""Samplers that look at labels alone: what rules over losses have to beat where a class is rare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from puresift import keys, settings
from puresift.data.samplers import _Planned
from puresift.errors import SiftError
from puresift.types import Key


class downsampled(_Planned):
    """Static negative downsampling: all samples of the rare classes, and one fixed random part of the common one.

    What is left out is left out for good, so an epoch is shorter and the classes are more even. A model trained so
    overstates the rare class: for probabilities on the natural mix, add `log_odds` to its logit (to that of each rare
    class against the common one). Rankings, and metrics by rank, need no correction.

    Args:
        labels: Int[N], the class of each sample.
        keep: the fraction of the common class that is kept, in (0, 1].
        common: that class; by default the most frequent one.
        epochs: how many there will be.
        seed: a whole number.

    Attributes: `log_odds`, log(keep).

    Raises:
        SiftError: a setting is out of range, there is no sample of the class, or labels are no whole numbers.

    Example:
        >>> sampler = downsampled(torch.tensor([0, 0, 1, 0, 0]), keep=0.5, epochs=2)
        >>> len(sampler), 2 in sampler, round(sampler.log_odds, 3)
        (3, True, -0.693)

    References:
        HaiYing Wang, Aonan Zhang, Chong Wang, "Nonuniform Negative Sampling and Log Odds Correction with Rare Events
        Data", 2021.
    """

    def __init__(self, labels: Tensor, *, keep: float, common: int | None = None, epochs: int = 1, seed: int = 0):
        labels = _classes(labels)
        super().__init__(len(labels), epochs, seed)
        self.log_odds = math.log(settings.fraction("keep", keep))
        common = int(labels.mode().values) if common is None else common
        members = (labels == common).nonzero()[:, 0]
        if not len(members):
            raise SiftError(f"no sample has the label {common}; there are {labels.unique().tolist()[:10]}")
        left = members[keys.uniform(keys.fold_in(self.key, 0), len(members)).argsort(stable=True)]
        self._kept = torch.ones(len(labels)).index_fill(0, left[max(round(keep * len(members)), 1) :], 0.0)

    def plan(self, epoch: int, key: Key) -> Tensor:
        return self._kept


class balanced(_Planned):
    """As many samples of each class in every epoch: all of the rarest, and a fresh random part of each other.

    Args:
        labels: Int[N], the class of each sample.
        epochs: how many there will be.
        seed: a whole number.

    Raises:
        SiftError: a setting is out of range, or labels are no whole numbers.

    Example:
        >>> sampler = balanced(torch.tensor([0, 0, 1, 0, 0]), epochs=2)
        >>> len(sampler), 2 in sampler
        (2, True)

    References:
        Nathalie Japkowicz, Shaju Stephen, "The Class Imbalance Problem: A Systematic Study", 2002.
    """

    def __init__(self, labels: Tensor, *, epochs: int, seed: int = 0):
        labels = _classes(labels)
        super().__init__(len(labels), epochs, seed)
        self._labels, self._count = labels, int(labels.unique(return_counts=True)[1].min())

    def plan(self, epoch: int, key: Key) -> Tensor:
        order = keys.uniform(key, self.size).argsort(stable=True)
        order = order[self._labels[order].argsort(stable=True)]  # by class, in random order within it
        sizes = self._labels.unique(return_counts=True)[1]
        rank = torch.arange(self.size) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return torch.zeros(self.size).index_fill(0, order[rank < self._count], 1.0)


def _classes(labels: Tensor) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise SiftError(f"labels must be a class for each sample, Int[N], got {labels.dtype}{list(labels.shape)}")
    return labels.long().cpu()
