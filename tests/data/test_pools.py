"""Looking at a loader without leaving a trace, and finding a place in it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

import puresift as ps
from puresift.data import pools
from puresift.data.pools import read
from puresift.data.positions import teller
from tests.strategies import data
from tests.stream.sources import Rows


class Noisy(torch.utils.data.Dataset):
    """Augments with every global generator."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.rand(1) + random.random() + float(np.random.rand())


def globals_now():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_peek_puts_all_generators_back():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(Noisy(), 4, sampler=RandomSampler(Noisy(), generator=generator), generator=generator)
    before, own = globals_now(), generator.get_state()
    first = ps.peek(loader)
    assert globals_now() == before
    assert torch.equal(generator.get_state(), own)
    torch.testing.assert_close(next(iter(loader)), first)


@pytest.mark.parametrize(("loader", "words"), [([], "the loader is empty"), (iter([1]), "one-shot iterator")])
def test_peek_refuses_what_it_cannot_put_back(loader, words):
    with pytest.raises(ValueError, match=words):
        ps.peek(loader)


class Unsized:
    def __init__(self, batches):
        self.batches, self.epochs = batches, []

    def __iter__(self):
        return iter(self.batches)

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


@given(length=st.integers(1, 4), n=st.integers(1, 3), skip=st.integers(0, 14), sized=st.booleans())
def test_reading_from_a_place_is_reading_all_and_dropping(length, n, skip, sized):
    batches = list(range(length))
    several = ps.epochs(batches if sized else Unsized(batches), n)
    assert list(read(several, skip)) == (batches * n)[skip:]
    assert list(several) == batches * n
    if sized:
        assert len(several) == n * length


def test_set_epoch_reaches_whoever_has_one():
    loader = Unsized([0])
    list(ps.epochs(loader, 3))
    assert loader.epochs == [0, 1, 2]

    class Dataset(IterableDataset):
        seen = ()

        def __iter__(self):
            return iter(torch.zeros(1))

        def set_epoch(self, epoch):
            self.seen += (epoch,)

    dataset = Dataset()
    list(ps.epochs(DataLoader(dataset), 2))
    assert dataset.seen == (0, 1)


def test_passing_over_pools_leaves_the_global_generators_alone():
    loader = DataLoader(Noisy(), 2)
    torch.manual_seed(0)
    before = globals_now()
    pools = read(loader, 2)
    next(pools)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    next(iter(DataLoader(Noisy(), 2, generator=torch.Generator())))
    assert torch.equal(state, torch.get_rng_state())
    assert before


def test_epochs_refuse_one_shot_iterators_and_bad_counts():
    with pytest.raises(ValueError, match="one-shot iterator"):
        ps.epochs(iter([1]), 2)
    with pytest.raises(ValueError, match="n must be a whole number >= 1, got 0"):
        ps.epochs(data(4), 0)


def test_fetching_ahead_changes_nothing_but_the_time_and_an_error_waits_for_its_turn():
    def broken():
        yield from "ab"
        raise RuntimeError("a broken file")

    source, fetched = broken(), []
    ahead = pools.Ahead(fetched.append(item) or item for item in source)
    assert next(ahead) == "a" and fetched == ["a"]
    ahead.fetch()
    ahead.fetch()
    assert fetched == ["a", "b"]
    assert next(ahead) == "b"
    ahead.fetch()
    with pytest.raises(RuntimeError, match="a broken file"):
        next(ahead)


def test_a_data_loader_that_is_its_own_iterator_starts_anew():
    """As those that Ray Train prepares, which read a batch ahead: what a stream tells is not their position."""

    class Ahead(DataLoader):
        def __iter__(self):
            self.ahead = super().__iter__()
            return self

        def __next__(self):
            return next(self.ahead)

    loader = Ahead(torch.arange(6.0), 2)
    assert ps.peek(loader).tolist() == [0, 1]
    assert sum(1 for _ in ps.epochs(loader, 2)) == 6
    sifted = ps.SiftingDataLoader(loader, None, ps.uniform(keep=1.0), params={})
    assert [len(list(sifted)) for _ in range(2)] == [3, 3]
    stream = Rows()
    assert teller(DataLoader(stream, 2)) is stream and teller(Ahead(stream, 2)) is None
