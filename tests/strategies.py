"""Hypothesis strategies: seeds, losses with the shapes that break ranks, pools and small models."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import puresift as ps

seeds = st.integers(0, 2**64 - 1)
sizes = st.integers(1, 40)


@st.composite
def losses(draw: st.DrawFn, size: st.SearchStrategy[int] = sizes) -> Tensor:
    """Ties, constants, heavy tails, tiny and huge: Float[B]."""
    n = draw(size)
    key = ps.key(draw(seeds))
    noise = ps.keys.uniform(key, n)
    kind = draw(st.sampled_from(["uniform", "ties", "constant", "heavy", "tiny", "negative"]))
    return {
        "uniform": noise,
        "ties": (noise * 3).floor(),
        "constant": torch.full((n,), 0.7),
        "heavy": (1 / (noise + 1e-3)) ** 3,
        "tiny": noise * 1e-30,
        "negative": noise - 0.5,
    }[kind]


@st.composite
def probs(draw: st.DrawFn, size: st.SearchStrategy[int] = sizes) -> Tensor:
    """Probabilities with exact zeros and ones among them: Float[B]."""
    values = draw(losses(size)).clamp(0, 1)
    corner = ps.keys.uniform(ps.key(draw(seeds)), len(values))
    return torch.where(corner < 0.1, 0.0, torch.where(corner > 0.9, 1.0, values))


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
