"""Where kept rows go: as many to each rank, and no more of them move than must."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from puresift.distributed.dealing import deal


@st.composite
def pools(draw):
    """A number of ranks, a rank's share of a batch, and how many rows each rank keeps of each pool."""
    ranks = draw(st.integers(1, 5))
    return (
        ranks,
        draw(st.integers(1, 6)),
        draw(st.lists(st.lists(st.integers(0, 9), min_size=ranks, max_size=ranks), max_size=6)),
    )


@given(pools())
def test_every_batch_has_as_many_rows_of_each_rank(setting):
    ranks, size, kept = setting
    opened, gone, seen = torch.zeros(ranks, dtype=torch.int64), [], 0
    for counts in kept:
        sources = torch.arange(ranks).repeat_interleave(torch.tensor(counts))
        dealt = deal(sources, opened, size)
        assert len(dealt.to) == len(sources)
        gone += dealt.to.tolist()
        seen += dealt.batches
        assert seen == len(gone) // (ranks * size), "batches are full as soon as there are rows for them"
        opened = dealt.opened
        assert int(opened.sum()) == len(gone) % (ranks * size) and bool((opened <= size).all())
    for start in range(0, seen * ranks * size, ranks * size):
        counts = torch.bincount(torch.tensor(gone[start : start + ranks * size]), minlength=ranks)
        assert counts.tolist() == [size] * ranks
    rest = torch.tensor(gone[seen * ranks * size :], dtype=torch.int64)
    assert torch.equal(torch.bincount(rest, minlength=ranks), opened)


@given(pools())
def test_no_more_rows_move_than_are_missing_elsewhere(setting):
    """Of one batch: those that a rank has beyond its share."""
    ranks, size, kept = setting
    for counts in kept:
        sources = torch.arange(ranks).repeat_interleave(torch.tensor(counts))[: ranks * size]
        dealt = deal(sources, torch.zeros(ranks, dtype=torch.int64), size)
        own = torch.bincount(sources, minlength=ranks)
        assert int((dealt.to != sources).sum()) == int((own - size).clamp(min=0).sum())


def test_one_rank_keeps_all():
    dealt = deal(torch.zeros(7, dtype=torch.int64), torch.tensor([1]), 3)
    assert dealt.to.tolist() == [0] * 7 and dealt.opened.tolist() == [2] and dealt.batches == 2
