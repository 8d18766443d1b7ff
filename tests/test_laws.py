"""The laws, over every member of the tables."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from puresift import draws
from puresift.prioritizers import rates
from puresift.rules import cutting, gating, grouping, mixing, planning, ranking, scheduling, weighing
from puresift.scores import cheap, combining, compiling, integers, logits
from puresift.scores import losses as scores
from puresift.scores import remembering as memory
from tests import laws
from tests.laws import DRAWS, DYNAMIC, MEMBERS, RULES, SCORES, TABLES, WRAPPERS, candidates
from tests.strategies import losses, net, probs, seeds

members = pytest.mark.parametrize("name", MEMBERS)
each_draw = pytest.mark.parametrize("name", DRAWS)
each_score = pytest.mark.parametrize("name", SCORES)
ROUGH = {"autocast", "int8"}  # which round on purpose
remembering = pytest.mark.parametrize("name", [name for name in SCORES if isinstance(SCORES[name](), ps.Score)])


@pytest.mark.parametrize(
    ("module", "table", "returned"),
    [
        *((module, RULES | WRAPPERS, "Rule") for module in (ranking, cutting, weighing, planning)),
        *((module, WRAPPERS, "Rule") for module in (scheduling, gating, mixing, grouping)),
        (draws, DRAWS, "Tensor"),
        (rates, TABLES, "Table"),
        *((module, SCORES, "ScoreFn") for module in (scores, logits, cheap, compiling, integers)),
        *((module, SCORES, "Score") for module in (combining, memory)),
    ],
    ids=lambda value: value.__name__.rsplit(".")[-1] if inspect.ismodule(value) else "",
)
def test_every_member_is_in_a_table(module, table, returned):
    """A factory that is public and in no table is a factory without tests."""
    public = {
        name
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
        if thing.__annotations__.get("return") == returned and getattr(ps, name, None) is thing
    }
    entered = {name.split("-")[0] for name in table}
    assert public, f"no factory found in {module.__name__}"
    assert public <= entered, f"enter {public - entered} in the table of laws.py"


@members
@given(pool=losses(), warm=st.booleans())
def test_odds_are_odds(name, pool, warm):
    rule = MEMBERS[name]().rule
    state = laws.warmed(rule) if warm else rule.init()
    columns = laws.columns(len(pool))
    with laws.untouched(state, pool, columns):
        after, odds = rule.select(state, pool, **columns)
        again, same = rule.select(state, pool, **columns)
    laws.odds_are_odds(odds, len(pool))
    laws.same_layout(state, after)
    assert laws.equal((after, odds), (again, same))
    assert rule.wants(state).dtype == torch.bool
    assert rule.wants(state).shape == ()


@members
@given(pool=losses(), seed=seeds)
def test_permuting_rows_permutes_the_odds(name, pool, seed):
    rule = MEMBERS[name]().rule
    state = laws.warmed(rule)
    order = ps.keys.uniform(ps.key(seed), len(pool)).argsort()
    columns = laws.columns(len(pool))
    _, odds = rule.select(state, pool, **columns)
    _, permuted = rule.select(state, pool[order], **{name: column[order] for name, column in columns.items()})
    assert torch.equal(odds.probs[order], permuted.probs)
    assert torch.equal(odds.weights[order], permuted.weights)


@members
@given(pool=losses())
def test_monotone_and_ties_share(name, pool):
    member = MEMBERS[name]()
    _, odds = member.rule.select(laws.warmed(member.rule), pool, **laws.columns(len(pool)))
    for value in pool.unique() if member.by_loss else ():
        assert len(odds.probs[pool == value].unique()) == 1, "ties must share a probability"
    if member.monotone:
        assert bool((odds.probs[pool.argsort()].diff() >= -1e-7).all())


@members
@given(pool=losses(), power=st.integers(-8, 8))
def test_scale_invariance(name, pool, power):
    member = MEMBERS[name]()
    if not member.scale_free:
        pytest.skip("claims none")
    scale = 2.0**power  # a power of two, so that scaling rounds nothing
    streams = [member.rule.init(), member.rule.init()]
    for part in pool.split(16):
        columns = laws.columns(len(part))
        streams[0], odds = member.rule.select(streams[0], part, **columns)
        streams[1], scaled = member.rule.select(streams[1], part * scale, **columns)
        assert torch.equal(odds.probs, scaled.probs)


@members
@pytest.mark.parametrize("shared", [True, False], ids=["one pool", "a pool each"])
def test_vmap_over_states_is_a_loop(name, shared):
    rule = MEMBERS[name]().rule
    states = [laws.warmed(rule, pools) for pools in (0, 1, 5)]
    pools = torch.stack([ps.keys.uniform(ps.key(9 if shared else seed), 16) for seed in range(3)])
    together = laws.stack(*states)
    if not laws.leaves(together):
        shared = False  # a rule without state has nothing else to be mapped over
    columns = laws.columns(16)
    mapped = torch.func.vmap(
        lambda state, losses: rule.select(state, losses, **columns), in_dims=(0, None if shared else 0)
    )(together, pools[0] if shared else pools)
    for row, (state, pool) in enumerate(zip(states, pools, strict=True)):
        one = laws.leaves(rule.select(state, pool, **columns))
        for tensor, tensors in zip(one, laws.leaves(mapped), strict=True):
            assert torch.equal(tensors.expand(3, *tensor.shape)[row], tensor)


@members
def test_select_compiles_in_one_frame(name):
    rule = MEMBERS[name]().rule
    state, pool = laws.warmed(rule), ps.keys.uniform(ps.key(9), 16)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(rule.select, fullgraph=True, backend=counter)
    columns = laws.columns(16)
    for _ in range(3):
        expected = rule.select(state, pool, **columns)
        answer = compiled(state, pool, **columns)
        assert laws.equal(answer, expected)
        state = answer[0]
    assert counter.frame_count <= 1  # a rule without tensor work leaves nothing to compile


@each_draw
@given(p=probs(), seed=seeds)
def test_a_draw_is_a_function_of_its_key(name, p, seed):
    draw = DRAWS[name]
    with laws.untouched(p):
        mask = draw(ps.key(seed), p)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, draw(ps.key(seed), p))
    assert bool(mask[p == 1].all())
    assert not bool(mask[p == 0].any())


@each_draw
def test_the_expectation_of_a_draw_is_p(name):
    p = torch.tensor([0.0, 0.05, 0.3, 0.5, 0.77, 1.0, 0.2, 0.9])
    n = 20_000
    masks = torch.func.vmap(DRAWS[name], in_dims=(0, None))(ps.keys.split(ps.key(3), n), p)
    error = (masks.double().mean(0) - p).abs()
    assert bool((error <= 4.5 * (p * (1 - p) / n).sqrt() + 1e-9).all()), error


@each_draw
def test_a_draw_compiles_and_vmaps(name):
    p = ps.keys.uniform(ps.key(4), 33)
    keys = ps.keys.split(ps.key(5), 4)
    torch._dynamo.reset()
    compiled = torch.compile(DRAWS[name], fullgraph=True, backend="aot_eager")
    looped = torch.stack([DRAWS[name](key, p) for key in keys])
    assert torch.equal(looped, torch.stack([compiled(key, p) for key in keys]))
    assert torch.equal(looped, torch.func.vmap(DRAWS[name], in_dims=(0, None))(keys, p))


@each_score
@given(rows=st.integers(1, 24), seed=st.integers(0, 99))
def test_a_score_is_pure(name, rows, seed):
    params, batch = ps.live(net(1))(), candidates(rows, seed)
    score = laws.once(SCORES[name]())
    with laws.untouched(params, batch):
        values = score(params, batch)
    assert values.shape == (rows,)
    assert values.is_floating_point()
    assert not values.requires_grad
    assert torch.equal(values, score(params, batch))
    assert torch.is_grad_enabled()


@each_score
def test_permuting_rows_permutes_the_scores(name):
    params, batch = ps.live(net(1))(), candidates(24)
    order = ps.keys.uniform(ps.key(0), 24).argsort()
    score = laws.once(SCORES[name]())
    loose = {"rtol": 1e-2, "atol": 1e-2} if name in ROUGH else {"rtol": 1e-5, "atol": 1e-6}
    permuted = score(params, tuple(leaf[order] for leaf in batch))
    torch.testing.assert_close(score(params, batch)[order], permuted, **loose)


@each_score
def test_a_score_agrees_with_a_python_loop(name):
    model, batch = net(1), candidates(24)
    expected = torch.tensor(laws.naive(name, model, batch))
    loose = {"rtol": 2e-2, "atol": 2e-2} if name in ROUGH else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(laws.once(SCORES[name]())(ps.live(model)(), batch), expected, **loose)


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # BatchNorm in vmap(grad), as fake tensors
@each_score
def test_a_score_compiles_in_one_frame(name):
    if name in DYNAMIC:
        pytest.skip("reads how many rows to score; its fixed-shape form compiles")
    params, batch = ps.live(net(1))(), candidates(16)
    score = SCORES[name]()
    torch._dynamo.reset()
    if isinstance(score, ps.Score):
        compiled, state = torch.compile(score.apply, fullgraph=True, backend="aot_eager"), score.init()
        for _ in range(2):
            expected = score.apply(state, params, batch)
            answer = compiled(state, params, batch)
            for one, other in zip(laws.leaves(answer), laws.leaves(expected), strict=True):
                torch.testing.assert_close(one, other, equal_nan=True)
            state = answer[0]
        return
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params, batch), score(params, batch))


def visited(score, visits, seed=0):
    """A state after some pools of another model, with training losses between them."""
    state = score.init()
    for visit in range(visits):
        params, batch = ps.live(net(seed + 3))(), candidates(32, seed)
        state, losses = score.apply(state, params, batch)
        if score.observe and visit % 2 == 0:
            some = tuple(leaf[visit : visit + 9] for leaf in batch)
            state = score.observe(state, some, losses[visit : visit + 9] / 2)
    return state


@remembering
@given(rows=st.integers(1, 24), seed=st.integers(0, 9), visits=st.integers(0, 4))
def test_a_score_that_remembers_is_pure(name, rows, seed, visits):
    score = SCORES[name]()
    state, params, batch = visited(score, visits), ps.live(net(1))(), candidates(rows, seed)
    with laws.untouched(state, params, batch):
        after, values = score.apply(state, params, batch)
        again = score.apply(state, params, batch)
        if score.observe:
            laws.same_layout(state, score.observe(state, batch, values))
    assert laws.equal((after, values), again)
    laws.same_layout(state, after)


@remembering
def test_permuting_rows_permutes_the_answer_and_not_the_state(name):
    score = SCORES[name]()
    state, params, batch = visited(score, 3), ps.live(net(1))(), candidates(24)
    order = ps.keys.uniform(ps.key(0), 24).argsort()
    after, values = score.apply(state, params, batch)
    other, permuted = score.apply(state, params, tuple(leaf[order] for leaf in batch))
    torch.testing.assert_close(values[order], permuted)
    for one, two in zip(laws.leaves(after), laws.leaves(other), strict=True):
        torch.testing.assert_close(one, two, equal_nan=True)


@remembering
def test_vmap_over_the_states_of_a_score_is_a_loop(name):
    score = SCORES[name]()
    if name in DYNAMIC or not laws.leaves(score.init()):
        pytest.skip("nothing to map over, or shapes that hang on data; the fixed-shape form maps")
    states = [visited(score, visits) for visits in (0, 1, 4)]
    params, batch = ps.live(net(1))(), candidates(24)
    mapped = torch.func.vmap(score.apply, in_dims=(0, None, None))(laws.stack(*states), params, batch)
    for row, state in enumerate(states):
        for one, many in zip(laws.leaves(score.apply(state, params, batch)), laws.leaves(mapped), strict=True):
            torch.testing.assert_close(many[row], one, equal_nan=True)
