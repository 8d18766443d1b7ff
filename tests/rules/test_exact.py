"""The exact rule: gradients with and without the dropped rows; the rest is law."""

import pytest
import torch
from torch.nn.functional import triplet_margin_loss

import puresift as ps

ROWS, WIDTH = 24, 5


def pool(seed=0):
    return ps.keys.uniform(ps.key(seed), ROWS * WIDTH).view(ROWS, WIDTH).double() - 0.5


def hinge(weight, rows):
    return (0.1 - rows @ weight[0]).clamp(min=0)


def triplets(weight, rows):
    anchor, near, far = (rows.roll(shift, 0) @ weight for shift in range(3))
    return triplet_margin_loss(anchor, near, far, margin=0.05, reduction="none")


def clipped(weight, rows):
    """Half of the advantages are 0, as where all of a group fail or all succeed."""
    ratio, gain = (rows @ weight[0]).exp(), advantages(rows)
    return -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)


def advantages(rows):
    return torch.where(rows[:, 0] > 0, rows[:, 1], 0.0)


LOSSES = {  # a loss, and what says which of its rows have a gradient
    "hinge": (hinge, hinge),
    "triplets": (triplets, triplets),
    "clipped": (clipped, lambda weight, rows: advantages(rows)),
}


def gradient(loss):
    def at(weight, *args):
        weight = weight.clone().requires_grad_()
        return torch.autograd.grad(loss(weight, *args), weight)[0]

    return at


@pytest.mark.parametrize("draw", [ps.bernoulli, ps.systematic])
@pytest.mark.parametrize("name", LOSSES)
def test_the_weighted_mean_over_kept_rows_has_the_gradient_of_the_mean_over_all(name, draw):
    loss, score = LOSSES[name]
    rule = ps.nonzero()
    for seed in range(3):
        weight = ps.keys.uniform(ps.key(seed + 50), WIDTH * WIDTH).view(WIDTH, WIDTH).double() / 2
        rows = pool(seed)
        odds = rule.select(rule.init(), score(weight, rows).detach())[1]
        mask = draw(ps.key(seed), odds.probs)
        assert 0 < mask.sum() < ROWS
        weights, every = odds.weights.double()[mask], torch.arange(ROWS)
        # A triplet's rows are three: its loss is taken of all and its mean of the kept ones.
        sifted = gradient(lambda w, m, v, rows=rows: (v * loss(w, rows)[m]).mean())(weight, every[mask], weights)
        plain = gradient(lambda w, rows=rows: loss(w, rows).mean())(weight)
        assert torch.linalg.norm(sifted - plain) <= 1e-6 * torch.linalg.norm(plain)


def test_a_mean_over_tokens_is_divided_by_those_of_the_whole_pool():
    """As the docstring says: the batch brings their number, and the weights only tell fillers apart."""
    rows, lengths = pool(), torch.arange(ROWS) % WIDTH  # a fifth of the rows have no label at all
    counted = torch.arange(WIDTH) < lengths[:, None]
    batch = {"rows": rows, "counted": counted, "tokens": counted.sum().expand(ROWS)}
    sifter = ps.sifter(lambda params, batch: batch["counted"].sum(1).float(), ps.nonzero(), batch_size=ROWS)
    state, _ = sifter.step(sifter.init(ps.key(0), batch), {}, batch)
    kept, weights = sifter.flush(state)[1][0]
    assert len(weights) < ROWS and (weights > 0).all()

    def total(weight, batch):
        return ((batch["rows"] @ weight) * batch["counted"]).sum() / batch["tokens"][0]

    weight = torch.eye(WIDTH, dtype=torch.float64)
    assert torch.allclose(gradient(total)(weight, kept), gradient(total)(weight, batch), rtol=1e-12)


def test_only_an_exact_zero_is_dropped():
    tiny = torch.finfo(torch.float32).tiny
    scores = torch.tensor([0.0, -0.0, tiny, -tiny, tiny / 2**20, 1e38])
    rule = ps.nonzero()
    odds = rule.select(rule.init(), scores)[1]
    assert odds.probs.tolist() == [0, 0, 1, 1, 1, 1] and torch.equal(odds.weights, torch.full((6,), 4 / 6))


def test_where_nothing_is_kept_the_weights_are_still_weights():
    rule = ps.nonzero()
    odds = rule.select(rule.init(), torch.zeros(3))[1]
    assert odds.probs.tolist() == [0, 0, 0] and odds.weights.tolist() == [1, 1, 1]
