"""What a score can break, and that it is named; every score of ours is pure."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

import puresift as ps
from tests.laws import SCORES, candidates
from tests.strategies import cross_entropy, net


@pytest.mark.parametrize("name", [name for name in SCORES if name != "compiled"])  # slow, and no other function
def test_every_score_is_pure(name):
    assert ps.testing.assert_pure(SCORES[name](), ps.live(net(1)), candidates(7)).shape == (7,)


class Sum(NamedTuple):
    total: torch.Tensor


def in_train_mode(params, batch):
    return cross_entropy(MODEL, batch).detach()


def writes(params, batch):
    batch[0].mul_(2)
    return batch[0].sum(1)


def writes_to_params(params, batch):
    params["0.weight"].data.add_(1)
    return batch[0].sum(1)


def leaves_gradients_off(params, batch):
    torch.set_grad_enabled(False)
    return batch[0].sum(1)


def remembers_aside():
    seen = set()

    def score(params, batch):
        seen.add(tuple(batch[1].tolist()))
        return batch[0].sum(1) * len(seen)

    return score


MODEL = net(norm=False).train()
first = lambda params, batch: batch[0][:, 0]  # noqa: E731
BROKEN = {
    "dropout": (lambda: in_train_mode, "the global RNG moved, that of torch"),
    "writes to its batch": (lambda: writes, "an input tensor changed, batch: /0 differs in .* places, first at"),
    "writes to parameters": (
        lambda: writes_to_params,
        r"an input tensor changed, params: /0.weight differs in 32 of 32",
    ),
    "leaves gradients off": (lambda: leaves_gradients_off, "the gradient mode changed; use `with torch.no_grad"),
    "records gradients": (lambda: lambda p, b: b[0].sum(1) * p["0.bias"][0], "records gradients; compute it under"),
    "a mean": (lambda: lambda p, b: b[0].mean(), "a score gives one number a row: the loss is already reduced"),
    "keeps pools aside": (
        remembers_aside,
        "depends on the pools that came before: .*; keep them in a ps.Score's state",
    ),
    "a state that grows": (
        lambda: ps.Score(
            lambda: Sum(torch.zeros(0)), lambda s, p, b: (Sum(torch.cat([s.total, b[0][:, 0]])), b[0][:, 0])
        ),
        r"the score's new state is laid out differently: .*float32\[0\] in the first and float32\[24\]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_score_that_is_not_pure_is_told_why(name):
    make, words = BROKEN[name]
    model = net()
    try:
        with pytest.raises(AssertionError, match=f"(?s){words}"):
            ps.testing.assert_pure(make(), ps.live(model), candidates(24))
    finally:
        torch.set_grad_enabled(True)


def test_a_clock_is_found_at_the_second_call():
    ticks = iter(range(9))
    with pytest.raises(AssertionError, match=r"at the second call: .*first at \[0\]: 0.0 and 1.0"):
        ps.testing.assert_pure(lambda params, batch: torch.full((len(batch),), float(next(ticks))), {}, torch.zeros(4))


def test_parameters_may_be_a_mapping_or_live_and_rows_objects():
    model = nn.Linear(2, 1)
    score = lambda params, batch: torch.tensor([float(len(text)) for text in batch["text"]])  # noqa: E731
    batch = {"x": torch.zeros(2, 2), "text": ["a", "bc"]}
    assert ps.testing.assert_pure(score, ps.live(model), batch).tolist() == [1, 2]
    assert ps.testing.assert_pure(score, dict(model.named_parameters()), batch).tolist() == [1, 2]
