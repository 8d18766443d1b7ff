"""Accelerate's loops around a plain sifting loader, and ranks that read the same rows, on two gloo ranks."""

import pytest

from tests.distributed.worlds import launch
from tests.doors import BATCH

pytest.importorskip("accelerate")
JOBS = [("same", 2, {}), ("loop", 2, {}), ("late", 2, {})]


@pytest.fixture(scope="module")
def answers():
    found = launch("tests.integrations.ranked", JOBS, processes=2)
    return {name: answer for (name, *_), answer in zip(JOBS, found, strict=True)}


def test_a_prepared_loader_keeps_ranks_in_step_and_accumulates_over_as_many_batches(answers):
    """The end of its pools comes at another batch on each rank, and is not taken for the end of the batches."""
    one, other = answers["loop"]
    assert one["rows"] != other["rows"]
    assert one["weights"] == other["weights"]
    for rank in (one, other):
        assert rank["steps"] == [place % 3 == 2 for place in range(len(one["steps"]))]
        assert set(rank["sizes"]) == {2 * BATCH} and len(one["steps"]) > 6, "and metrics are not cut"


def test_a_loader_that_is_sifted_before_it_is_prepared_is_refused(answers):
    for (made, error), (batches, fine) in answers["late"]:
        assert made is None and error[0] == "SiftError"
        assert "ps.integrations.accelerate.sifting(accelerator, loader, ...)" in error[1]
        assert fine is None and batches > 0, "a share of the rank's own is not"


def test_ranks_that_read_the_same_rows_are_told_once(answers):
    first, second = answers["same"]
    for name, (by_loader, by_stream) in first.items():
        plain = name in ("in order", "shuffled")
        assert [len(by_loader), len(by_stream)] == [plain, 2 * plain], name
        assert all("sampler=DistributedSampler(dataset)" in words for words in by_loader + by_stream)
    assert all(words == [[], []] for words in second.values()), "rank 0 speaks for all"
