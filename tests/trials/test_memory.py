"""How many rows fit is measured, and the measure is right to the byte where it can be known."""

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.trials.memory import peak
from tests.strategies import cross_entropy, data, net

CPU = torch.device("cpu")


def test_the_peak_is_what_is_held_at_once():
    a = torch.ones(100, 100)

    def run():
        b = a * 2  # 40,000 bytes
        c = b + a  # and 40,000 more
        del b
        return (c * c).sum()  # 40,000 more, after 40,000 fewer; a sum of 4

    assert 80_000 <= peak(run, CPU) <= 80_128
    assert peak(lambda: a.view(-1)[:50], CPU) == 0


def test_memory_that_was_held_before_does_not_count():
    held = [torch.ones(100_000)]

    def run():
        held[0] = None
        held[0] = torch.ones(1000)

    assert peak(run, CPU) <= 4096


def wide():
    return nn.Sequential(nn.Linear(4, 256), nn.ReLU(), nn.Linear(256, 3))


def test_scoring_in_pieces_that_fit_stays_below_the_training_step():
    model, pool, few = wide(), data(512).tensors, data(32).tensors
    score = ps.batched(model, cross_entropy)

    def step():
        cross_entropy(model, few).mean().backward()

    size = ps.fitting(score, ps.live(model), pool, budget=step)
    budget = peak(step, CPU)
    assert 32 <= size < 512
    assert peak(lambda: ps.chunked(score, size)(ps.live(model), pool), CPU) <= budget + 512 * 8  # and the losses
    assert peak(lambda: ps.chunked(score, 2 * size)(ps.live(model), pool), CPU) > budget


def test_a_small_pool_fits_whole_and_the_answer_is_monotone():
    model, pool = wide(), data(48).tensors
    score, params = ps.batched(model, cross_entropy), ps.live(model)
    sizes = [ps.fitting(score, params, pool, budget=bytes) for bytes in (5_000, 20_000, 80_000, 1_000_000)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 64, "a power of two that holds the pool"
    assert sizes[0] < sizes[-1]


def test_fitting_leaves_the_model_alone():
    model, pool = net(), data(16).tensors
    before = {name: tensor.clone() for name, tensor in ps.live(model)().items()}
    ps.fitting(ps.batched(model, cross_entropy), ps.live(model), pool, budget=1 << 20)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ps.live(model)().items())


def test_what_cannot_fit_or_be_measured_is_refused():
    score = ps.batched(net(), cross_entropy)
    with pytest.raises(ValueError, match=r"one row needs [\d,]+ bytes and the budget is 1;"):
        ps.fitting(score, ps.live(net()), data(4).tensors, budget=1)
    with pytest.raises(ValueError, match="budget must be a whole number >= 1"):
        ps.fitting(score, ps.live(net()), data(4).tensors, budget=0)
    with pytest.raises(ValueError, match=r"not on meta; pass a size to ps.chunked"):
        peak(lambda: None, torch.device("meta"))
