"""Prioritizers: laws of drawing ids from a table of losses, over every rule and wrapper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from puresift import draws, keys
from puresift.order import SORTED_UP_TO, total
from puresift.prioritizers import drawing, left, next_batch
from puresift.rules import planning
from tests import laws
from tests.laws import MEMBERS
from tests.strategies import seeds

SIZE, ROWS, EVERY = 40, 4, 3  # samples, rows in a batch, batches in a draw
members = pytest.mark.parametrize("name", MEMBERS)
plain = {"size": SIZE, "batch_size": ROWS, "every": EVERY}


def build(name="importance", **settings):
    return ps.prioritizer(MEMBERS[name]().rule, **{"columns": laws.columns(SIZE), **plain, **settings})


def warmed(prioritizer, rounds=3, seed=0):
    """A state after some draws and observations."""
    state = prioritizer.init(ps.key(seed))
    if not prioritizer.plan.start:
        state = state._replace(losses=keys.uniform(ps.key(seed + 5), SIZE))
    for number in range(rounds):
        state, ids, _ = prioritizer.draw(state)
        for row, batch in enumerate(ids):
            losses = keys.uniform(keys.fold_in(ps.key(seed + 7), number * EVERY + row), len(batch))
            state = prioritizer.observe(state, batch, losses)
    return state


def many_draws(prioritizer, state, rounds):
    """The ids and weights of the first draws from one table: mapped, which takes a fraction of the time of a loop."""

    def draw(number):
        return prioritizer.draw(state._replace(draws=number))[1:]

    ids, weights = torch.func.vmap(draw)(torch.arange(rounds))
    for number in (0, rounds - 1):
        assert laws.equal((ids[number], weights[number]), draw(torch.tensor(number)))
    return ids, weights


@members
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_draw_and_observe_are_pure(name, start):
    prioritizer = build(name, start=start, steps=40)
    state = warmed(prioritizer)
    with laws.untouched(state):
        after, ids, weights = prioritizer.draw(state)
        again = prioritizer.draw(state)
        seen = prioritizer.observe(state, ids[0], weights[0])
    assert laws.equal((after, ids, weights), again)
    laws.same_layout(state, after)
    laws.same_layout(state, seen)
    assert ids.shape == weights.shape == (EVERY, ROWS)
    assert bool(((ids >= 0) & (ids < SIZE)).all())
    assert bool((weights > 0).all()) and bool(weights.isfinite().all())


@given(size=st.integers(1, 30), rows=st.integers(1, 9), every=st.integers(1, 5), start=st.integers(0, 3), seed=seeds)
def test_each_id_of_the_first_passes_comes_exactly_once(size, rows, every, start, seed):
    prioritizer = ps.prioritizer(ps.uniform(1.0), size=size, batch_size=rows, every=every, start=start)
    state, drawn = prioritizer.init(ps.key(seed)), []
    while len(drawn) < start * size:
        state, ids, _ = prioritizer.draw(state)
        drawn += ids.flatten().tolist()
    for number in range(start):
        assert sorted(drawn[number * size : (number + 1) * size]) == list(range(size))


@given(steps=st.integers(1, 60), end=st.sampled_from([0.0, 0.15, 0.5, 0.9]), seed=seeds)
def test_the_last_share_of_a_known_budget_is_everything_again(steps, end, seed):
    rule = ps.top(keep=0.025)  # of what is known, one id alone
    prioritizer = ps.prioritizer(rule, start=0.0, steps=steps, end=end, **plain)
    state, drawn = prioritizer.init(ps.key(seed)), []
    state = state._replace(losses=torch.arange(float(SIZE)))
    while len(drawn) < steps:
        state, ids, _ = prioritizer.draw(state)
        drawn += ids.tolist()
    first = steps - round(end * steps)
    ruled, last = drawn[:first], sum(drawn[first:steps], [])
    assert all(batch == [SIZE - 1] * ROWS for batch in ruled)
    for part in range(0, len(last), SIZE):
        assert len(set(last[part : part + SIZE])) == len(last[part : part + SIZE])


@pytest.mark.parametrize("draw", [ps.systematic, ps.bernoulli], ids=["systematic", "bernoulli"])
def test_an_id_is_drawn_as_often_as_planned(draw):
    losses = torch.tensor([0.0, 0.1, 0.1, 0.4, 1.0, 4.0])
    rule = ps.importance(keep=0.5, floor=0.1, bias=0.0)
    prioritizer = ps.prioritizer(rule, size=6, batch_size=4, every=2, start=0.0, draw=draw)
    state, counts, rounds = prioritizer.init(ps.key(3))._replace(losses=losses), torch.zeros(6), 4000
    planned = rule.select(rule.init(), losses)[1].probs
    planned = 8 * planned / planned.sum()
    ids, _ = many_draws(prioritizer, state, rounds)
    for one in ids.flatten(1):
        count = one.bincount(minlength=6).float()
        if draw is ps.systematic:
            assert bool(((count - planned).abs() < 1).all())  # the floor or the ceiling of the plan
        counts += count
    assert bool(((counts / rounds - planned).abs() < 4.5 * (planned / rounds).sqrt()).all())


def test_weights_keep_the_mean_unbiased():
    losses = torch.tensor([0.1, 0.2, 0.4, 1.0, 4.0, 0.3, 0.7])
    prioritizer = ps.prioritizer(ps.importance(0.5, floor=0.2, bias=1.0), size=7, batch_size=5, every=1, start=0.0)
    state = prioritizer.init(ps.key(0))._replace(losses=losses)
    ids, weights = many_draws(prioritizer, state, 3000)
    torch.testing.assert_close((weights * losses[ids]).flatten(1).mean(1).mean(), losses.mean(), rtol=0.01, atol=0.0)


@given(st.data())
def test_the_table_holds_the_last_loss_of_each_id(data):
    """Against a dict, in any order of draws and observations, with ids that come twice and batches that are short."""
    prioritizer = build("uniform", every=2)
    state, known, value = prioritizer.init(ps.key(data.draw(seeds))), {}, 0.0
    for draws_now in data.draw(st.lists(st.booleans(), max_size=12)):
        if draws_now:
            state, _, _ = prioritizer.draw(state)
            continue
        ids = data.draw(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=ROWS))
        value += 1.0
        losses = torch.arange(float(len(ids))) / 8 + value
        state = prioritizer.observe(state, torch.tensor(ids), losses)
        known |= dict(zip(ids, losses.tolist(), strict=True))
    table = prioritizer.draw(state)[0].losses
    assert {id: loss for id, loss in enumerate(table.tolist()) if loss == loss} == known


@members
def test_vmap_over_states_is_a_loop(name):
    prioritizer = build(name, steps=9)
    states = [warmed(prioritizer, rounds, seed) for rounds, seed in ((0, 3), (2, 4), (5, 5))]
    together = laws.stack(*states)
    mapped = torch.func.vmap(prioritizer.draw)(together)
    losses = torch.rand(ROWS, generator=torch.Generator().manual_seed(0))
    seen = torch.func.vmap(prioritizer.observe, in_dims=(0, 0, None))(together, together.ids[:, 0], losses)
    for row, state in enumerate(states):
        for tree, expected in (
            (mapped, prioritizer.draw(state)),
            (seen, prioritizer.observe(state, state.ids[0], losses)),
        ):
            for one, many in zip(laws.leaves(expected), laws.leaves(tree), strict=True):
                assert torch.equal(many[row].nan_to_num(7.5), one.nan_to_num(7.5))


@pytest.mark.parametrize("name", ["importance", "relative", "by_group", "unbiased", "gate"])
def test_draw_and_observe_compile_in_one_frame(monkeypatch, name):
    if name != "importance":  # the rounds of a shuffle are alike and most of what is compiled: all of them once
        monkeypatch.setattr(keys, "_SWAPS", 3)
    prioritizer = build(name, steps=12)
    state = warmed(prioritizer, 1)
    torch._dynamo.reset()
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    draw = torch.compile(prioritizer.draw, fullgraph=True, backend=counters[0])
    observe = torch.compile(prioritizer.observe, fullgraph=True, backend=counters[1])
    for _ in range(4):
        expected = prioritizer.draw(state)
        assert laws.equal(draw(state), expected)
        state, ids, weights = expected
        for batch in ids:
            assert laws.equal(observe(state, batch, weights[0]), prioritizer.observe(state, batch, weights[0]))
            state = prioritizer.observe(state, batch, weights[0])
    assert [counter.frame_count for counter in counters] == [1, 1]


@given(size=st.integers(1, 200), seed=seeds, first=st.integers(0, 2000))
def test_passes_are_permutations(size, seed, first):
    places = torch.arange(first * size, (first + 2) * size)
    for one in keys.passes(ps.key(seed), places, size).split(size):
        assert sorted(one.tolist()) == list(range(size))


@given(seed=seeds, number=st.integers(0, 2**62))
def test_a_coin_is_the_same_in_python_and_in_tensors(seed, number):
    numbers = torch.tensor([number, 7])
    mapped = torch.func.vmap(keys.coin, in_dims=(None, 0))(ps.key(seed), numbers)
    assert [int(keys.coin(ps.key(seed), one)) for one in numbers] == mapped.tolist()
    assert 0 <= int(mapped[0]) < 2**62


def test_passes_are_shuffled_evenly():
    """Places and differences of neighbours, by chi-square: 24 rounds are enough."""
    size, rounds = 12, 6000
    many = torch.stack([ps.key(seed) for seed in range(rounds)])
    orders = torch.func.vmap(lambda key: keys.passes(key, torch.arange(size), size))(many)
    counts = torch.stack([column.bincount(minlength=size) for column in orders.T])
    steps = ((orders[:, 1] - orders[:, 0]) % size).bincount(minlength=size)[1:]
    for found, cells in ((counts, counts.numel()), (steps, size - 1)):
        expected = found.sum() / cells
        assert float(((found - expected) ** 2 / expected).sum()) / cells < 1.5


@given(seed=seeds, share=st.floats(0.01, 1.2), zeros=st.integers(0, 3))
def test_large_pools_are_filled_without_a_sort_as_with_one(seed, share, zeros):
    scores = keys.uniform(ps.key(seed), SORTED_UP_TO + 9).double() ** 4
    scores = torch.where(keys.uniform(ps.key(seed ^ 1), len(scores)) < zeros / 4, 0.0, scores)
    large = planning.fill(scores, share * len(scores))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SORTED_UP_TO", len(scores))
        patch.setattr("puresift.order.SORTED_UP_TO", len(scores))
        torch.testing.assert_close(large, planning.fill(scores, share * len(scores)), rtol=1e-5, atol=1e-6)
    order = scores.argsort()
    assert torch.equal(total(scores), total(scores[order]))
    assert torch.equal(planning.fill(scores[order], share * len(scores)), large[order])


def test_numbers_under_even_marks_are_those_of_the_running_sum():
    weights = torch.tensor([0.5, 0.0, 1.5, 2.0])
    for seed in range(50):
        assert draws.spaced(ps.key(seed), torch.tensor(1), weights, 4).bincount(minlength=4).tolist() in (
            [0, 0, 2, 2],
            [1, 0, 1, 2],
            [1, 0, 2, 1],
        )


@given(seed=seeds, size=st.integers(1, 60), num=st.integers(1, 90), piece=st.integers(1, 25), power=st.integers(0, 30))
def test_numbers_found_piece_by_piece_are_those_of_one_search(seed, size, num, piece, power):
    weights = keys.uniform(ps.key(seed), size) ** power
    weights = torch.where(keys.uniform(ps.key(seed ^ 1), size) < 0.3, 0.0, weights)
    weights[seed % size] = 1.0
    numbers = torch.arange(3)
    searched = torch.func.vmap(draws.spaced, in_dims=(None, 0, None, None))(ps.key(seed), numbers, weights, num)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "PIECE", piece)
        pieces = torch.stack([draws.spaced(ps.key(seed), number, weights, num) for number in numbers])
    assert torch.equal(pieces, searched)


@given(seed=seeds, piece=st.integers(50, SORTED_UP_TO))
def test_a_total_of_pieces_is_that_of_the_whole(seed, piece):
    values = keys.uniform(ps.key(seed), SORTED_UP_TO + 9) - 0.25
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("puresift.order.PIECE", piece)
        assert torch.equal(total(values), torch.compile(total, backend="eager")(values))


def test_batches_one_by_one_are_the_rows_of_draws():
    prioritizer = build(start=0.0)
    ahead, ids, weights = prioritizer.draw(warmed(prioritizer)._replace(step=torch.tensor(3 * EVERY)))
    second, more, _ = prioritizer.draw(ahead)
    state, batches, counts = ahead, [], []
    for number in range(2 * EVERY):
        counts.append(left(state))
        with laws.untouched(state):
            state, batch, odds = next_batch(prioritizer, state, counts[-1])
        batches.append(batch)
        if number < EVERY:
            assert torch.equal(odds.weights, weights[number]) and torch.equal(odds.probs, ahead.odds.probs[number])
    assert counts == [3, 2, 1, 0, 2, 1]  # nothing is drawn while something is left
    assert torch.equal(torch.stack(batches), torch.cat([ids, more]))
    assert laws.equal(state, second._replace(step=torch.tensor(5 * EVERY)))


def test_numbers_that_are_not_held_are_those_that_are():
    states = []
    for held in (0, SIZE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing, "_HELD", held)
            prioritizer = build("cover", start=0.0)
        assert (prioritizer.draw.args[0].held is None) == (not held)
        states.append(warmed(prioritizer))
    assert laws.equal(*states)


def test_the_losses_of_many_models_are_observed_for_one_batch():
    prioritizer = build("uniform")
    state, ids, _ = prioritizer.draw(prioritizer.init(ps.key(0)))
    losses = torch.rand((3, ROWS), generator=torch.Generator().manual_seed(0))
    seen = torch.func.vmap(prioritizer.observe, in_dims=(None, None, 0))(state, ids[0], losses)
    for row, one in enumerate(losses):
        assert torch.equal(seen.waiting_losses[row], prioritizer.observe(state, ids[0], one).waiting_losses)


def first(**settings):
    prioritizer = build(**settings)
    return prioritizer, prioritizer.init(ps.key(0))


def observed(ids, losses):
    prioritizer, state = first()
    return prioritizer.observe(state, torch.tensor(ids), torch.tensor(losses))


BAD = {
    "size": (lambda: build(size=0, columns=None), "size must be a whole number >= 1"),
    "batch size": (lambda: build(batch_size=2.5), "batch_size must be a whole number"),
    "end": (lambda: build(end=1.0), r"end must be in \[0, 1\)"),
    "start": (lambda: build(start=-1), "start must be in"),
    "draw": (lambda: build(draw=torch.rand), "draw must be ps.systematic or ps.bernoulli"),
    "dtype": (lambda: build(dtype=torch.int64), "must be a floating-point type"),
    "column": (lambda: ps.prioritizer(ps.top(0.5), columns={"group": torch.zeros(3)}, **plain), "one entry a sample"),
    "ids too large": (lambda: observed([0, SIZE], [1.0, 1.0]), rf"ids must lie in \[0, {SIZE}\), got {SIZE}"),
    "ids below 0": (lambda: observed([-1], [1.0]), "got -1"),
    "too many": (lambda: observed([0] * 5, [1.0] * 5), "up to 4 of them"),
    "other shapes": (lambda: observed([0, 1], [1.0]), r"got losses \[1\] for ids \[2\]"),
    "a reduced loss": (lambda: observed([0, 1], 1.0), 'pass reduction="none"'),
    "NaN": (lambda: observed([0, 1], [1.0, float("nan")]), "1 of 2 losses observed are NaN or infinite"),
    "p = 0": (
        lambda: (lambda p: p.draw(p.init(ps.key(0))))(ps.prioritizer(ps.threshold(2.0), start=0.0, **plain)),
        "gives p = 0 to every sample",
    ),
    "no column": (
        lambda: (lambda p: p.draw(p.init(ps.key(0))))(
            ps.prioritizer(ps.by_group(ps.top(0.5), groups=2), start=0.0, **plain)
        ),
        "needs the column 'group'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_words(name):
    act, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        act()
