"""Large tables: the entries of a plain tensor, whatever lies beside it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift import tables
from tests import laws

SIZE = 40


@pytest.fixture
def small(monkeypatch):
    """Every table is a large one, with room for a few writes."""
    monkeypatch.setattr(tables, "LARGE", 1)
    monkeypatch.setattr(tables, "RECENT", 16)


@given(writes=st.lists(st.lists(st.integers(0, SIZE - 1), max_size=20), max_size=12))
def test_a_table_is_the_tensor_it_stands_for(writes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "LARGE", 1)
        patch.setattr(tables, "RECENT", 16)
        plain = torch.arange(SIZE) * 10
        table = tables.table(plain.clone())
    for number, ids in enumerate(writes):
        ids = torch.tensor(ids, dtype=torch.int64)
        entries = ids * 100 + number
        with laws.untouched(table):
            after = tables.write(table, ids, entries)
        laws.same_layout(table, after)
        table, plain = after, plain.index_copy(0, ids, entries)
        assert torch.equal(tables.values(table), plain)
        probe = ps.keys.words(ps.key(number), 30) % SIZE
        assert torch.equal(tables.read(table, probe), plain[probe])
        counted, before, later = tables.count(table, probe)
        expected = plain.index_add(0, probe, torch.ones_like(probe))
        assert torch.equal(before, plain[probe])
        assert torch.equal(later, expected[probe])
        assert torch.equal(tables.values(counted), expected)
        for one in (table, counted):  # what was written lately is in order, each id once, and then there is nothing
            held = one.ids[one.ids < SIZE]
            assert torch.equal(one.ids, torch.cat([held.unique(), torch.full((16 - len(held),), SIZE)]))
            assert not one.recent[len(held) :].any()


def pools(rounds=6):
    for number in range(rounds):
        yield from (ps.keys.uniform(ps.key(number), SIZE).argsort()).split(7)


def run(rounds=6):
    """A rule and a score that remember, over a few epochs: the answers, and the tables."""
    rule = ps.cover(ps.threshold(9.0), size=SIZE, epochs=3)
    score = ps.remembered(lambda params, batch: batch["x"], SIZE, every=2)
    ruled, scored, answers = rule.init(), score.init(), []
    for number, ids in enumerate(pools(rounds)):
        x = ps.keys.uniform(ps.key(number), len(ids))
        with laws.untouched(ruled, scored):
            ruled, odds = rule.select(ruled, x, id=ids)
            scored, losses = score.apply(scored, {}, {"x": x, "id": ids})
            scored = score.observe(scored, {"x": x[:3], "id": ids[:3]}, x[:3] + 1)
        answers.append((odds, losses))
    return answers, ruled, scored


def test_what_remembers_gives_the_same_with_large_tables(small, monkeypatch):
    answers, ruled, scored = run()
    assert isinstance(ruled.visits, tables.Table)
    assert isinstance(scored.losses, tables.Table)
    monkeypatch.setattr(tables, "LARGE", 1000)
    plain, visits, remembered = run()
    assert laws.equal(answers, plain)
    assert torch.equal(tables.values(ruled.visits), visits.visits)
    for name in ("losses", "ages"):
        assert laws.equal(tables.values(getattr(scored, name)), getattr(remembered, name))


def sifting():
    score = ps.remembered(lambda params, batch: batch["x"], SIZE, every=2)
    rule = ps.cover(ps.top(keep=0.5), size=SIZE, epochs=3)
    return ps.sifter(score, rule, batch_size=4, columns={"id": lambda batch: batch["id"]})


def test_states_of_large_tables_resume_and_those_saved_as_one_tensor_still_load(small, monkeypatch):
    batches = [{"x": ps.keys.uniform(ps.key(5), len(ids)), "id": ids} for ids in pools(3)]
    sifter = sifting()
    start = sifter.init(ps.key(0), batches[0])
    whole = list(ps.sift(sifter, start, {}, batches))
    middle = whole[len(whole) // 2]
    again = ps.load_state_dict(start, ps.state_dict(middle.state))
    assert laws.equal(list(ps.sift(sifter, again, {}, batches)), whole[len(whole) // 2 + 1 :])
    monkeypatch.setattr(tables, "LARGE", 1000)
    former = sifting()
    flat = {}
    for _, _, state, _ in ps.sift(former, former.init(ps.key(0), batches[0]), {}, batches):
        flat = ps.state_dict(state)
        if int(state.step) == int(middle.state.step):
            break
    assert ":SiftState/rule:CoverState/visits" in flat
    loaded = ps.load_state_dict(start, flat)
    assert isinstance(loaded.rule.visits, tables.Table)
    rest = list(ps.sift(sifter, loaded, {}, batches))
    assert len(rest) == sum(int(one.state.step) >= int(state.step) for one in whole) - 1
    for one, other in zip(rest[::-1], whole[::-1], strict=False):
        assert laws.equal((one.batch, one.weights, one.info), (other.batch, other.weights, other.info))


def test_where_values_cannot_be_read_a_write_is_a_copy(small):
    rule = ps.cover(ps.threshold(9.0), size=SIZE, epochs=3)
    compiled = torch.compile(
        lambda state, ids: rule.select(state, ids.float(), id=ids), backend="eager", fullgraph=True
    )
    one = other = rule.init()
    states = []
    for ids in pools(2):
        one, odds = rule.select(one, ids.float(), id=ids)
        other, same = compiled(other, ids)
        assert laws.equal(odds, same)
        assert torch.equal(tables.values(one.visits), tables.values(other.visits))
        states.append(one)
    ids = torch.tensor([3, 9, 3])
    stacked = laws.stack(*states)
    together, odds = torch.func.vmap(lambda state: rule.select(state, ids.float(), id=ids))(stacked)
    for number, state in enumerate(states):
        alone, expected = rule.select(state, ids.float(), id=ids)
        assert torch.equal(odds.probs[number], expected.probs)
        values = torch.func.vmap(tables.values)(together.visits)[number]
        assert torch.equal(values, tables.values(alone.visits))
