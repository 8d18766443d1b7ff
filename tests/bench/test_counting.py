"""bench/counting.py: what the benches of ranks count, and how they put it together."""

import pytest
import torch
import torch.distributed as dist

from bench.counting import Reads, Wire
from bench.speed.ranks_cost import shares


def test_every_look_at_a_number_is_counted():
    numbers = torch.arange(3)
    with Reads() as reads:
        added = numbers + 1
        assert reads.count == 0
        looks = [lambda: int(added[0]), lambda: bool(added[1]), lambda: added[2].item(), added.tolist, added.cpu]
        for place, look in enumerate(looks, 1):
            look()
            assert reads.count == place
        torch.equal(added, numbers)
    before = reads.count
    added.tolist()
    assert before == reads.count == len(looks) + 1


def test_bytes_are_those_that_a_rank_receives(monkeypatch):
    monkeypatch.setattr(dist, "all_gather", lambda parts, own: None)
    monkeypatch.setattr(dist, "all_to_all_single", lambda come, own, *sizes: None)
    with Wire() as wire:
        dist.all_gather([torch.zeros(4), torch.zeros(4), torch.zeros(4)], torch.zeros(4))
        dist.all_to_all_single(torch.zeros(5, 2, dtype=torch.uint8), torch.zeros(1, 2, dtype=torch.uint8), [1], [5])
    assert (wire.bytes, wire.messages) == (2 * 16 + 10, 2)
    dist.all_gather([], None)
    assert wire.messages == 2, "not after it"


def test_the_share_is_of_scores_and_steps():
    seconds = {"plain": {"median": 0.2}, "scoring": {"median": 0.06}}
    own = {"constant": {"median": 0.0016}, "global": {"median": 0.0032}}
    found = {"keep": dict.fromkeys(own, 0.5), "busy": {"seconds": seconds, "outside": own}}
    assert shares(found, "busy") == pytest.approx({"constant": 0.01, "global": 0.02})
