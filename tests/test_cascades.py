"""Cascades: two draws that are one, unbiased, resumable, and the second score is asked for what is left alone."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, data, net, seeds

RULES = {
    "importance": lambda: ps.importance(keep=0.5, floor=0.2),
    "relative": lambda: ps.relative(keep=0.5, history=64),
    "hold": lambda: ps.hold(ps.relative(keep=0.5, history=64), keep=0.5),
}


def by(leaf):
    return lambda params, batch: batch[leaf]


MODEL = torch.nn.Identity()  # scores hold their model weakly
FIRST = {
    "score": lambda: by("cheap"),
    "recalled": lambda: ps.recalled(100),
    "probed": lambda: ps.probed(MODEL, lambda model, batch: model(batch["cheap"])[:, None], size=1),
}


def pools(rows=10, number=6, seed=0):
    """Rows with two scores, an id, and a weight by which a first sifter has drawn them."""
    for pool in range(number):
        cheap, dear = ps.keys.uniform(ps.key(seed * 1000 + pool), 2 * rows).view(2, rows)
        yield {"cheap": cheap, "dear": dear, "id": torch.arange(rows) + pool * rows, "by": torch.ones(rows)}


def build(rule, keep=0.6, divided=False, **settings):
    both = ps.cascade(by("cheap"), by("dear"), keep=keep, floor=0.3, divided=divided)
    return ps.sifter(both, rule, batch_size=3, draw=ps.systematic, **settings)


@given(seed=seeds, name=st.sampled_from(sorted(RULES)), keep=st.sampled_from([0.3, 0.6, 1.0]), divided=st.booleans())
def test_it_is_two_sifters_one_behind_the_other(seed, name, keep, divided):
    given, key = list(pools(seed=seed % 997)), ps.key(seed)
    both = build(RULES[name](), keep, divided)
    together = [
        (row, float(weight))
        for one in ps.sift(both, both.init(key, given[0]), {}, given)
        for row, weight in zip(one.batch["id"].tolist(), one.weights, strict=True)
    ]

    left = round(keep * 10)
    first = ps.sifter(by("cheap"), ps.importance(left / 10, floor=0.3), batch_size=left, draw=ps.systematic)
    thinned = [
        {**one.batch, "by": one.weights}
        for one in ps.sift(first, first.init(ps.keys.fold_in(key, -1), given[0]), {}, given)
    ]
    assert len(thinned) == len(given)
    dear = (lambda params, batch: batch["dear"] * batch["by"]) if divided else by("dear")
    second = ps.sifter(dear, RULES[name](), batch_size=3, draw=ps.systematic)
    apart = [
        (row, float(weight))
        for one in ps.sift(second, second.init(key, thinned[0]), {}, thinned)
        for row, weight in zip(one.batch["id"].tolist(), one.weights * one.batch["by"], strict=True)
    ]
    assert together == apart


@pytest.mark.parametrize("divided", [False, True])
def test_divided_scores_are_what_rows_are_kept_by(divided):
    """Both draws together keep a row in proportion to its second score; otherwise to the product of both."""
    pool, sifter = next(pools(8)), build(ps.importance(keep=0.1, floor=1e-6), divided=divided)
    for number in range(20):
        _, info = sifter.step(sifter.init(ps.key(number), pool), {}, pool)
        left = info.losses.isfinite()
        assert torch.equal(info.losses[left], pool["dear"][left])  # as the score gave them
        share = (info.odds.probs / pool["dear"])[left]
        assert bool(share.amax() / share.amin() < 1.0001) is divided


@pytest.mark.parametrize("divided", [False, True])
def test_weighted_gradients_are_unbiased_over_both_draws(divided):
    """The mean over many keys, of pools whose rows have a number of their own, within five standard errors."""
    pool = next(pools(8))
    both = ps.cascade(by("cheap"), by("dear"), keep=0.5, floor=0.3, divided=divided)
    sifter = ps.sifter(both, ps.importance(keep=0.5, floor=0.2), batch_size=1)
    begun = sifter.init(ps.key(0), pool)
    every = ps.keys.split(ps.key(1), 20_000)
    infos = torch.func.vmap(lambda key: sifter.step(begun._replace(key=key), {}, pool)[1])(every)
    sums = (infos.mask * infos.odds.weights).double()  # of rows kept, a quarter of the pool in the mean
    error = sums.std(0) / len(every) ** 0.5
    assert bool(((sums.mean(0) - 0.25).abs() < 5 * error).all())
    assert bool((infos.mask <= infos.losses.isfinite()).all()) and int(infos.losses.isfinite().sum()) == 4 * len(every)


def test_the_second_score_sees_what_is_left_alone_in_batches_of_one_size():
    asked = []

    def dear(params, batch):
        asked.append(batch["id"].tolist())
        return batch["dear"]

    sifter = ps.sifter(ps.cascade(by("cheap"), dear, keep=0.4), ps.uniform(1.0), batch_size=4)
    assert not bool(sifter.init(ps.key(0), next(pools())).rule)  # a rule that wants no score is given none
    sifter = ps.sifter(ps.cascade(by("cheap"), dear, keep=0.4), ps.relative(keep=0.5), batch_size=2)
    stream = ps.sift(sifter, sifter.init(ps.key(0), next(pools())), {}, ps.epochs(list(pools()), 1))
    infos = [one.info for one in stream] + [stream.info]
    assert [len(ids) for ids in asked] == [4] * 6
    seen = torch.cat([info.losses for info in infos])
    assert seen.isfinite().nonzero()[:, 0].tolist() == list(itertools.chain(*asked))
    kept, probs = torch.cat([info.mask for info in infos]), torch.cat([info.odds.probs for info in infos])
    assert not bool(kept[seen.isnan()].any()) and not bool(probs[seen.isnan()].any())


@pytest.mark.parametrize(
    ("first", "name"), [*(("score", name) for name in RULES), ("recalled", "hold"), ("probed", "hold")]
)
def test_it_is_pure_compiles_in_one_frame_maps_over_states_and_resumes(first, name):
    both = ps.cascade(FIRST[first](), by("dear"), keep=0.6, floor=0.3)
    sifter = ps.sifter(both, RULES[name](), batch_size=3, draw=ps.systematic)
    given = list(pools())
    states = [sifter.init(ps.key(3), given[0])]
    torch._dynamo.reset()
    compiled = torch.compile(sifter.step, fullgraph=True, backend="aot_eager")
    for pool in given[:3]:
        with laws.untouched(states[-1], pool):
            after, info = sifter.step(states[-1], {}, pool)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert laws.equal(compiled(states[-1], {}, pool), (after, info))
        laws.same_layout(states[-1], after)
        while bool(ps.full(after.buffer)):
            after, _ = sifter.take(after)
        states.append(after)
    together = torch.func.vmap(sifter.step, in_dims=(0, None, None))(laws.stack(*states), {}, given[0])
    for row, state in enumerate(states):
        for one, many in zip(laws.leaves(sifter.step(state, {}, given[0])), laws.leaves(together), strict=True):
            assert torch.equal(many.expand(4, *one.shape)[row].nan_to_num(7.5), one.nan_to_num(7.5))
    ps.testing.assert_resumes(
        lambda state: ps.sift(sifter, state or sifter.init(ps.key(3), given[0]), {}, ps.epochs(given, 1))
    )


def test_a_remembered_loss_thins_by_what_training_and_the_second_score_have_told():
    model, rows = net(), data(32)
    batch = {"x": rows.tensors[0], "y": rows.tensors[1], "id": torch.arange(32)}
    live = ps.batched(model, lambda model, batch: cross_entropy(model, (batch["x"], batch["y"])))
    sifter = ps.sifter(ps.cascade(ps.recalled(32), live, keep=0.5), ps.importance(keep=0.5), batch_size=8)
    state = sifter.init(ps.key(0), batch)
    assert bool(state.score.first.losses.isnan().all())
    stream = ps.sift(sifter, state, ps.live(model), ps.epochs([batch], 40))
    first = next(stream)
    known = first.state.score.first.losses
    told = first.info.losses.isfinite().nonzero()[:, 0]
    assert torch.equal(known[told], first.info.losses[told]) and len(told) == int(known.isfinite().sum())
    stream.observe(torch.full((8,), 100.0))
    assert int((stream.state.score.first.losses == 100).sum()) == 8
    for _ in stream:
        pass
    assert bool(stream.state.score.first.losses.isfinite().all())

    hard = torch.arange(32) % 4 == 0  # as training may have found
    state = sifter.observe(state, batch, torch.where(hard, 10.0, 0.1))
    info = sifter.step(state, ps.live(model), batch)[1]
    assert int(info.losses.isfinite().sum()) == 16 and bool(info.losses[hard].isfinite().all())


def test_a_state_with_a_cascade_is_saved_and_loaded():
    sifter, pool = build(RULES["relative"]()), next(pools())
    state, _ = sifter.step(sifter.init(ps.key(0), pool), {}, pool)
    flat = ps.state_dict(state)
    assert laws.equal(ps.load_state_dict(sifter.init(ps.key(9), pool), flat), state)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.cascade(by("cheap"), by("dear"), keep=0.0), r"keep"),
        (lambda: ps.cascade(by("cheap"), by("dear"), floor=0.0), r"never come; pass floor=0\.1"),
        (lambda: ps.cascade(by("cheap"), by("dear"), bias=-1), r"bias"),
        (lambda: ps.cascade(None, by("dear")), r"the first score is None; pass score\(params, batch\)"),
        (lambda: ps.cascade(ps.cascade(by("a"), by("b")), by("dear")), r"the first score is itself a cascade"),
        (lambda: build(RULES["hold"](), ranks="global"), r'ranks="global" has one for all; leave out either'),
        (
            lambda: ps.chunked(ps.cascade(by("cheap"), by("dear")), 4)({}, next(pools())),
            r"in ps\.sifter alone; pass one",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(make, words):
    with pytest.raises(ps.SiftError, match=words):
        make()


def test_scores_that_know_nothing_or_are_not_finite():
    """NaN in the first score counts as the largest; in the second it is an error, as everywhere."""
    pool = next(pools())
    pool["cheap"] = torch.tensor([torch.nan] * 2 + [1.0] + [1e-6] * 7)
    sifter = build(RULES["importance"]())
    for seed in range(20):
        _, info = sifter.step(sifter.init(ps.key(seed), pool), {}, pool)
        assert bool(info.losses[:3].isfinite().all())
    pool["dear"] = torch.full((10,), torch.inf)
    with pytest.raises(ps.SiftError, match="6 of 10 losses in pool 0 are NaN or infinite"):
        next(ps.sift(sifter, sifter.init(ps.key(0), pool), {}, [pool]))
