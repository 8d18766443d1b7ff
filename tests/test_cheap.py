"""Cheaper scores rank as the dear ones do."""

import pytest
import torch
from torch import nn

import puresift as ps
from tests.strategies import cross_entropy, data, net


def test_autocast_is_blind_to_an_outer_region():
    model, batch = net(norm=False), data(64).tensors
    plain = ps.batched(model, cross_entropy)
    half = ps.autocast(plain, torch.bfloat16)
    alone = half(ps.live(model), batch)
    assert alone.dtype == torch.float32
    assert not torch.equal(alone, plain(ps.live(model), batch)), "bfloat16 must have been used"
    with torch.autocast("cpu", torch.bfloat16):
        first = half(ps.live(model), batch)
        with torch.no_grad():
            model[0].weight.mul_(1.5)
        assert not torch.equal(half(ps.live(model), batch), first), "a stale cast weight was used"
        exact = ps.autocast(plain, torch.float32)(ps.live(model), batch)
    assert torch.equal(first, alone)
    assert torch.equal(exact, plain(ps.live(model), batch))


def test_autocast_refuses_other_dtypes():
    with pytest.raises(ValueError, match=r"torch.float32, torch.bfloat16 or torch.float16, got torch.int8"):
        ps.autocast(lambda params, batch: batch, torch.int8)


def ragged(rows=13, width=12):
    noise = ps.keys.uniform(ps.key(0), rows)
    length = (noise * width).long().clamp(min=1)
    mask = (torch.arange(width) < length[:, None]).long()
    return {"ids": mask * 5, "mask": mask}


def test_chunks_sorted_by_length_give_the_same_losses_and_are_cut():
    widths = []

    def score(params, batch):
        widths.append(batch["ids"].shape[1])
        return batch["ids"].sum(1).float()

    pads = {name: ps.Pad(0, 12) for name in ("ids", "mask")}
    batch = ragged()
    cut = ps.chunked(score, 4, length=lambda batch: batch["mask"].sum(1), pad=pads)
    assert torch.equal(cut({}, batch), batch["ids"].sum(1).float())
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == int(batch["mask"].sum(1).max())


def test_chunks_bound_the_rows_of_a_forward():
    sizes = []

    def score(params, batch):
        sizes.append(len(batch))
        return batch

    assert torch.equal(ps.chunked(score, 4)({}, torch.arange(10.0)), torch.arange(10.0))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"size": 0}, "size must be a whole number >= 1"), ({"size": 2, "length": len}, "length= and pad= together")],
)
def test_bad_chunks_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ps.chunked(lambda params, batch: batch, **settings)


def test_fastest_measures_and_admits_by_rank():
    model, batch = nn.Linear(4, 1), torch.randn(16, 4)
    score = ps.batched(model, lambda model, x: model(x)[:, 0])

    def slow(params, batch):
        for _ in range(200):
            values = score(params, batch)
        return values

    cheap_but_wrong = lambda params, batch: torch.zeros(16)  # noqa: E731
    broken = lambda params, batch: torch.full((16,), torch.nan)  # noqa: E731
    scores = {"reference": slow, "same": score, "wrong": cheap_but_wrong, "broken": broken}
    choice = ps.fastest(scores, ps.live(model), batch)
    assert choice.name == "same"
    assert choice.score is score
    assert choice.agreement["same"] == 1.0
    assert choice.agreement["wrong"] < 0.99
    assert choice.seconds["same"] < choice.seconds["reference"]


def test_fastest_refuses_nothing_to_choose_from_and_a_broken_reference():
    with pytest.raises(ValueError, match="at least one score"):
        ps.fastest({}, {}, torch.zeros(2))
    with pytest.raises(ValueError, match="compared with, gives losses that are not finite"):
        ps.fastest({"reference": lambda params, batch: batch / 0}, {}, torch.zeros(2))
