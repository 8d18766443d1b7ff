"""puresift/prioritizers/rates.py: means by id with decay, over every table of laws.py and against plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from tests import laws
from tests.laws import NUMBERED, TABLES
from tests.strategies import seeds

tables = pytest.mark.parametrize("name", TABLES)
calls = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=6)  # (ids, values each; 0: one, flat)


def told(rows, group, seed):
    """Ids, some of which repeat, and rewards of theirs."""
    ids = (ps.keys.uniform(ps.key(seed % 2**32), rows) * NUMBERED).long()
    values = ps.keys.uniform(ps.key(seed % 2**32 + 1), rows * max(group, 1)) - 0.3
    return ids, values if group == 0 else values.view(rows, group)


def after(table, number=4, seed=0):
    state = table.init()
    for call in range(number):
        state = table.observe(state, *told(7, 2, seed + call))
    return state


@tables
@given(calls=calls, seed=seeds)
def test_a_table_agrees_with_plain_python(name, calls, seed):
    table, decay = TABLES[name]()
    state, known = table.init(), {}
    for call, (rows, group) in enumerate(calls):
        ids, values = told(rows, group, seed + call)
        state = table.observe(state, ids, values)
        each = {}
        for id, row in zip(ids.tolist(), values.reshape(rows, -1).tolist() if rows else [], strict=True):
            each.setdefault(id, []).extend(row)
        for id, row in each.items():
            total, count = known.get(id, (0.0, 0.0))
            known[id] = decay * total + sum(row), decay * count + len(row)
    means = [known[id][0] / known[id][1] if id in known else math.nan for id in range(NUMBERED)]
    counts = torch.tensor([known.get(id, (0.0, 0.0))[1] for id in range(NUMBERED)])
    torch.testing.assert_close(table.read(state), torch.tensor(means), equal_nan=True, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state.counts, counts)
    ids = told(9, 0, seed)[0]
    assert laws.equal(table.read(state, ids), table.read(state)[ids])


@tables
def test_observe_and_read_are_pure(name):
    table, _ = TABLES[name]()
    state, (ids, values) = after(table), told(8, 3, 50)
    with laws.untouched(state, ids, values):
        one, two = table.observe(state, ids, values), table.observe(state, ids, values)
        table.read(state, ids)
    assert laws.equal(one, two)
    laws.same_layout(state, one)
    assert not table.observe(state, ids, values.clone().requires_grad_()).sums.requires_grad


@tables
def test_the_order_of_the_rows_does_not_matter(name):
    table, _ = TABLES[name]()
    state, (ids, values) = after(table), told(20, 0, 50)
    values = (values * 64).round()  # sums of whole numbers round nothing
    order = ps.keys.uniform(ps.key(1), 20).argsort()
    one, other = table.observe(state, ids, values), table.observe(state, ids[order], values[order])
    assert laws.equal(one, other)


@tables
def test_vmap_over_tables_is_a_loop(name):
    table, _ = TABLES[name]()
    states = [after(table, number) for number in (0, 1, 4)]
    ids, values = told(8, 2, 50)
    mapped = torch.func.vmap(table.observe, in_dims=(0, None, None))(laws.stack(*states), ids, values)
    assert laws.equal(mapped, laws.stack(*(table.observe(state, ids, values) for state in states)))


@pytest.mark.parametrize("name", ["table", "table-last"])
def test_a_table_compiles_in_one_frame(name):
    table, _ = TABLES[name]()
    state, (ids, values) = after(table), told(8, 2, 50)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(table.observe, fullgraph=True, backend=counter)
    for _ in range(3):
        expected, state = table.observe(state, ids, values), compiled(state, ids, values)
        assert laws.equal(state, expected)
    assert counter.frame_count == 1


@tables
def test_a_saved_table_goes_on(name):
    table, _ = TABLES[name]()
    state = after(table)
    loaded = ps.load_state_dict(table.init(), ps.state_dict(state))
    assert laws.equal(table.observe(loaded, *told(8, 2, 50)), table.observe(state, *told(8, 2, 50)))
    with pytest.raises(ps.SiftError, match="build it with the same size"):
        ps.load_state_dict(ps.table(NUMBERED + 1).init(), ps.state_dict(state))


def test_values_that_cannot_be_read_for_free_and_are_not_finite_are_left_out():
    table = ps.table(3, decay=0.5)
    state = table.observe(table.init(), torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    values = torch.tensor([[[math.nan, 0.0], [math.inf, math.nan]], [[1.0, 0.0], [1.0, 1.0]]])
    after = torch.func.vmap(lambda values: table.observe(state, torch.tensor([0, 1]), values))(values)
    assert after.counts.tolist() == [[1.5, 1.0, 0.0], [2.5, 2.5, 0.0]]
    assert after.sums.tolist() == [[0.5, 0.0, 0.0], [1.5, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("ids", "values", "says"),
    [
        ([0, 3], [1.0, 1.0], r"ids must lie in \[0, 3\), got 3"),
        ([-1], [1.0], "got -1"),
        ([0.5], [1.0], "ids must be whole numbers"),
        ([0, 1], [1.0], "give each rollout its prompt's id"),
        ([0, 1], [[[1.0]], [[1.0]]], "give each rollout its prompt's id"),
        ([0, 1], [1.0, math.nan], "1 of 2 values observed are NaN or infinite"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(ids, values, says):
    table = ps.table(3)
    with pytest.raises(ps.SiftError, match=says):
        table.observe(table.init(), torch.tensor(ids), torch.tensor(values))


def test_reading_ids_that_are_not_there_is_refused():
    table = ps.table(3)
    with pytest.raises(ps.SiftError, match="got 5"):
        table.read(table.init(), torch.tensor([5]))


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 2.5}, {"size": 3, "decay": 1.5}, {"size": 3, "decay": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ps.SiftError, match="must be"):
        ps.table(**settings)


def test_prompts_are_drawn_by_the_deviation_of_their_rewards_over_a_floor():
    """The odds of the formula in the docstring; a prompt never drawn counts as the best known."""
    size, floor = 5, 0.2
    table, rewards = ps.table(size), torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    ids = torch.arange(4)
    rates = table.read(table.observe(table.init(), ids, rewards), ids)
    rule = ps.by_root(ps.importance(0.2, floor=floor, bias=0.0))
    drawer = ps.prioritizer(rule, size=size, batch_size=4, every=1, start=0.0)
    state = drawer.observe(drawer.init(ps.key(0)), ids, rates * (1 - rates))
    deviation = torch.tensor([0.0, 0.5, (3 / 16) ** 0.5, 0.0, 0.5])
    planned = (1 - floor) * deviation / deviation.mean() + floor
    drawn = torch.zeros(size)
    for number in range(300):
        drawn += drawer.draw(state._replace(draws=torch.tensor(number)))[1].flatten().bincount(minlength=size)
    torch.testing.assert_close(drawn / 300, 4 * planned / size, rtol=0.08, atol=0.01)
