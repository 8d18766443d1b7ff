"""Scores that remember: what they save, what they are fed, and what they refuse."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.ids import newest
from tests import laws
from tests.strategies import cross_entropy, data, net


def batch(ids, x=None):
    ids = torch.as_tensor(ids)
    return {"x": ids.float() if x is None else torch.as_tensor(x), "id": ids}


class Counting:
    """A score that notes how many rows it is asked for; a loss of its own each time."""

    def __init__(self):
        self.rows = []

    def __call__(self, params, batch):
        self.rows.append(len(batch["x"]))
        return batch["x"] + len(self.rows)


def test_a_known_loss_runs_no_forward_until_it_is_too_old():
    score = Counting()
    memory = ps.remembered(score, 10, every=2)
    state = memory.observe(memory.init(), batch([2, 4, 6]), torch.tensor([0.2, 0.4, 0.6]))  # even ids: age 0
    for visit in range(2):
        state, losses = memory.apply(state, {}, batch([4, 2]))
        assert losses.tolist() == pytest.approx([0.4, 0.2])
        assert state.ages[[4, 2]].tolist() == [visit + 1] * 2
    assert score.rows == []
    state, losses = memory.apply(state, {}, batch([4, 2, 6]))
    assert score.rows == [2], "6 was not visited, so an epoch has not passed for it"
    assert losses.tolist() == pytest.approx([5.0, 3.0, 0.6])
    assert state.ages[[4, 2, 6]].tolist() == [0, 0, 1]


def test_training_losses_renew_what_is_remembered():
    score = Counting()
    memory = ps.remembered(score, 4, every=1)
    state = memory.init()
    for _ in range(5):
        state = memory.observe(state, batch([0, 1]), torch.tensor([0.5, 0.7]))
        state, losses = memory.apply(state, {}, batch([1, 0]))
        assert losses.tolist() == pytest.approx([0.7, 0.5])
    assert score.rows == []


@given(every=st.integers(1, 4), seed=st.integers(0, 99), visits=st.integers(0, 6))
def test_where_the_age_is_zero_the_loss_is_the_live_one(every, seed, visits):
    model = net()
    live = ps.batched(model, cross_entropy)
    for gather in (True, False):
        memory = ps.remembered(live, laws.SAMPLES, every=every, id=laws.last, gather=gather)
        state = memory.init()
        for visit in range(visits + 1):
            params, pool = ps.live(net(visit))(), laws.candidates(24, seed + visit % 2)
            state, losses = memory.apply(state, params, pool)
            fresh = state.ages[pool[2]] == 0
            torch.testing.assert_close(losses[fresh], live(params, pool)[fresh], rtol=1e-5, atol=1e-6)


def test_gathered_and_fixed_shapes_agree():
    live = ps.batched(net(), cross_entropy)
    two = [ps.remembered(live, laws.SAMPLES, every=2, id=laws.last, gather=gather) for gather in (True, False)]
    states = [memory.init() for memory in two]
    for visit in range(6):
        params, pool = ps.live(net(visit))(), laws.candidates(24, visit % 3)
        answers = [memory.apply(state, params, pool) for memory, state in zip(two, states, strict=True)]
        torch.testing.assert_close(answers[0][1], answers[1][1])
        states = [memory.observe(state, pool, values) for memory, (state, values) in zip(two, answers, strict=True)]
        assert torch.equal(states[0].ages, states[1].ages)


def fractions(every, keep, epochs, *, size=1920, easy=False):
    """The share of rows scored in each epoch, after a first epoch of training on everything."""
    score = Counting()
    memory = ps.remembered(score, size, every=every)
    state, shares = memory.observe(memory.init(), batch(torch.arange(size)), torch.zeros(size)), []
    for epoch in range(epochs):
        score.rows = []
        order = ps.keys.uniform(ps.key(epoch), size).argsort()
        luck = ps.keys.uniform(ps.key(1000 + epoch), size)
        kept = (torch.arange(size) % 100 < 100 * keep) if easy else luck < keep  # always the same, or by chance
        for ids in order.split(64):
            state, _ = memory.apply(state, {}, batch(ids))
            some = ids[kept[ids]]
            state = memory.observe(state, batch(some), torch.zeros(len(some)))
        shares.append(sum(score.rows) / size)
    return shares


@pytest.mark.parametrize("easy", [False, True], ids=["kept by chance", "always the same kept"])
@pytest.mark.parametrize("keep", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_over_any_epochs_it_scores_at_most_what_was_not_kept_once(every, keep, easy):
    shares = fractions(every, keep, 4 * every, easy=easy)
    for at in range(len(shares) - every + 1):
        assert sum(shares[at : at + every]) / every <= (1 - keep) / every + 0.005 + 0.02 * (not easy)
    if not easy:
        assert sum(shares) / len(shares) <= (1 - keep) / every + 0.005


def test_rows_never_grow_old_all_in_one_epoch():
    shares = fractions(4, 0.5, 20, easy=True)  # half of the rows are never kept
    assert max(shares) < 0.5 / 4 + 0.01
    assert sum(share > 0 for share in shares) >= 15


def test_within_a_stream_only_rows_that_were_not_kept_are_scored_again():
    model, rows = net(norm=False), []
    dataset = ps.with_ids(data(96))
    loader = torch.utils.data.DataLoader(dataset, 16, collate_fn=dataset.collate)
    live = ps.batched(model, cross_entropy)

    def counted(params, batch):
        rows.append(len(batch[0]))
        return live(params, batch)

    score = ps.remembered(counted, 96, every=2, id=laws.last)
    sifter = ps.sifter(score, ps.delay(ps.relative(keep=0.5), steps=6), batch_size=8)
    stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), ps.live(model), ps.epochs(loader, 9))
    for batch_, _, _, _ in stream:
        stream.observe(cross_entropy(model, batch_))
    assert sum(rows) / (8 * 96) <= 0.5 / 2 + 0.005


def test_non_finite_losses_count_as_missing():
    score = Counting()
    memory = ps.remembered(score, 4, every=9)
    state = memory.observe(memory.init(), batch([1, 2]), torch.tensor([torch.inf, torch.nan]))
    assert bool(state.losses.isnan().all())
    memory.apply(state, {}, batch([1, 2]))
    assert score.rows == [2]


@given(ids=st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_of_rows_with_one_id_the_last_is_written(ids):
    memory = ps.remembered(Counting(), 6, every=3)
    state = memory.observe(memory.init(), batch(ids), torch.arange(len(ids)).float())
    for position, id in enumerate(ids):
        assert int(newest(torch.tensor(ids))[position]) == len(ids) - 1 - ids[::-1].index(id)
        assert state.losses[id] == len(ids) - 1 - ids[::-1].index(id)


def test_change_counts_the_visits_of_each_sample():
    seen = {0: [3.0, 1.0, 0.5, 0.5], 1: [2.0, 2.5]}
    first, second = (ps.change(lambda params, batch: batch["x"], 2, order=order) for order in (1, 2))
    states, got = [first.init(), second.init()], {0: [], 1: []}
    for id, visit in [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]:
        pool = batch([id], [seen[id][visit]])
        states[0], one = first.apply(states[0], {}, pool)
        states[1], two = second.apply(states[1], {}, pool)
        got[id].append((float(one), float(two)))
    assert got[0] == [(3.0, 3.0), (2.0, 2.0), (0.5, 1.5), (0.0, 0.5)]
    assert got[1] == [(2.0, 2.0), (0.5, 0.5)]


def test_reducible_against_a_reference_model():
    model, other, pool = net(1), net(2), data(16).tensors
    loss = functools.partial(ps.batched, loss=cross_entropy)
    reference = functools.partial(loss(other), ps.live(other))
    score = ps.reducible(loss(model), reference)
    values = score.apply(score.init(), ps.live(model), pool)[1]
    torch.testing.assert_close(values, loss(model)(ps.live(model), pool) - loss(other)(ps.live(other), pool))


def test_combined_scores_pass_training_losses_on():
    memory = ps.remembered(Counting(), 4, every=3)
    score = ps.total(memory, lambda params, batch: batch["x"] * 0, ps.change(memory, 4))
    state = score.observe(score.init(), batch([1]), torch.tensor([0.25]))
    assert float(state.parts[0].losses[1]) == float(state.parts[2].inner.losses[1]) == 0.25
    assert ps.total(lambda params, batch: batch["x"]).observe is None


def test_rank_mix_shows_non_finite_losses():
    score = ps.rank_mix(lambda params, x: x, lambda params, x: x * 0)
    values = score.apply(score.init(), {}, torch.tensor([1.0, torch.nan, torch.inf]))[1]
    assert values.isfinite().tolist() == [True, False, False]


def test_batches_of_text_can_be_gathered():
    def score(params, batch):
        return torch.tensor([float(len(text)) for text in batch["text"]])

    memory = ps.remembered(score, 5, every=3)
    state = memory.observe(memory.init(), {"id": torch.tensor([1])}, torch.tensor([9.0]))
    losses = memory.apply(state, {}, {"text": ["a", "bb", "ccc"], "id": torch.tensor([0, 1, 2])})[1]
    assert losses.tolist() == [1.0, 9.0, 3.0]


def test_an_empty_pool_is_fine():
    memory = ps.remembered(Counting(), 4, every=1)
    assert memory.apply(memory.init(), {}, batch(torch.zeros(0, dtype=torch.int64)))[1].shape == (0,)


MEMORY = ps.remembered(Counting(), 4, every=1)
CHANGE = ps.change(Counting(), 4)
TABLE = ps.reducible(Counting(), torch.zeros(4), size=4)


@pytest.mark.parametrize("score", [MEMORY, CHANGE, TABLE], ids=["remembered", "change", "reducible"])
@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (batch([0, 4]), r"ids must lie in \[0, 4\), got 4; pass size=len\(dataset\)"),
        (batch([-1, 2]), r"ids must lie in \[0, 4\), got -1"),
        ({"x": torch.zeros(2)}, r"the batch carries no ids: add them with ps.with_ids\(dataset\)"),
        (batch([0.0, 1.0]), r"ids must be whole numbers of shape \[2\], one a row, got torch.float32\[2\]"),
        ({"x": torch.zeros(2), "id": torch.zeros(2, 1).long()}, r"of shape \[2\], one a row, got torch.int64\[2, 1\]"),
    ],
    ids=["beyond", "negative", "none", "float", "two-dimensional"],
)
def test_bad_ids_are_refused(score, pool, words):
    with pytest.raises(ValueError, match=words):
        score.apply(score.init(), {}, pool)
    if score is MEMORY:
        with pytest.raises(ValueError, match=words):
            score.observe(score.init(), pool, torch.zeros(2))


def test_repeated_ids_in_a_pool_are_refused():
    with pytest.raises(ValueError, match="2 rows of the pool repeat the id of another row; number every sample"):
        MEMORY.apply(MEMORY.init(), {}, batch([1, 2, 1, 1]))


def test_observing_without_ids_is_refused_through_the_sifter():
    sifter = ps.sifter(MEMORY, ps.top(keep=0.5), batch_size=2)
    state = sifter.init(ps.key(0), batch([0, 1]))
    with pytest.raises(ValueError, match="the batch carries no ids"):
        sifter.observe(state, {"x": torch.zeros(2)}, torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.remembered(Counting(), 0, every=1), "size must be a whole number >= 1"),
        (lambda: ps.remembered(Counting(), 4, every=0), "every must be a whole number >= 1"),
        (lambda: ps.remembered(MEMORY, 4, every=1), "put remembered innermost"),
        (lambda: ps.change(Counting(), 4, order=3), "order must be 1 or 2, the first or the second difference, got 3"),
        (lambda: ps.reducible(Counting(), torch.zeros(3), size=4), r"each of the 4 samples, shape \[4\], got \[3\]"),
        (lambda: ps.reducible(Counting(), torch.zeros(3)), r"needs size=len\(dataset\)"),
        (lambda: ps.reducible(Counting(), torch.tensor([0, torch.nan]), size=2), "1 of 2 irreducible losses are NaN"),
        (lambda: ps.total(), "no score to combine"),
        (lambda: ps.grad_norm(net(), cross_entropy, only=lambda name: False), "no parameter counts: choose by only="),
        (lambda: ps.grad_norm(net(), cross_entropy, chunk=0), "chunk must be a whole number >= 1"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
