"""Ranks that decide as one, that go in step, and that need no word: several gloo processes, started once."""

import re

import pytest
import torch

import puresift as ps
from tests.distributed import cases
from tests.distributed.worlds import launch

WORLDS = (2, 4)
DECISIONS = [
    *[{"rule": rule} for rule in cases.RULES],
    {"rule": "weighted", "draw": "systematic"},
    {"rule": "held", "draw": "systematic", "batch": 12},
]
FAILURES = [
    *[{"where": where, "mode": mode} for where in ("loader", "score", "empty") for mode in ("in_step", "global")],
    {"where": "loader", "at": 0, "on": 0},
]
OTHERS = ["rule", "batch size", "draw", "key", "columns", "nonfinite", "type", "shape", "leaf"]
NAMES = {
    "rule": r"another rule than rank 0: relative\(exponent=3.0",
    "batch size": "another batch_size than rank 0: 4 there, and 8 on rank 0",
    "draw": r"another draw than rank 0: systematic\(\) there, and bernoulli\(\)",
    "key": r"another key than rank 0: \[5, 0\] there, and \[4, 0\]",
    "columns": r"another setting than rank 0: columns \['group', 'id'\]",
    "nonfinite": "another setting than rank 0: .*nonfinite='drop'.* there, and .*nonfinite='raise'",
    "type": r"another form of rows than rank 0: .*torch.int32\[4\].* there, and .*uint8\[4\]",
    "shape": r"another form of rows than rank 0: .*picture torch.uint8\[3\].*picture torch.uint8\[4\]",
    "leaf": "another form of rows than rank 0: .*more torch.float32",
    "pool": "another largest pool than rank 0: 10 rows there, and 24 rows",
}
JOBS = [
    *[("decisions", 2, setting) for setting in DECISIONS],
    *[("decisions", 4, setting) for setting in (DECISIONS[0], *DECISIONS[-2:])],  # four take four times as long
    *[("training", world, {}) for world in WORLDS],
    *[("unequal", 2, {"lengths": lengths}) for lengths in ((3, 5), (4, 0))],
    ("behind", 2, {}),
    ("quiet", 2, {}),
    ("quiet", 2, {"drop_last": False, "rows": 90}),
    ("warned", 2, {}),
    *[("failing", 2, setting) for setting in FAILURES],
    ("failing", 4, {"where": "score", "on": 2}),
    *[("other", 2, {"what": what, "mode": mode}) for what in OTHERS for mode in ("in_step", "global")],
    ("other", 2, {"what": "pool", "mode": "global"}),
    ("apart", 2, {}),
]


@pytest.fixture(scope="module")
def answers():
    """What each job came to, by its name, ranks and arguments."""
    found = launch("tests.distributed.cases", JOBS)
    return {_key(*job): answer for job, answer in zip(JOBS, found, strict=True)}


def _key(name, world, setting):
    return name, world, repr(setting)


@pytest.mark.parametrize("setting", DECISIONS, ids=str)
def test_decisions_do_not_depend_on_the_number_of_ranks(answers, setting):
    """The same rows of each pool, weighed alike, in the same global batches; and every row leaves once."""
    alone = cases.decisions(0, 1, **setting)
    assert alone["batches"] and alone["resumed"]
    for ranks in (answers[key] for world in WORLDS if (key := _key("decisions", world, setting)) in answers):
        batches = [sum(parts, []) for parts in zip(*(rank["batches"] for rank in ranks), strict=True)]
        assert [sorted(batch) for batch in batches] == [sorted(batch) for batch in alone["batches"]]
        assert sorted(sum((rank["kept"] for rank in ranks), [])) == sorted(alone["kept"])
        assert sum(rank["held"] for rank in ranks) == alone["held"]
        assert all(rank["resumed"] for rank in ranks), "from its state after the third batch"


def test_ddp_on_global_batches_trains_as_one_rank_does(answers):
    alone = cases.training(0, 1)
    for world in WORLDS:
        for rank in answers[_key("training", world, {})]:
            assert rank["steps"] == alone["steps"] > 9
            for here, there in zip(rank["weights"], alone["weights"], strict=True):
                assert torch.allclose(torch.tensor(here), torch.tensor(there), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lengths", [(3, 5), (4, 0)])
def test_ranks_of_other_lengths_share_what_they_keep(answers, lengths):
    """One has fewer pools, or none: all give as many batches, and nothing is lost or comes twice."""
    ranks = answers[_key("unequal", 2, {"lengths": lengths})]
    assert [len(one) for one in ranks[0]["passes"]] == [len(one) for one in ranks[1]["passes"]]
    assert all(ranks[0]["passes"]), "in both passes"
    out = sum((sum(rank["passes"], rank["left"]) for rank in ranks), [])
    assert sorted(out) == sorted(sum((rank["kept"] for rank in ranks), []))
    assert {rank["step"] for rank in ranks} == {2 * max(lengths)}


def test_what_a_longer_rank_has_left_comes_first_in_its_next_pass(answers):
    """Both end their passes together, and each gives its own batches, all of them, one after another."""
    ranks = answers[_key("behind", 2, {})]
    assert ranks[0]["counts"] == ranks[1]["counts"] and min(ranks[0]["counts"]) > 2
    assert ranks[0]["epochs"] == ranks[1]["epochs"] == [1, 2, 3, 4]
    assert not ranks[0]["saved"] and ranks[1]["saved"], "the longer one is behind"
    for rank, answer in enumerate(ranks):
        assert answer["resumed"] == [True] * 4, "in the middle of a pass, and between two"
        pools = [
            {name: leaf + 10_000 * rank * (name == "id") for name, leaf in pool.items()}
            for pool in cases.global_pools(6)[: (3, 6)[rank]]
        ]
        sifter = ps.sifter(cases.score, ps.relative(keep=0.5, history=64), batch_size=8)
        state = sifter.init(ps.keys.fold_in(ps.key(0), rank), pools[0])
        stream = ps.sift(sifter, state, {}, ps.epochs(pools, 4))
        alone = [sifted.batch["id"].tolist() for sifted in stream]
        assert answer["seen"] == alone[: len(answer["seen"])], "as alone"


def test_ranks_of_constant_counts_need_no_word(answers):
    """As many batches at the same steps; they talk when a pass begins, never for a batch. Others are told, once."""
    for rank, (held, drifting) in enumerate(answers[_key("quiet", 2, {})]):
        assert held == [[[3, 3], [3, 1]], []], "batches and words of each pass; the first compares the ranks"
        (_, first), (_, second) = drifting[0]
        assert first == second == 0
        assert len(drifting[1]) == (rank == 0)


def test_where_the_last_pool_is_not_whole_the_ranks_meet_at_every_batch(answers):
    one, other = (
        [by_pass for by_pass, _ in rank] for rank in answers[_key("quiet", 2, {"drop_last": False, "rows": 90})]
    )
    assert [batches for batches, _ in one[0]] == [batches for batches, _ in other[0]]
    assert all(words > batches for batches, words in one[0])


def test_a_stream_warns_on_rank_0_where_counts_vary(answers):
    first, second = answers[_key("warned", 2, {})]
    assert [len(words) for words in first] == [1, 1, 0] and second == [[], [], []]
    assert "ps.hold(rule, keep)" in first[0][0] and "in_step=True" in first[0][0] and 'ranks="global"' in first[0][0]


@pytest.mark.parametrize("setting", FAILURES, ids=str)
def test_every_rank_hears_which_one_failed_and_why(answers, setting):
    ranks, on = answers[_key("failing", 2, setting)], setting.get("on", 1)
    kind, words = {
        "loader": ("OSError", "no such file"),
        "score": ("ValueError", "no such loss"),
        "empty": ("SiftError", "the loader is empty: it gave no batch"),
    }[setting["where"]]
    assert len({got for got, _, _ in ranks}) == 1, "as many batches on both"
    assert ranks[on][1] == [kind, words]
    heard = [f"rank {on} failed while making the next batch ({kind}: {words})" in ranks[1 - on][1][1]]
    assert heard == [True] and ranks[1 - on][1][0] == "MomentError"
    assert all(seconds < 10 for *_, seconds in ranks)


def test_all_of_four_ranks_hear_of_it(answers):
    ranks = answers[_key("failing", 4, {"where": "score", "on": 2})]
    assert [error[0] for _, error, _ in ranks] == ["MomentError", "MomentError", "ValueError", "MomentError"]
    assert all("rank 2 failed" in ranks[rank][1][1] for rank in (0, 1, 3))


@pytest.mark.parametrize("mode", ["in_step", "global"])
@pytest.mark.parametrize("what", [*OTHERS, "pool"])
def test_ranks_that_are_not_built_alike_are_refused_on_the_first_pool(answers, what, mode):
    if (key := _key("other", 2, {"what": what, "mode": mode})) not in answers:
        pytest.skip("ranks apart may read pools of any size")
    for got, error in answers[key]:
        assert got == 0 and error[0] == "SiftError"
        assert error[1].startswith("rank 1 has ") and re.search(NAMES[what], error[1]), error[1]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("step", "rank 1 has another number of pools read than rank 0: 1 there, and 0"),
        ("key", "rank 1 has another key than rank 0"),
        ("objects", "Python objects stay where they are; make the leaf a tensor"),
        ("infinite", r"12 of 24 losses in pool 0 are NaN or infinite \(12 on rank 1\)"),
        ("rows", r"the ranks hold \[9, 0\] rows, which no stream of theirs has left so"),
        ("ragged", 'instead of pad="auto" declare it'),
    ],
)
def test_global_decisions_refuse_what_does_not_belong_together(answers, what, words):
    for rank in answers[_key("apart", 2, {})]:
        kind, said = rank[what]
        assert kind == "SiftError" and re.search(words, said)


def test_a_governor_and_buckets_do_not_go_with_global_decisions():
    pool = torch.arange(8.0)
    sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=2, ranks="global")
    with pytest.raises(ps.SiftError, match="a governor decides by each rank's own clock"):
        ps.sift(sifter, sifter.init(ps.key(0), pool), {}, [pool], governor=ps.governor())
    with pytest.raises(ps.SiftError, match="leave out one of both"):
        ps.sifter(None, ps.uniform(keep=0.5), batch_size=2, ranks="global", bucket=lambda batch: batch.long())
    with pytest.raises(ps.SiftError, match='ranks must be "own" or "global"'):
        ps.sifter(None, ps.uniform(keep=0.5), batch_size=2, ranks="all")
    with pytest.raises(ps.SiftError, match="in_step must be True, False or None"):
        ps.SiftingDataLoader([pool], None, ps.uniform(keep=0.5), params={}, in_step="once")
