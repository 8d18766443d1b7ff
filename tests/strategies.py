"""Hypothesis strategies, those that users have too, and small models with data for them."""

import torch
from torch import Tensor, nn

import puresift as ps
from puresift.testing.strategies import losses, probs, seeds, sizes

__all__ = ["cross_entropy", "data", "loader", "losses", "net", "probs", "seeds", "sizes"]


def net(seed: int = 0, *, norm: bool = True) -> nn.Module:
    """A small classifier with BatchNorm and dropout: whatever scoring must not touch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        middle = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The per-sample loss of the small classifier."""
    x, y, *_ = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def data(rows: int = 96, seed: int = 0) -> torch.utils.data.TensorDataset:
    """Rows for the small classifier."""
    noise = ps.keys.uniform(ps.key(seed), rows * 5).reshape(rows, 5)
    return torch.utils.data.TensorDataset(noise[:, :4] * 4 - 2, (noise[:, 4] * 3).long())


def loader(rows: int = 96, batch_size: int = 16, *, drop_last: bool = False) -> torch.utils.data.DataLoader:
    """Pools whose order depends on seed and epoch alone."""
    dataset = data(rows)
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=1, rank=0, seed=1)
    return torch.utils.data.DataLoader(dataset, batch_size, sampler=sampler, drop_last=drop_last)
