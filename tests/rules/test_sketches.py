"""Sketches: what a rule learns of a loss from a histogram of the last ones."""

import torch

from puresift.order import rank_bounds
from puresift.rules.histories import choose


def test_only_losses_of_one_value_share_their_ranks():
    """In a first pool with fewer values than the sketch has bins, each value has a bin of its own."""
    losses = torch.tensor([3.0, 1.0, 2.0, 5.0, 1.0, 7.0, 7.0, 9.0])
    init, place = choose(None, 1000, 16)
    placed = place(init(), losses)[1]
    shared = torch.tensor([sum(other == loss for other in losses) > 1 for loss in losses])
    assert torch.equal(placed.equal > 1, shared)
    below, upto = rank_bounds(losses.sort().values, losses)
    assert torch.equal(placed.below[shared], below[shared].double())
    assert torch.equal(placed.upto[shared], upto[shared].double())
    assert ((placed.upto - placed.below)[~shared] <= 1).all(), "a loss alone has one rank"
