"""The composition: pure, compiled in one frame, and explicit about what does not fit."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from puresift import draws
from puresift.buffers import chunks
from puresift.buffers import ring as buffers
from tests import laws
from tests.laws import COLUMNS, DRAWS, MEMBERS
from tests.strategies import cross_entropy, data, loader, net


def build(rule=None, **settings):
    settings = {"batch_size": 8, **settings}
    return ps.sifter(ps.batched(net(), cross_entropy), rule or ps.relative(keep=0.5, history=64), **settings)


def drain(sifter, state):
    batches = []
    while bool(ps.full(state.buffer)):
        state, taken = sifter.take(state)
        batches.append(taken)
    return state, batches


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("member", MEMBERS)
def test_step_is_pure_and_keeps_its_layout(member, draw):
    sifter = build(MEMBERS[member]().rule, draw=DRAWS[draw], columns=COLUMNS)
    params, pool = ps.live(net(1))(), data(16).tensors
    state = sifter.init(ps.key(0), pool)
    for _ in range(3):
        with laws.untouched(state, params, pool):
            after, info = sifter.step(state, params, pool)
        assert laws.equal((after, info), sifter.step(state, params, pool))
        laws.same_layout(state, after)
        laws.odds_are_odds(info.odds, 16)
        assert int(after.step) == int(state.step) + 1
        state, _ = drain(sifter, after)


# With the second draw in the slow suite: draws by themselves are compiled and mapped in the laws.
@pytest.mark.parametrize("draw", ["bernoulli", pytest.param("systematic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("member", MEMBERS)
def test_step_compiles_in_one_frame_and_vmaps_over_states(member, draw):
    def score(params, batch):  # models are compiled in the laws of scores
        return batch[0].square().mean(1)

    sifter = ps.sifter(score, MEMBERS[member]().rule, batch_size=8, draw=DRAWS[draw], columns=COLUMNS)
    params, pool = {}, data(16).tensors
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(sifter.step, fullgraph=True, backend=counter)
    states = [sifter.init(ps.key(0), pool)]
    for uniforms in draws.ahead(DRAWS[draw], ps.key(0), torch.arange(3), 16):  # as a stream hands them over
        expected = sifter.step(states[-1], params, pool)
        assert laws.equal(compiled(states[-1], params, pool, uniforms=uniforms), expected)
        states.append(drain(sifter, expected[0])[0])
    assert counter.frame_count == 1
    together = torch.func.vmap(sifter.step, in_dims=(0, None, None))(laws.stack(*states), params, pool)
    for row, state in enumerate(states):
        one = laws.leaves(sifter.step(state, params, pool))
        for tensor, tensors in zip(one, laws.leaves(together), strict=True):
            torch.testing.assert_close(tensors.expand(4, *tensor.shape)[row], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("draw", DRAWS)
def test_step_compiles_in_one_frame_with_a_model_and_its_own_numbers(draw):
    sifter = build(draw=DRAWS[draw])
    params, pool = ps.live(net(1))(), data(16).tensors
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(sifter.step, fullgraph=True, backend=counter)
    state = sifter.init(ps.key(0), pool)
    for _ in range(3):
        expected = sifter.step(state, params, pool)
        assert laws.equal(compiled(state, params, pool), expected)
        state = drain(sifter, expected[0])[0]
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize("member", MEMBERS)
def test_step_compiles_with_inductor(member):
    sifter = ps.sifter(lambda params, x: x * 1.0, MEMBERS[member]().rule, batch_size=8, draw=ps.systematic)
    torch._dynamo.reset()
    compiled = torch.compile(sifter.step, fullgraph=True)
    state = sifter.init(ps.key(0), torch.zeros(16))
    for seed in range(3):
        pool = ps.keys.uniform(ps.key(seed), 16)
        expected, answer = sifter.step(state, {}, pool), compiled(state, {}, pool)
        for one, other in zip(laws.leaves(expected), laws.leaves(answer), strict=True):
            torch.testing.assert_close(other, one)
        state, _ = drain(sifter, expected[0])


def test_the_verbs_by_hand_are_the_step():
    score, rule = ps.batched(net(), cross_entropy), ps.relative(keep=0.5)
    sifter = ps.sifter(score, rule, batch_size=8)
    params, pool = ps.live(net(1)), data(16).tensors
    state = sifter.init(ps.key(3), pool)
    after, info = sifter.step(state, params, pool)

    losses = score(params, pool)
    ruled, odds = rule.select(state.rule, losses)
    mask = ps.bernoulli(ps.keys.fold_in(state.key, state.step), odds.probs)
    buffer = ps.refill(state.buffer, ps.Kept(pool, odds.weights, mask))
    assert laws.equal((ruled, buffer), (after.rule, after.buffer))
    assert laws.equal(ps.Info(losses, odds, mask, {}), info._replace(extra={}))


def test_columns_reach_the_rule_and_the_info():
    seen = {}

    def select(state, losses, **columns):
        seen.update(columns)
        return ps.top(keep=0.5).select(state, losses)

    rule = ps.top(keep=0.5)._replace(select=select)
    sifter = build(rule, columns={"group": lambda batch: batch[1]})
    pool = data(16).tensors
    _, info = sifter.step(sifter.init(ps.key(0), pool), ps.live(net()), pool)
    assert torch.equal(seen["group"], pool[1])
    assert torch.equal(info.extra["group"], pool[1])


@pytest.mark.parametrize("policy", ["raise", "drop", "keep"])
def test_non_finite_losses_follow_the_declared_policy(policy):
    sifter = ps.sifter(lambda params, x: x, ps.relative(keep=0.5), batch_size=4, nonfinite=policy)
    pool = torch.tensor([0.1, float("nan"), 0.5, float("inf"), 0.9, float("-inf")])
    state, info = sifter.step(sifter.init(ps.key(0), pool), {}, pool)
    assert info.extra["nonfinite"].tolist() == [3]
    assert int(info.extra["signal"][2]) == (3 if policy == "raise" else 0)
    assert info.mask[[1, 3, 5]].tolist() == [policy == "keep"] * 3
    assert bool(state.rule.history[:6].isfinite().all())
    assert sorted(state.rule.history[:6].tolist()) == pytest.approx([0.1, 0.5, 0.5, 0.5, 0.5, 0.9])
    laws.odds_are_odds(info.odds, 6)


def test_a_pool_of_nothing_but_nan_leaves_the_state_sane():
    sifter = ps.sifter(lambda params, x: x, ps.relative(keep=0.5), batch_size=4, nonfinite="drop")
    pool = torch.full((4,), torch.nan)
    state, info = sifter.step(sifter.init(ps.key(0), pool), {}, pool)
    assert not bool(info.mask.any())
    assert state.rule.history[:4].tolist() == [0.0] * 4


def test_a_score_free_arm_never_scores():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=4)
    pool = torch.arange(8)
    state, info = sifter.step(sifter.init(ps.key(0), pool), None, pool)
    assert bool(info.losses.isnan().all())
    assert [batch.tolist() for batch, _ in drain(sifter, state)[1]] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_params_as_a_callable_are_asked_only_where_scores_are_wanted():
    asked = []
    sifter = ps.sifter(lambda params, x: x, ps.delay(ps.top(keep=0.5), steps=1), batch_size=4)
    pool = torch.arange(4.0)
    state = sifter.init(ps.key(0), pool)
    for expected in (0, 1, 2):
        state, _ = sifter.step(state, lambda: asked.append(1) or {}, pool)
        assert len(asked) == expected


def ragged(lengths):
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {"ids": mask * torch.arange(1, len(lengths) + 1)[:, None], "mask": mask}


PADS = {"ids": ps.Pad(0, 10), "mask": ps.Pad(0, 10)}


def mask_length(batch):
    return batch["mask"].sum(1)


def test_ragged_rows_leave_cut_to_their_longest():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, length=mask_length)
    state = sifter.init(ps.key(0), ragged([3, 2, 7, 5]))
    state, _ = sifter.step(state, None, ragged([1, 2, 7, 5]))
    state, _ = sifter.step(state, None, ragged([4]))
    _, batches = sifter.flush(state)
    assert [batch["ids"].shape for batch, _ in batches] == [(2, 2), (2, 7), (1, 4)]


@given(
    lengths=st.lists(st.integers(1, 10), min_size=24, max_size=24),
    seed=st.integers(0, 9),
    sizes=st.sampled_from([(8,), (3, 5), (8, 1)]),
)
def test_bucketed_rows_leave_in_batches_of_like_length_and_none_is_lost(lengths, seed, sizes):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, bucket=mask_length, window=3)
    widest = ragged([10] * 8)
    state, left, at = sifter.init(ps.key(seed), widest), [], 0
    while at < 24:
        part = lengths[at : at + sizes[len(left) % len(sizes)]]
        pool = ragged([*part, 10])  # the last row only fixes the width
        pool = {
            name: leaf[: len(part)] + (at if name == "ids" else 0) * pool["mask"][: len(part)]
            for name, leaf in pool.items()
        }
        state, _ = sifter.step(state, None, pool)
        at += len(part)
        state, batches = drain(sifter, state)
        left += batches
    _, rest = sifter.flush(state)
    numbers = [[int(row.max()) - 1 for row in batch["ids"]] for batch, _ in left + rest]
    assert sorted(sum(numbers, [])) == list(range(24))
    for batch, _ in left + rest:
        assert batch["ids"].shape[1] == int(batch["mask"].sum(1).max())
    for at in range(0, len(left), 3):
        window = numbers[at : at + 3]
        assert sorted(sum(window, [])) == list(range(at * 2, at * 2 + 6)), "rows must not cross windows"
        spans = sorted((min(lengths[n] for n in batch), max(lengths[n] for n in batch)) for batch in window)
        assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))


def test_a_window_survives_steps_while_it_is_open():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, bucket=mask_length, window=2)
    state = sifter.init(ps.key(0), ragged([10, 1, 1, 1]))
    state, _ = sifter.step(state, None, ragged([4, 1, 3, 2]))
    state, (first, _) = sifter.take(state)
    state, _ = sifter.step(state, None, ragged([9, 9]))
    state, (second, _) = sifter.take(state)
    assert sorted(first["mask"].sum(1).tolist() + second["mask"].sum(1).tolist()) == [1, 2, 3, 4]
    assert not bool(ps.full(state.buffer))
    assert buffers.held_slots(state.buffer).shape == (2,)


def test_objects_ride_along():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
    pools = [{"text": ["a", "b", "c"], "x": torch.arange(3)}, {"text": ["d", "e"], "x": torch.arange(3, 5)}]
    state = sifter.init(ps.key(0), pools[0])
    state, _ = sifter.step(state, None, pools[0])
    fork, _ = sifter.take(state)
    state, batches = drain(sifter, state)
    state, _ = sifter.step(state, None, pools[1])
    state, more = drain(sifter, state)
    _, rest = sifter.flush(state)
    assert [batch["text"] for batch, _ in batches + more + rest] == [["a", "b"], ["c", "d"], ["e"]]
    assert sifter.flush(fork)[1][0][0]["text"] == ["c"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"window": 4}, "window= sorts rows by length, so it needs bucket="),
        ({"bucket": mask_length, "window": 0}, "window must be a whole number >= 1"),
        ({"nonfinite": "ignore"}, 'nonfinite must be "raise", "drop" or "keep"'),
        ({"columns": {"nonfinite": len}}, r"columns= may not use the names \['nonfinite'\]"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        build(**settings)


@pytest.mark.parametrize("name", ["losses", "state"])
def test_columns_that_rules_could_not_be_passed_are_refused(name):
    with pytest.raises(
        ps.SiftError, match=rf"columns= may not use the names \['{name}'\], which have a meaning already"
    ):
        build(columns={name: lambda batch: batch[1]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": {"id": 3}}, "the column 'id' is 3; pass a function of the batch"),
        ({"draw": 0.5}, r"draw is 0\.5; pass ps\.bernoulli or ps\.systematic"),
        ({"pad": {"t": 5}}, r"pad=\{'t': 5\} is no padding; pass ps\.Pad\(value, length\)"),
        ({"pad": 5}, "pad is 5; pass a ps.Pad by the name of each ragged leaf"),
        ({"pad": {"t": ps.Pad("0", 5)}}, "leaf 't' is padded by a number, got '0'"),
        ({"pad": {"t": ps.Pad(0, 0)}}, "the length of the padded 't' must be a whole number >= 1, got 0"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(settings, words):
    with pytest.raises(ps.SiftError, match=words):
        build(**settings)


@pytest.mark.parametrize("key", [0, torch.Generator(), torch.zeros(2), torch.zeros(3, dtype=torch.int64), None])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match=r"a key is Int64\[2\], and this is .*as in ps\.key\(0\)") as caught:
        build().init(key, data(16).tensors)
    assert isinstance(caught.value, ps.SiftError)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            lambda key, probs: torch.ones(3, dtype=torch.bool),
            r"the draw's mask must be .* each of the 4 rows .*bool\[3\]",
        ),
        (lambda key, probs: torch.ones(5, dtype=torch.bool), r"the draw's mask must be .*got torch.bool\[5\]"),
        (lambda key, probs: probs, r"a draw gives Bool\[4\], and this one gave torch.float32; return mask.bool\(\)"),
        (lambda key, probs: [True] * 4, "the draw's mask must be a tensor .* got a list"),
    ],
)
def test_a_mask_that_does_not_fit_the_pool_is_refused(draw, words):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, draw=draw)
    state = sifter.init(ps.key(0), torch.zeros(4))
    with pytest.raises(ps.SiftError, match=words):
        sifter.step(state, None, torch.zeros(4))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (lambda x: x[:3], r"the column 'c' must be a tensor with one entry for each of the 4 rows .*float32\[3\]"),
        (lambda x: x.sum(), r"the column 'c' must be .*got torch.float32\[\]"),
        (lambda x: x.tolist(), "the column 'c' must be .*got a list"),
    ],
)
def test_a_column_of_another_length_than_the_pool_is_refused(column, words):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, columns={"c": column})
    state = sifter.init(ps.key(0), torch.zeros(4))
    with pytest.raises(ps.SiftError, match=words):
        sifter.step(state, None, torch.zeros(4))


@pytest.mark.parametrize("field", ["probs", "weights"])
def test_odds_of_another_length_than_the_pool_are_refused(field):
    odds = ps.Odds(torch.ones(4), torch.ones(4))._replace(**{field: torch.ones(5)})
    rule = ps.uniform(keep=1.0)._replace(select=lambda state, losses: (state, odds))
    sifter = ps.sifter(None, rule, batch_size=2)
    with pytest.raises(ps.SiftError, match=rf"the rule's {field} must be a tensor with one entry"):
        sifter.step(sifter.init(ps.key(0), torch.zeros(4)), None, torch.zeros(4))


def test_a_rule_that_looks_needs_a_score():
    with pytest.raises(ValueError, match="this rule looks at losses, so it needs a score"):
        ps.sifter(None, ps.top(keep=0.5), batch_size=2)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (
            {"x": torch.zeros(4, 5), "y": torch.zeros(4)},
            r"'x' had rows of shape \[3\] .* and has \[5\]",
        ),
        ({"x": torch.zeros(4, 5), "y": torch.zeros(4)}, r"pad=\{'x': ps.Pad\(value=0, length=...\)\}"),
        ({"x": torch.zeros(4, 3).double(), "y": torch.zeros(4)}, "'x' was torch.float32 .* is torch.float64 now; cast"),
        ({"x": torch.zeros(4, 3)}, r"first one, a dict of \['x', 'y'\]; this one is a dict of \['x'\]"),
        ({"x": torch.zeros(5, 3), "y": torch.zeros(5)}, "a pool of 5 rows came in, but the sifter was built for 4"),
        ({"x": torch.zeros(4, 3), "y": torch.zeros(3)}, r"share their leading dimension, got x \[4, 3\], y \[3\]"),
    ],
)
def test_later_batches_that_do_not_fit_are_refused(pool, words):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
    state = sifter.init(ps.key(0), {"x": torch.zeros(4, 3), "y": torch.zeros(4)})
    sifter.step(state, None, {"x": torch.zeros(2, 3), "y": torch.zeros(2)})  # fewer rows are normal
    with pytest.raises(ValueError, match=words):
        sifter.step(state, None, pool)


CUT = r"{} rows of the pool hold more than their padding past the length that length= \(or bucket=\) gives them"


@pytest.mark.parametrize("name", ["length", "bucket"])
def test_a_length_that_would_cut_content_is_refused(name):
    short = lambda batch: mask_length(batch) - (mask_length(batch) > 4).long()  # noqa: E731
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, **{name: short})
    state = sifter.init(ps.key(0), ragged([3, 2, 7, 5]))
    with pytest.raises(ps.SiftError, match=CUT.format(2)):
        sifter.step(state, None, ragged([3, 2, 7, 5]))
    sifter.step(state, None, ragged([3, 2, 4, 1]))


def test_where_lengths_cannot_be_read_the_signal_tells_the_stream():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, length=lambda batch: mask_length(batch) - 1)
    pool = ragged([3, 2, 7, 5])
    compiled = sifter._replace(step=torch.compile(sifter.step, backend="eager"))
    start = sifter.init(ps.key(0), pool)
    stream = ps.sift(compiled, start, {}, [pool])
    with pytest.raises(ps.SiftError, match=CUT.format(4)):
        next(stream)
    assert laws.equal(stream.state, start)


def test_padding_of_the_callers_own_and_leaves_of_nothing_else_have_no_say_in_lengths():
    """Ids that the collate function padded by 9, and token types that are 0 throughout."""
    pool = ragged([3, 2, 7, 5])
    pool["ids"] = torch.where(pool["mask"] == 0, 9, pool["ids"])
    pool["types"] = torch.zeros_like(pool["ids"])
    sifter = ps.sifter(
        None, ps.uniform(keep=1.0), batch_size=2, pad={**PADS, "types": ps.Pad(0, 10)}, length=mask_length
    )
    state, _ = sifter.step(sifter.init(ps.key(0), pool), None, pool)
    assert [batch["ids"].shape[1] for batch, _ in drain(sifter, state)[1]] == [3, 7]
    pool["mask"][1] = 1  # and its length still says 2
    sifter = ps.sifter(
        None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, length=lambda batch: torch.tensor([3, 2, 7, 5])
    )
    pool = {name: pool[name] for name in PADS}
    with pytest.raises(ps.SiftError, match=CUT.format(1)):
        sifter.step(sifter.init(ps.key(0), pool), None, pool)


def test_the_length_of_rows_of_vectors_is_read_too():
    """Of the numbers at a place one is enough to be content."""
    lengths = torch.tensor([3, 2, 7, 5])
    there = (torch.arange(7) < lengths[:, None]).float()
    pool = {"x": torch.stack([torch.zeros_like(there), there], -1), "length": lengths}
    sifter = ps.sifter(
        None, ps.uniform(keep=1.0), batch_size=2, pad={"x": ps.Pad(0.0, 10)}, length=lambda batch: batch["length"]
    )
    state = sifter.init(ps.key(0), pool)
    assert [batch["x"].shape[1] for batch, _ in drain(sifter, sifter.step(state, None, pool)[0])[1]] == [3, 7]
    with pytest.raises(ps.SiftError, match=CUT.format(4)):
        sifter.step(state, None, {**pool, "length": lengths - 1})


@pytest.mark.parametrize(
    "length", [lambda batch: torch.tensor(3), lambda batch: batch["mask"].bool()[:, 0], lambda b: 3]
)
def test_a_length_that_is_not_one_a_row_is_refused(length):
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2, pad=PADS, length=length)
    state = sifter.init(ps.key(0), ragged([3, 2]))
    with pytest.raises(ps.SiftError, match=r"length= \(or bucket=\) must give a whole number a row, Int\[2\], got"):
        sifter.step(state, None, ragged([3, 2]))


@pytest.mark.parametrize("member", ["importance", "ranked", "hold", "relative-scale"])
def test_an_empty_pool_is_a_pool_of_no_rows(member):
    sifter = build(MEMBERS[member]().rule)
    params, pool = ps.live(net(1))(), data(16).tensors
    state, info = sifter.step(sifter.init(ps.key(0), pool), params, tuple(leaf[:0] for leaf in pool))
    assert len(info.mask) == 0
    assert int(state.step) == 1
    laws.odds_are_odds(sifter.step(state, params, pool)[1].odds, 16)


def test_leaves_on_the_meta_device_are_refused():
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=2)
    with pytest.raises(ps.SiftError, match=r"the leaves \['x'\] are on the meta device, where tensors have no values"):
        sifter.init(ps.key(0), {"x": torch.zeros(4, device="meta")})
    state = sifter.init(ps.key(0), {"x": torch.zeros(4)})
    with pytest.raises(ps.SiftError, match=r"the leaves \['x'\] are on the meta device"):
        sifter.step(state, None, {"x": torch.zeros(4, device="meta")})


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.complex64])
def test_rows_of_rare_types_come_out_as_they_went_in(dtype, chunk, monkeypatch):
    monkeypatch.setattr(chunks, "SIZE", chunk)
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=4, pad={"x": ps.Pad(0, 4)})
    rows = torch.arange(24).reshape(8, 3).to(dtype)
    state, _ = sifter.step(sifter.init(ps.key(0), {"x": rows}), None, {"x": rows})
    got = [batch["x"] for batch, _ in drain(sifter, state)[1]]
    assert torch.equal(torch.cat(got)[:, :3].view(torch.uint8), rows.view(torch.uint8))
    assert {part.dtype for part in got} == {dtype}


def test_an_empty_first_batch_is_refused():
    with pytest.raises(ValueError, match="the first batch has no rows"):
        build().init(ps.key(0), torch.zeros(0, 3))


@pytest.mark.parametrize("reduce", [torch.mean, lambda x: x.long(), lambda x: x[:2]], ids=["mean", "long", "short"])
def test_any_score_is_checked(reduce):
    sifter = ps.sifter(lambda params, x: reduce(x), ps.top(keep=0.5), batch_size=2)
    with pytest.raises(ValueError, match="the loss"):
        sifter.step(sifter.init(ps.key(0), torch.zeros(4)), {}, torch.zeros(4))


def test_observing_needs_a_score_that_remembers():
    state = build().init(ps.key(0), data(16).tensors)
    with pytest.raises(ValueError, match="remembers nothing, so there is nothing to observe"):
        build().observe(state, data(8).tensors, torch.zeros(8))


def test_a_score_that_remembers_is_threaded_and_observed():
    score = ps.Score(
        init=lambda: torch.zeros(2),
        apply=lambda state, params, x: (state + torch.tensor([1.0, 0.0]), x),
        observe=lambda state, x, losses: state + torch.stack([torch.tensor(0.0), losses.sum()]),
    )
    sifter = ps.sifter(score, ps.top(keep=0.5), batch_size=2)
    state, _ = sifter.step(sifter.init(ps.key(0), torch.zeros(4)), {}, torch.zeros(4))
    state = sifter.observe(state, torch.zeros(2), torch.ones(2))
    assert state.score.tolist() == [1.0, 2.0]


def test_pools_may_come_from_a_loader_of_another_size_than_the_batches():
    sifter = build(batch_size=5)
    pools = list(loader(rows=40, batch_size=16))
    state = sifter.init(ps.key(0), pools[0])
    kept = 0
    for pool in pools:
        state, info = sifter.step(state, ps.live(net()), pool)
        kept += int(info.mask.sum())
        state, batches = drain(sifter, state)
        kept -= 5 * len(batches)
    assert kept == int(state.buffer.fill[0]) < 5


@pytest.mark.parametrize("member", MEMBERS)
def test_a_pool_handed_through_is_kept_whole_and_nobody_hears_of_it(member):
    """As if it had never come, but for the buffer and the step."""
    sifter = build(MEMBERS[member]().rule, columns=COLUMNS)
    params, pool, other = ps.live(net(1))(), data(16).tensors, data(16, seed=1).tensors
    state, _ = sifter.step(sifter.init(ps.key(0), pool), params, pool)
    state, _ = drain(sifter, state)
    with laws.untouched(state, params, other):
        after, info = sifter.step(state, params, other, through=True)
    laws.same_layout(state, after)
    assert laws.equal((after.score, after.rule, after.key), (state.score, state.rule, state.key))
    assert int(after.step) == int(state.step) + 1
    assert bool(info.mask.all() & info.losses.isnan().all() & (info.odds.weights == 1).all())
    assert int(after.buffer.fill[0]) == int(state.buffer.fill[0]) + 16
    assert torch.equal(info.extra["label"], other[1])
    assert laws.equal(info._replace(extra={}), sifter.step(state, None, other, through=True)[1]._replace(extra={}))
