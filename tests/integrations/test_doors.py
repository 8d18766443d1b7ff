"""Every door leads to the same room: the kept samples, their order and the final weights of the plain loop."""

import pytest
import torch

from puresift.buffers import chunks
from tests.doors import BATCH, DOORS, NEEDS, TOLERANCE, plain


@pytest.fixture(scope="module")
def reference():
    return plain()


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "large rows"])
@pytest.mark.parametrize("door", DOORS)
def test_a_door_keeps_and_trains_as_the_plain_loop(door, cut, reference, monkeypatch):
    pytest.importorskip(NEEDS.get(door, "torch"))
    if cut:
        monkeypatch.setattr(chunks, "SIZE", 1)
    ids, weights = DOORS[door]()
    assert ids == reference[0]
    assert weights.keys() == reference[1].keys()
    for name, tensor in reference[1].items():
        if door in TOLERANCE:
            assert torch.allclose(weights[name], tensor, rtol=0, atol=TOLERANCE[door]), name
        else:
            assert torch.equal(weights[name], tensor), name


def test_the_problem_can_tell_doors_apart(reference):
    """Some rows are kept and some are not, and rows wait from one epoch to the next."""
    ids, _ = reference
    assert len(ids) >= 10 * BATCH
    assert 0 < len(set(ids)) < 96
    assert len(ids) % BATCH == 0
    assert ids != sorted(ids), "two epochs"
