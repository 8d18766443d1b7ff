"""Two real gloo processes: in step, warned once, and never left waiting."""

import pytest
import torch

import puresift as ps
from puresift import distributed
from tests.ranks import launch


@pytest.fixture(scope="module")
def answers():
    """Of one pair of processes: to start one costs seconds."""
    return launch("unequal failing leftovers finished ddp")


def test_ranks_of_unequal_length_stop_together_and_warn_once(answers):
    (short, equal), (long, same) = answers["unequal"]
    assert short[0] == long[0] == [0, 1, 2]
    assert len(short[1]) == 1, "rank 0 alone speaks"
    assert "2 batches were left unused" in short[1][0]
    assert long[1] == []
    assert equal == same == [[0, 1, 2, 3], []]


def test_a_rank_that_fails_lets_the_others_go(answers):
    one, other = answers["failing"]
    assert one == [[0, 1], "RuntimeError", "another rank failed while it made its next batch; its own message says why"]
    assert other == [[0, 1], "ValueError", "no such file"]


def test_a_rank_that_fails_in_what_is_left_ends_the_others_too(answers):
    """None of them goes on to a next pass, where it would wait for the one that is gone."""
    one, other = answers["leftovers"]
    words = "another rank failed while it read its batches that are left; its own message says why"
    assert one == [[0, 1], "MomentError", words]
    assert other == [[0, 1], "ValueError", "no such file"]


def test_a_rank_without_a_batch_hears_of_one_that_failed(answers):
    one, other = answers["finished"]
    words = "another rank failed while it made its next batch; its own message says why"
    assert one == [[0, 1], "MomentError", words]
    assert other == [[0, 1], "ValueError", "no such file"]


def test_ddp_over_unequal_shares_ends_and_resumes_in_the_middle(answers):
    one, other = answers["ddp"]
    assert one[0] == other[0] > 6, "as many steps on both"
    assert one[1] == other[1], "and the same model in the end"
    assert one[2] and other[2], "also when it went on from the third step"
    for _, _, _, (world, rank), _ in (one, other):
        assert "was saved on 3 ranks and there are 2 now" in world
        assert "save one file a rank" in rank
    assert one[4] != other[4], "ranks draw apart"


def test_a_single_process_is_left_alone():
    assert list(distributed.in_step(iter("abc"))) == ["a", "b", "c"]
    assert torch.equal(distributed.rank_key(ps.key(5)), ps.key(5))
    assert distributed.place() == (0, 1)
    assert torch.equal(distributed.gathered(torch.arange(3)), torch.tensor([[0, 1, 2]]))
    assert distributed.unstamped(distributed.stamped({"a": 1})) == {"a": 1}
    with pytest.raises(ValueError, match="was saved on 2 ranks and there are 1 now"):
        distributed.unstamped({"place": torch.tensor([0, 2])})
