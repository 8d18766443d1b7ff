"""The shell: what it yields, what it leaves alone, and how it stops."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, data, loader, net


def build(rule=None, **settings):
    settings = {"batch_size": 8, **settings}
    return ps.sifter(ps.batched(net(), cross_entropy), rule or ps.relative(keep=0.5, history=64), **settings)


def start(sifter, pools):
    return sifter.init(ps.key(0), ps.peek(pools))


def train(model, stream, optimizer):
    for batch, weights, _state, _info in stream:
        optimizer.zero_grad()
        (weights * cross_entropy(model, batch)).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("score", ["scored", "unscored"])
def test_keeping_all_is_the_plain_loop_bit_for_bit(score):
    """Law 8, with dropout, BatchNorm and a loader that shuffles by the global RNG."""
    finals = []
    for sifted in (False, True):
        torch.manual_seed(0)
        model = net().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        pools = torch.utils.data.DataLoader(data(100), batch_size=16, shuffle=True, drop_last=True)
        if sifted:
            scored = ps.batched(model, cross_entropy) if score == "scored" else None
            sifter = ps.sifter(scored, ps.uniform(keep=1), batch_size=16)
            state = sifter.init(ps.key(0), ps.peek(pools))
            for _ in range(3):
                stream = ps.sift(sifter, state, ps.live(model), pools)
                train(model, stream, optimizer)
                state = stream.state
        else:
            for _ in range(3):
                for batch in pools:
                    optimizer.zero_grad()
                    cross_entropy(model, batch).mean().backward()
                    optimizer.step()
        finals.append((model.state_dict(), torch.get_rng_state()))
    (plain, rng), (ours, our_rng) = finals
    assert all(torch.equal(plain[name], ours[name]) for name in plain)
    assert torch.equal(rng, our_rng)


def test_scores_are_those_of_the_newest_model():
    model = net(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sifter = ps.sifter(ps.batched(model, cross_entropy), ps.uniform(keep=1.0), batch_size=16)
    rule = ps.top(keep=1.0)
    sifter = ps.sifter(ps.batched(model, cross_entropy), rule, batch_size=16)
    pools = loader(batch_size=16)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(model), pools)
    after = copy.deepcopy(model).eval()
    for batch, weights, _, info in stream:
        with torch.no_grad():
            torch.testing.assert_close(info.losses, cross_entropy(after, batch))
        optimizer.zero_grad()
        (weights * cross_entropy(model, batch)).mean().backward()
        optimizer.step()
        after = copy.deepcopy(model).eval()


def test_gradients_and_contexts_are_the_callers_own():
    sifter, pools = build(), loader()
    for _ in ps.sift(sifter, start(sifter, pools), ps.live(net()), pools):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()


class Reads(TorchFunctionMode):
    """Counts what would wait for a device."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
            self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings", [{}, {"draw": ps.systematic}, {"nonfinite": "drop"}, {"rule": ps.delay(ps.top(keep=0.7), 3)}]
)
def test_one_read_a_pool(settings):
    sifter, pools = build(**settings), loader(rows=320)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    next(stream)
    with Reads() as reads:
        before = 1
        for _ in stream:
            before += 1
    assert reads.count <= 20
    assert reads.count >= 15


def test_infos_cover_every_pool_once():
    sifter, pools = build(ps.relative(keep=0.2, history=64)), loader(rows=320)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    seen, last = 0, None
    for batch, _, state, info in stream:
        seen += len(info.losses)
        last = state
        assert len(info.losses) == len(info.mask) == len(info.odds.probs) == 16 * len(info.extra["nonfinite"])
        assert len(batch[0]) == 8
    assert seen == 16 * int(last.step)
    assert len(stream.info.losses) == 16 * (20 - int(last.step)), "what was read after the last batch is not lost"
    assert int(stream.state.step) == 20


def test_a_second_batch_out_of_one_pool_carries_no_rows():
    sifter, pools = build(ps.uniform(keep=1.0)), loader(rows=32)
    infos = [info for *_, info in ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)]
    assert [len(info.losses) for info in infos] == [16, 0, 16, 0]


def test_a_batch_without_a_pool_of_its_own_has_the_entries_of_all_infos():
    """With zero rows: the second out of one pool, those left in a saved state, and what follows the last batch."""
    columns = {"label": lambda batch: batch[1], "twice": lambda batch: torch.stack([batch[0][:, 0]] * 2, 1)}
    sifter, pools = build(ps.uniform(keep=1.0), columns=columns), list(loader(rows=32))
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools, governor=ps.governor())
    whole = list(stream)
    names = {"label", "twice", "nonfinite", "sifting", "phi", "reading"}
    infos = [*(info for *_, info in whole), stream.info]
    assert [info.extra.keys() for info in infos] == [names] * 5
    assert [[len(info.extra[name]) for name in ("label", "nonfinite")] for info in infos] == [[16, 1], [0, 0]] * 2 + [
        [0, 0]
    ]
    for one, other in itertools.pairwise(infos):
        assert {n: (t.dtype, t.shape[1:]) for n, t in one.extra.items()} == {
            n: (t.dtype, t.shape[1:]) for n, t in other.extra.items()
        }
    again = ps.sift(sifter, whole[0].state, ps.live(net()), pools, governor=ps.governor())
    assert laws.equal(next(again), whole[1])


def test_pools_that_the_rule_does_not_want_are_not_scored():
    scored = []

    def score(params, batch):
        scored.append(1)
        return batch[0].sum(1)

    sifter = ps.sifter(score, ps.delay(ps.top(keep=0.5), steps=4), batch_size=8)
    pools = loader()
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    kinds = [bool(info.losses.isnan().all()) for *_, info in stream if len(info.losses)]
    assert len(scored) == 2
    assert kinds == [True] * 4 + [False] * (len(kinds) - 4)


def test_the_next_epoch_takes_over_what_is_left_and_flush_gives_the_rest():
    sifter, pools = build(ps.relative(keep=0.3, history=64), columns={"id": lambda batch: batch[1]}), loader()
    state, kept, trained = start(sifter, pools), 0, 0
    for epoch in range(3):
        pools.sampler.set_epoch(epoch)
        stream = ps.sift(sifter, state, ps.live(net()), pools)
        for _, weights, _, info in stream:
            trained += len(weights)
            kept += int(info.mask.sum())
        state = stream.state
    assert int(state.step) == 18
    held = int(state.buffer.fill[0])
    empty, rest = sifter.flush(state)
    assert sum(len(weights) for _, weights in rest) == held
    assert int(empty.buffer.fill[0]) == 0
    assert sifter.flush(empty)[1] == []


def test_epochs_are_one_stream():
    sifter, pools = build(), loader()
    one = ps.sift(sifter, start(sifter, pools), ps.live(net()), ps.epochs(pools, 3))
    together = [batch for batch, *_ in one]
    state, apart = start(sifter, pools), []
    for epoch in range(3):
        pools.sampler.set_epoch(epoch)
        stream = ps.sift(sifter, state, ps.live(net()), pools)
        apart += [batch for batch, *_ in stream]
        state = stream.state
    assert laws.equal(together, apart)
    assert laws.equal(one.state, state)
    assert ps.progress(one.state, 3 * len(pools)) == 1.0


def test_observe_feeds_the_batch_last_yielded():
    seen = []
    score = ps.Score(
        init=lambda: torch.zeros(()),
        apply=lambda state, params, batch: (state, batch[0].sum(1)),
        observe=lambda state, batch, losses: seen.append(batch) or state + losses.sum(),
    )
    sifter, pools = ps.sifter(score, ps.top(keep=0.5), batch_size=8), loader()
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    with pytest.raises(ValueError, match="none was yielded yet"):
        stream.observe(torch.zeros(8))
    batch, *_ = next(stream)
    stream.observe(torch.ones(8, requires_grad=True))
    assert float(stream.state.score) == 8.0
    assert seen[0] is batch or torch.equal(seen[0][0], batch[0])
    assert not stream.state.score.requires_grad
    next(stream)
    assert float(stream.state.score) == 8.0


def test_params_may_come_from_a_function_or_a_fixed_mapping():
    model, pools = net(), loader()
    sifter = build()
    answers = [
        [batch for batch, *_ in ps.sift(sifter, start(sifter, pools), params, pools)]
        for params in (ps.live(model), ps.live(model)(), lambda: ps.live(model)())
    ]
    assert laws.equal(answers[0], answers[1])
    assert laws.equal(answers[0], answers[2])


def test_mappings_come_out_as_dicts():
    class Encoding(dict):
        pass

    pools = [Encoding(x=torch.ones(4, 4), y=torch.zeros(4, dtype=torch.long), text=list("abcd"))] * 3
    model = net(norm=False)
    score = ps.batched(model, lambda model, b: nn.functional.cross_entropy(model(b["x"]), b["y"], reduction="none"))
    sifter = ps.sifter(score, ps.uniform(keep=1.0), batch_size=6)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(model), pools)
    batches = [batch for batch, *_ in stream]
    assert [type(batch) for batch in batches] == [dict] * 2
    assert ["".join(batch["text"]) for batch in batches] == ["abcdab", "cdabcd"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_batch_on_another_device_is_moved():
    model, pools = net().cuda(), loader()
    sifter = build()
    stream = ps.sift(sifter, start(sifter, pools), ps.live(model), pools)
    assert all(leaf.is_cuda for batch, *_ in stream for leaf in batch)
    assert stream.state.buffer.weights.is_cuda


def test_a_batch_and_the_state_are_moved_to_the_parameters_device():
    model, pools = net().to("meta"), [torch.zeros(4, 4)]
    sifter = ps.sifter(None, ps.uniform(keep=1.0), batch_size=4)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(model), pools)
    with pytest.raises((RuntimeError, NotImplementedError)):  # meta tensors cannot be read, so the first read ends it
        next(stream)
    assert stream.state.step.device.type == "meta"


def nan_loader():
    return [[torch.full((16, 4), torch.nan), torch.zeros(16, dtype=torch.long)]]


def test_a_non_finite_loss_stops_the_stream_and_names_the_cure():
    sifter = build()
    stream = ps.sift(sifter, start(sifter, loader()), ps.live(net()), nan_loader())
    with pytest.raises(ValueError, match=r"16 of 16 losses in pool 0 are NaN .*nonfinite=.drop.. or .keep."):
        next(stream)


def test_a_loader_that_ends_before_one_batch_is_full_is_an_error_and_nothing_is_lost():
    sifter, pools = build(batch_size=64), loader(rows=32)
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    with pytest.raises(ValueError, match=r"ended after 2 pools with \d+ kept rows, before one batch was full; lower"):
        next(stream)
    assert len(sifter.flush(stream.state)[1]) == 1


def test_an_empty_loader_is_an_error():
    sifter = build()
    state = start(sifter, loader())
    with pytest.raises(ValueError, match="the loader gave no batch"):
        next(ps.sift(sifter, state, ps.live(net()), []))


def test_a_state_in_an_unsized_loader_has_no_place_unless_told():
    sifter, pools = build(), list(loader())
    stream = ps.sift(sifter, start(sifter, pools), ps.live(net()), pools)
    _, _, state, _ = next(stream)
    rest = [batch for batch, *_ in stream]
    place = int(state.step)
    with pytest.raises(ValueError, match=f"has read {place} pools, but the loader has no length .* pass skip=0"):
        ps.sift(sifter, state, ps.live(net()), iter(pools))
    told = [batch for batch, *_ in ps.sift(sifter, state, ps.live(net()), iter(pools), skip=place)]
    ahead = [batch for batch, *_ in ps.sift(sifter, state, ps.live(net()), iter(pools[place:]), skip=0)]
    assert laws.equal(told, rest)
    assert laws.equal(ahead, rest)


def test_a_plain_loader_begins_its_next_pass_after_the_last_state():
    """Where the pass ends is not in the state: over `epochs` it is known, and the same states end with it."""
    sifter, pools = build(ps.relative(keep=0.9, history=64)), list(loader(rows=64))
    params, begin = ps.live(net()), start(sifter, pools)
    twice = list(ps.sift(sifter, begin, params, ps.epochs(pools, 2)))
    once = list(ps.sift(sifter, begin, params, pools))
    n = len(once)
    assert laws.equal(once, twice[:n])
    assert int(once[-1].state.step) == len(pools)
    for place, rest in ((0, twice[1:n]), (n - 1, twice[n:])):
        state = once[place].state
        assert laws.equal(list(ps.sift(sifter, state, params, pools)), rest)
        assert laws.equal(list(ps.sift(sifter, state, params, ps.epochs(pools, 2))), twice[place + 1 :])
        assert laws.equal(list(ps.sift(sifter, state, params, ps.epochs(pools, 1))), once[place + 1 :])
        assert laws.equal(list(ps.sift(sifter, state, params, pools, skip=int(state.step))), once[place + 1 :])
    following = twice[n]
    assert laws.equal(next(ps.sift(sifter, once[-1].state, params, pools)), following)
    assert laws.equal(list(ps.sift(sifter, following.state, params, pools)), twice[n + 1 :])
    promise = (Path(__file__).parents[2] / "puresift" / "README.md").read_text().replace("\n", " ")
    assert "A state that has read the whole of a plain loader begins its next pass" in promise


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"governor": True}, r"the governor is True; pass one, such as ps\.governor\(\)"),
        ({"governor": ps.governor}, r"the function governor itself; call it, as in ps\.governor\(\.\.\.\)"),
        ({"params": net()}, r"params is a model; pass ps\.live\(model\)"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(wrong, words):
    sifter, pools = build(), list(loader())
    with pytest.raises(TypeError, match=words) as caught:
        ps.sift(sifter, start(sifter, pools), **{"params": {}, "loader": pools, **wrong})
    assert isinstance(caught.value, ps.SiftError)
    if "governor" in wrong:
        with pytest.raises(ps.SiftError, match=words):
            ps.SiftingDataLoader(pools, None, ps.uniform(keep=1.0), params={}, **wrong)


@pytest.mark.parametrize("key", [torch.Generator(), 0, torch.zeros(2)])
def test_a_loader_refuses_what_is_no_key(key):
    with pytest.raises(
        TypeError, match=r"a key is Int64\[2\], and this is .*; make one from a seed, as in ps\.key\(0\)"
    ):
        ps.SiftingDataLoader(list(loader()), None, ps.uniform(keep=1.0), params={}, key=key)


@pytest.mark.parametrize("pools", [0, -1, 2.5])
def test_progress_refuses_a_bad_budget(pools):
    with pytest.raises(ValueError, match="pools must be a whole number >= 1"):
        ps.progress(start(build(), loader()), pools)
