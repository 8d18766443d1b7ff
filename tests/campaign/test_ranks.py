"""Random configurations of two to four ranks: none hangs, none loses a row, and every failure is named everywhere."""

from collections import Counter

import pytest

from tests.campaign.ranking import configuration
from tests.campaign.settings import SEED, number
from tests.distributed.worlds import launch

CASES = number(30, 1_000)
AT_ONCE = 100  # configurations that one group of processes takes


@pytest.mark.slow
@pytest.mark.timeout(0)  # each configuration has its own, in its process
def test_random_ranks_go_together():
    seen = Counter()
    for first in range(0, CASES, AT_ONCE):
        seeds = [1_000_000 * SEED + place for place in range(first, min(first + AT_ONCE, CASES))]
        jobs = [("case", configuration(seed)["world"], {"seed": seed}) for seed in seeds]
        for seed, ranks in zip(seeds, launch("tests.campaign.ranking", jobs, seconds=1800), strict=True):
            seen[_judged(seed, ranks)] += 1
    print(dict(seen))
    assert seen["went well"] > CASES / 4 and seen["failed, and all heard"] > CASES / 10


def _judged(seed, ranks):
    """What became of a configuration, if that is as it should be."""
    it = configuration(seed)
    told = f"configuration {seed}: {it}"
    assert len({tuple(rank["counts"]) for rank in ranks}) == 1, f"{told}: as many batches on all ranks"
    errors = [rank["error"] for rank in ranks]
    if any(errors):
        own = [place for place, error in enumerate(errors) if not _heard(error)]
        assert own and all(errors), f"{told}: all ranks end, {errors}"
        if len(own) < len(ranks):  # else all have found it themselves
            names = [f"rank {place}" for place in own]
            for place, error in enumerate(errors):
                if place not in own:
                    assert any(name in error[1] or "ranks " in error[1] for name in names), f"{told}: {error}"
        if it["fails"] and own == [it["fails"]["rank"]]:
            assert errors[own[0]][1] in ("no such file", "no such loss") or "loader" in errors[own[0]][1], told
        ends = [rank["ended"] for rank in ranks]
        assert max(ends) - min(ends) < 10, f"{told}: within ten seconds"
        known = ("no such file", "no such loss", "the loader is empty", "gave no batch", "before one batch was full")
        assert all(any(word in errors[place][1] for word in known) for place in own), f"{told}: {errors}"
        return "failed, and all heard"
    kept = Counter(sum((rank["kept"] for rank in ranks), []))
    gone = Counter(sum((rank["out"] + rank["held"] for rank in ranks), []))
    assert gone == kept, f"{told}: lost {kept - gone}, twice {gone - kept}"
    if it["mode"] != "global":
        for rank in ranks:
            assert Counter(rank["out"] + rank["held"]) == Counter(rank["kept"]), told
    return "went well"


def _heard(error):
    return error is not None and error[0] == "MomentError" and " failed while making the next batch" in error[1]


def test_configurations_are_of_every_kind():
    found = [configuration(seed) for seed in range(300)]
    assert {it["world"] for it in found} == {2, 3, 4} and len({it["mode"] for it in found}) == 3
    assert len({it["rule"] for it in found}) == 6 and any(0 in it["lengths"] for it in found)
    assert {it["fails"]["where"] for it in found if it["fails"]} == {"loader", "score"}
