"""The check: every broken promise has a minimal offender, and whatever it did is put back."""

import random

import numpy
import pytest
import torch
from torch import nn

import puresift as ps
from tests import laws
from tests.laws import SCORES
from tests.strategies import cross_entropy, data, net

X = ps.keys.uniform(ps.key(0), 96).reshape(24, 4)


@pytest.mark.parametrize("name", SCORES)
def test_every_score_of_the_library_passes(name):
    params, batch = ps.live(net(1)), laws.candidates(24)
    if name == "rank_mix":  # ranks are ranks among the pool's rows, and the check says so
        with pytest.raises(ValueError, match="dropping half of the rows moves the losses"):
            ps.check(SCORES[name](), params, batch)
        return
    with laws.untouched(params(), batch):
        report = ps.check(SCORES[name](), params, batch)
    assert report.losses.shape == (16,)
    assert report.repeated == 0.0
    assert max(report[1:]) < 0.02


def test_a_score_that_remembers_passes_too():
    score = ps.Score(init=lambda: torch.zeros(()), apply=lambda state, params, x: (state + 1, x.sum(1)))
    assert torch.equal(ps.check(score, {}, X).losses, X[:16].sum(1))


def test_objects_and_mappings_are_batches():
    batch = {"text": list("abcdefgh"), "x": torch.arange(8.0)}
    score = lambda params, b: b["x"] + torch.tensor([float(ord(c)) for c in b["text"]])  # noqa: E731
    assert len(ps.check(score, {}, batch).losses) == 8


def leaves_gradients_off(params, x):
    torch.set_grad_enabled(False)
    return x.sum(1)


def writes_to_the_batch(params, x):
    return x.mul_(1.0).sum(1)


def writes_behind_the_counter(params, x):
    x.data[0, 0] += 1
    return x.sum(1)


def writes_to_the_params(params, x):
    params["w"].add_(1.0)
    return x.sum(1)


def sometimes_nan(params, x):
    return torch.where(torch.arange(len(x)) == 5, torch.nan, x.sum(1))


def by_position(params, x):
    return x.sum(1) * torch.arange(1, len(x) + 1)


def contrastive(params, x):
    return nn.functional.cross_entropy(x @ x.T, torch.arange(len(x)), reduction="none")


calls = []


def counts_its_calls(params, x):
    calls.append(1)
    return x.sum(1) * len(calls)


OFFENDERS = {
    "gradient mode": (leaves_gradients_off, r"leaves gradients off, .* use `with torch.no_grad\(\):`"),
    "batch": (writes_to_the_batch, r"writes to batch\['batch'\]: .* work on a clone"),
    "bytes": (writes_behind_the_counter, r"writes to batch\['batch'\]"),
    "params": (writes_to_the_params, r"writes to params\['w'\]: BatchNorm in train mode"),
    "finite": (sometimes_nan, "the loss of 1 of 16 rows is NaN or infinite, the first in row 5"),
    "gradients": (lambda params, x: (x * params["w"]).sum(1), "records gradients, .* torch.no_grad"),
    "scalar": (lambda params, x: x.mean(), 'already reduced to one number, .* pass reduction="none"'),
    "shape": (lambda params, x: x, r"must have shape \[16\], .* got \[16, 4\]; reduce"),
    "whole": (lambda params, x: x.sum(1).long(), "must be floating point, got torch.int64"),
    "no tensor": (lambda params, x: [1.0] * len(x), "must be a tensor of 16 numbers, got list"),
    "torch rng": (lambda params, x: x.sum(1) + torch.rand(len(x)), "global random generator of torch: dropout"),
    "python rng": (lambda params, x: x.sum(1) + random.random(), "global random generator of random"),
    "numpy rng": (lambda params, x: x.sum(1) + numpy.random.random(), "global random generator of numpy"),
    "state": (counts_its_calls, "calling the score again moves the losses by .* or make it a ps.Score"),
    "position": (by_position, "reversing the rows moves the losses by .* from the row alone"),
    "contrastive": (contrastive, "dropping half of the rows moves the losses by .* rows meet, .* ps.per_sample"),
    "mean": (lambda params, x: x.sum(1) / x.sum(1).mean(), "dropping half of the rows"),
}


@pytest.mark.parametrize("name", OFFENDERS)
def test_every_broken_promise_is_named_with_its_cure(name):
    score, words = OFFENDERS[name]
    generators = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    with pytest.raises(ValueError, match=words):
        ps.check(score, {"w": torch.ones(4, requires_grad=name == "gradients")}, X.clone())
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert numpy.random.get_state()[1].tolist() == generators[2]


@pytest.mark.parametrize("cure", [False, True])
def test_a_model_scored_in_train_mode_is_caught_and_the_cure_works(cure):
    """BatchNorm that moves its statistics, then dropout, then BatchNorm that only uses the batch's."""
    model = net().train()
    if cure:
        ps.check(ps.batched(model, cross_entropy), ps.live(model), data(24).tensors)
        return

    def live(params, batch):
        with torch.no_grad():
            return cross_entropy(model, batch)

    with pytest.raises(ValueError, match=r"writes to params\['1.running_mean'\]: BatchNorm in train mode"):
        ps.check(live, ps.live(model), data(24).tensors)
    model[1].eval()
    with pytest.raises(ValueError, match="generator of torch: dropout in train mode"):
        ps.check(live, ps.live(model), data(24).tensors)
    model[3].eval()
    model[1] = nn.BatchNorm1d(8, track_running_stats=False)
    with pytest.raises(ValueError, match="dropping half of the rows moves the losses"):
        ps.check(live, ps.live(model), data(24).tensors)


def test_one_row_is_not_enough():
    with pytest.raises(ValueError, match="pass one with two rows or more"):
        ps.check(lambda params, x: x.sum(1), {}, X[:1])
    with pytest.raises(ValueError, match=r"tolerance must be in \[0, inf\)"):
        ps.check(lambda params, x: x.sum(1), {}, X, tolerance=-1.0)


def test_a_few_forwards_of_a_few_rows_suffice():
    sizes = []

    def score(params, x):
        sizes.append(len(x))
        return x.sum(1)

    ps.check(score, {}, X.repeat(40, 1))
    assert len(sizes) <= 6
    assert max(sizes) <= 16
