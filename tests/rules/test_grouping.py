"""Rules that know a row's group, or how often it came."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, data, net, seeds

FRACTIONS = ["proportional", "equal", "balanced", "loss"]


@given(seed=seeds, sizes=st.lists(st.integers(0, 6), min_size=3, max_size=3).filter(any))
def test_other_groups_never_influence_a_group(seed, sizes):
    """Whatever the losses of the others, now and before: the same probabilities and the same state, bit for bit."""
    rule = ps.by_group(ps.relative(keep=0.5, history=64), groups=3)
    group = torch.tensor(sum(([g] * n for g, n in enumerate(sizes)), []))
    mine = group == 1
    one = other = rule.init()
    for t in range(3):
        losses = ps.keys.uniform(ps.keys.fold_in(ps.key(seed), t), len(group))
        foreign = torch.where(mine, losses, 100 * losses + t)
        one, odds = rule.select(one, losses, group=group)
        other, others = rule.select(other, foreign, group=group)
        assert torch.equal(odds.probs[mine], others.probs[mine])
        assert torch.equal(one.inner.history[1], other.inner.history[1])
        assert torch.equal(one.inner.seen, torch.tensor([(n > 0) * (t + 1) * len(group) for n in sizes]))


def test_one_group_is_the_rule_itself():
    plain, pool = ps.relative(keep=0.3, history=64), ps.keys.uniform(ps.key(0), 16)
    rule = ps.by_group(plain, groups=1)
    state, inner = rule.init(), plain.init()
    for _ in range(3):
        state, odds = rule.select(state, pool, group=torch.zeros(16, dtype=torch.int64))
        inner, expected = plain.select(inner, pool)
        assert laws.equal(odds, expected)


def test_a_group_meets_its_rule_in_a_pool_as_long_as_the_whole_one():
    """Its own losses in ascending order, each repeated evenly, also where its rows do not divide the pool."""
    plain, sizes = ps.relative(beta=2.0, history=64), (3, 7, 1)
    rule, group = ps.by_group(plain, groups=3), torch.tensor([0] * 3 + [1] * 7 + [2])
    state, inner = rule.init(), [plain.init() for _ in sizes]
    for t in range(3):
        pool = ps.keys.uniform(ps.key(t), 11)
        state, odds = rule.select(state, pool, group=group)
        for g, n in enumerate(sizes):
            rows = sorted(pool[group == g].tolist())
            stretched = [rows[i * n // 11] for i in range(11)]
            inner[g], expected = plain.select(inner[g], torch.tensor(stretched))
            known = dict(zip(stretched, expected.probs.tolist(), strict=True))
            assert odds.probs[group == g].tolist() == [known[x] for x in pool[group == g].tolist()]


def test_a_group_is_ranked_among_its_own():
    """One class has ten times the losses of the other: the plain rule drops the easy one, groups keep half of both."""
    pool = ps.keys.uniform(ps.key(0), 64)
    group = (torch.arange(64) % 4 == 0).long()
    losses = torch.where(group == 1, pool + 10, pool)
    plain = ps.relative(keep=0.5)
    _, odds = plain.select(plain.init(), losses)
    _, fair = (rule := ps.by_group(plain, groups=2)).select(rule.init(), losses, group=group)
    assert float(odds.probs[group == 1].mean()) > 0.85
    for g in (0, 1):
        assert float(fair.probs[group == g].mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("fractions", FRACTIONS)
@pytest.mark.parametrize(
    "rule", [ps.relative(keep=0.4), ps.top(keep=0.3), ps.prune(), ps.threshold(0.5), ps.importance(keep=0.5)]
)
def test_groups_divide_the_plan(rule, fractions):
    pool = torch.cat([ps.keys.uniform(ps.key(0), 48) + 0.1, 4 * ps.keys.uniform(ps.key(1), 12) + 0.1])
    group = torch.tensor([0] * 40 + [1] * 8 + [2] * 12)
    wrap = lambda how: ps.by_group(rule, groups=4, fractions=how)  # noqa: E731
    own = wrap("proportional").select(wrap("proportional").init(), pool, group=group)[1].probs.double()
    p = wrap(fractions).select(wrap(fractions).init(), pool, group=group)[1].probs.double()
    assert float(p.sum()) == pytest.approx(float(own.sum()), rel=1e-5)
    counts = torch.stack([p[group == g].sum() for g in range(3)])
    sizes = torch.tensor([40.0, 8.0, 12.0], dtype=torch.float64)
    fraction = counts / sizes
    if fractions == "equal":
        assert fraction.tolist() == pytest.approx([float(own.mean())] * 3, rel=1e-5)
    elif fractions == "balanced":
        filled = counts > sizes - 1e-4
        assert float((counts[~filled] - counts[~filled].mean()).abs().max()) < 1e-4
        assert bool((counts[filled] <= counts[~filled].max()).all())
    elif fractions == "loss":
        loss = torch.stack([pool[group == g].double().mean() for g in range(3)])
        ratio = (fraction / loss)[fraction < 1 - 1e-4]
        assert float((ratio / ratio.mean() - 1).abs().max()) < 1e-4


def test_the_rule_of_a_group_sees_the_columns_of_its_rows():
    """Here each row's id, and what it covers: with one epoch, rows that were never kept."""
    rule = ps.by_group(ps.cover(ps.top(keep=0.5), size=8, epochs=1), groups=2)
    group, ids = torch.arange(8) % 2, torch.arange(8).flip(0)
    _, odds = rule.select(rule.init(), torch.arange(8.0), group=group, id=ids)
    assert odds.probs.tolist() == [1.0] * 8
    with pytest.raises(ps.SiftError, match="needs the column 'id'"):
        rule.select(rule.init(), torch.arange(8.0), group=group)


def test_a_group_without_rows_waits():
    rule = ps.by_group(ps.delay(ps.top(keep=0.5), steps=1), groups=2)
    state, _ = rule.select(rule.init(), torch.arange(2.0), group=torch.tensor([0, 0]))
    assert state.inner.seen.tolist() == [1, 0]
    _, odds = rule.select(state, torch.arange(4.0), group=torch.tensor([0, 0, 1, 1]))
    assert odds.probs.tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("draw", [ps.bernoulli, ps.systematic])
@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_cover_keeps_every_sample_in_any_so_many_epochs(epochs, draw):
    size, rounds = 30, 12
    rule = ps.cover(ps.threshold(9.0), size=size, epochs=epochs)
    state, kept = rule.init(), torch.zeros(rounds, size, dtype=torch.bool)
    for epoch in range(rounds):
        order = ps.keys.uniform(ps.key(epoch), size).argsort()
        for at, ids in enumerate(order.split(7)):
            state, odds = rule.select(state, torch.zeros(len(ids)), id=ids)
            kept[epoch, ids] = draw(ps.keys.fold_in(ps.key(99), epoch * 100 + at), odds.probs)
    windows = kept.unfold(0, epochs, 1).any(-1)
    assert bool(windows.all())
    assert kept.sum(1).tolist() == [size // epochs] * rounds  # staggered, and nothing else is kept here


def test_cover_counts_an_id_that_comes_twice():
    rule = ps.cover(ps.threshold(9.0), size=2, epochs=4)
    state, due = rule.init(), []
    for _ in range(4):
        state, odds = rule.select(state, torch.zeros(2), id=torch.zeros(2, dtype=torch.int64))
        due.append(odds.probs.tolist())
    assert due == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert state.visits.tolist() == [8, 0, 0]


RULES = {
    "group": lambda: ps.by_group(ps.top(keep=0.5), groups=3),
    "id": lambda: ps.cover(ps.top(keep=0.5), size=3, epochs=2),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, 3], r"must be in \[0, 3\), got values from 0 to 3; number them from 0"),
        ([-1, 1, 2], r"must be in \[0, 3\), got values from -1 to 2"),
        ([0.0, 1.0, 2.0], r"must hold a whole number a row, Int\[3\], got torch.float32\[3\]"),
        ([True, False, True], "must hold a whole number a row"),
        ([0, 1], r"must hold a whole number a row, Int\[3\], got torch.int64\[2\]"),
    ],
)
def test_a_bad_column_is_refused(name, values, words):
    rule = RULES[name]()
    with pytest.raises(ValueError, match=f"the column '{name}' {words}"):
        rule.select(rule.init(), torch.zeros(3), **{name: torch.tensor(values)})


@pytest.mark.parametrize("name", RULES)
def test_a_missing_column_is_refused_and_the_cure_works(name):
    model, batch = net(), data(12).tensors
    for columns, rows in ((None, None), ({name: lambda batch: torch.arange(12) % 3}, 12)):
        sifter = ps.sifter(ps.batched(model, cross_entropy), RULES[name](), batch_size=4, columns=columns)
        state = sifter.init(ps.key(0), batch)
        if rows is None:
            with pytest.raises(ValueError, match=rf"needs the column '{name}', Int\[B\]: declare it with ps.sifter"):
                sifter.step(state, ps.live(model)(), batch)
        else:
            assert len(sifter.step(state, ps.live(model)(), batch)[1].mask) == rows


@pytest.mark.parametrize("name", RULES)
def test_where_values_cannot_be_read_unknown_rows_are_kept_and_counted(name):
    rule = RULES[name]()
    values = torch.tensor([0, 7, 1, -2])
    compiled = torch.compile(lambda state, losses: rule.select(state, losses, **{name: values}), backend="eager")
    state, odds = compiled(rule.init(), torch.arange(4.0))
    assert odds.probs[[1, 3]].tolist() == [1.0, 1.0]
    assert odds.weights[[1, 3]].tolist() == [1.0, 1.0]
    assert int(state.unknown if name == "group" else state.visits[-1]) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.by_group(ps.top(0.5), groups=0), "groups must be a whole number >= 1"),
        (lambda: ps.by_group(ps.top(0.5), groups=2, fractions="fair"), 'fractions must be "proportional", "equal"'),
        (lambda: ps.cover(ps.top(0.5), size=0, epochs=2), "size must be a whole number >= 1"),
        (lambda: ps.cover(ps.top(0.5), size=5, epochs=0), "epochs must be a whole number >= 1"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
