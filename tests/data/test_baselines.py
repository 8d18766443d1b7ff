"""Samplers by label: what is kept, and that it stays or changes as it should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from tests.strategies import seeds

labels = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(torch.tensor)


@given(labels=labels, keep=st.floats(0.05, 1.0), seed=seeds)
def test_downsampling_keeps_every_rare_sample_and_one_part_of_the_common(labels, keep, seed):
    sampler = ps.downsampled(labels, keep=keep, epochs=3, seed=seed)
    common = int(labels.mode().values)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(sorted(sampler))
    assert epochs[0] == epochs[1] == epochs[2]
    kept = labels[torch.tensor(epochs[0])]
    assert int((kept != common).sum()) == int((labels != common).sum())
    assert int((kept == common).sum()) == max(round(keep * int((labels == common).sum())), 1)
    assert sampler.log_odds == pytest.approx(math.log(keep))


def test_the_correction_gives_the_natural_odds_back():
    labels = torch.cat([torch.zeros(9_000), torch.ones(1_000)]).long()
    sampler = ps.downsampled(labels, keep=0.2)
    share = labels[torch.tensor(list(sampler))].float().mean()
    corrected = torch.sigmoid(torch.logit(share) + sampler.log_odds)  # of a model that knows the mix and nothing else
    torch.testing.assert_close(corrected, torch.tensor(0.1), atol=1e-4, rtol=0)


@given(labels=labels, seed=seeds)
def test_balanced_epochs_hold_as_many_of_each_class(labels, seed):
    sampler = ps.balanced(labels, epochs=2, seed=seed)
    least = int(labels.unique(return_counts=True)[1].min())
    for epoch in range(2):
        sampler.set_epoch(epoch)
        ids = torch.tensor(list(sampler))
        assert labels[ids].unique(return_counts=True)[1].tolist() == [least] * len(labels.unique())
        assert len(ids.unique()) == len(ids)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: ps.downsampled(torch.zeros(3), keep=0.5), r"labels must be a class for each sample, Int\[N\]"),
        (lambda: ps.downsampled(torch.tensor([0, 1]), keep=0.0), r"keep must be in \(0, 1\]"),
        (lambda: ps.downsampled(torch.tensor([0, 1]), keep=0.5, common=7), "no sample has the label 7"),
        (lambda: ps.balanced(torch.zeros(0).long(), epochs=1), "labels must be"),
    ],
)
def test_bad_labels_are_refused(act, words):
    with pytest.raises(ValueError, match=words):
        act()
