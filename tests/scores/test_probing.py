"""A probe learns what a ridge regression on all that it was told would know, purely, and says when it knows nothing."""

import pytest
import torch
from torch import nn

import puresift as ps
from tests import laws

SIZE = 3


def probe(**settings):
    return ps.probed(nn.Identity(), lambda model, batch: model(batch["x"]), size=SIZE, **settings)


def told(seed, rows=9):
    x = ps.keys.uniform(ps.key(seed), rows * SIZE).view(rows, SIZE)
    return {"x": x}, x @ torch.tensor([1.0, 2.0, 0.5]) + 0.25, 0.5 + ps.keys.uniform(ps.key(seed + 100), rows)


def test_it_is_the_weighted_ridge_regression_of_all_pools_older_ones_counting_less():
    one, ridge, decay = probe(ridge=0.1, decay=0.5), 0.1, 0.5
    state, rows = one.init(), []
    for seed in range(4):
        batch, losses, weights = told(seed)
        losses = losses + ps.keys.uniform(ps.key(seed + 50), len(losses))  # not linear, so that the weights matter
        with laws.untouched(state, batch, losses, weights):
            after = one.learn(state, one.look(state, {}, batch)[1], losses, weights)
        laws.same_layout(state, after)
        state = after
        rows.append((batch["x"].double(), losses.double(), weights.double() * decay ** (3 - seed)))
    x, y, w = (torch.cat(part) for part in zip(*rows, strict=True))
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    gram = x.T @ (w[:, None] * x)
    gram += ridge * gram.diagonal().mean() * torch.eye(SIZE + 1)
    expected = x[:9] @ torch.linalg.solve(gram, x.T @ (w * y))
    torch.testing.assert_close(one.look(state, {}, {"x": rows[0][0].float()})[0], expected.clamp(min=0).float())


def test_until_it_has_seen_enough_it_says_so():
    one = probe(decay=1.0)
    state = one.init()
    batch, losses, _ = told(0, 4)
    for _ in range(2):
        assert bool(one.look(state, {}, batch)[0].isnan().all())
        state = one.learn(state, one.look(state, {}, batch)[1], losses, torch.ones(4))
    assert bool(one.look(state, {}, batch)[0].isfinite().all())


def test_what_is_not_finite_teaches_nothing():
    one, (batch, losses, weights) = probe(), told(0)
    clean = one.learn(one.init(), one.look(one.init(), {}, batch)[1], losses, weights)
    bad = {"x": torch.cat([batch["x"], torch.full((1, SIZE), torch.nan), batch["x"][:1]])}
    seen = one.look(one.init(), {}, bad)[1]
    more = torch.cat([losses, torch.tensor([1.0, torch.inf])]), torch.cat([weights, torch.ones(2)])
    spoilt = one.learn(one.init(), seen, *more)
    for one_, other in zip(clean, spoilt, strict=True):
        torch.testing.assert_close(other, one_, rtol=1e-12, atol=0)


def test_the_features_are_the_live_models_in_eval_mode():
    model = nn.Sequential(nn.Linear(2, SIZE), nn.Dropout(0.9))
    one = ps.probed(model, lambda model, batch: model(batch), size=SIZE)
    batch = torch.ones(4, 2)
    seen = one.look(one.init(), ps.live(model)(), batch)[1]
    assert torch.equal(seen[:, :SIZE].float(), model[0](batch).detach()) and not seen.requires_grad
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert not torch.equal(one.look(one.init(), ps.live(model)(), batch)[1], seen)


def looks(x):
    one = probe()
    return one.look(one.init(), {}, {"x": x})


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: probe(decay=0), "decay"),
        (lambda: probe(ridge=0), "ridge"),
        (lambda: ps.probed(nn.Identity(), lambda model, x: x, size=0), "size"),
        (lambda: looks(torch.ones(5, 4)), r"the features are \[5, 4\], and probed .* size=3: give it \[5, 3\]"),
        (lambda: looks(torch.ones(3)), r"the features are \[3\]"),
        (lambda: ps.chunked(probe(), 2)({}, torch.ones(4, 3)), r"use ps\.cascade\(probe, score\)"),
    ],
)
def test_wrong_features_and_uses_are_named(act, words):
    with pytest.raises(ps.SiftError, match=words):
        act()
