"""Batches that need not be full: what leaves, its weights, its shapes, and that nothing is lost."""

import random

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.stream import leaving
from puresift.testing.comparing import through_file
from tests import laws
from tests.distributed.worlds import launch

ROWS = 16
LIVE = [16, 0, 3, 0, 0, 9, 1, 8, 0, 2]  # rows with a gradient in each pool


def pools(live=LIVE, seed=0):
    """Rows of features, a target, a place, and an advantage that is 0 for those without a gradient."""
    made = []
    for number, count in enumerate(live):
        numbers = ps.keys.uniform(ps.key(100 * seed + number), ROWS * 6).view(ROWS, 6).double() - 0.5
        order = ps.keys.uniform(ps.key(100 * seed + number + 50), ROWS).argsort()
        gain = torch.where(order < count, numbers[:, 4] + 1, 0.0)
        made.append(
            {"x": numbers[:, :4], "y": numbers[:, 5], "gain": gain, "place": torch.arange(ROWS) + ROWS * number}
        )
    return made


def score(params, batch):
    return batch["gain"].abs()


def build(rule=None, batch_size=8, **settings):
    return ps.sifter(score, rule or ps.nonzero(), batch_size=batch_size, **settings)


def stream(sifter, data, state=None, **options):
    state = sifter.init(ps.key(0), data[0]) if state is None else state
    return ps.sift(sifter, state, {}, ps.epochs(data, 1), **options)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def losses(model, batch):
    return batch["gain"] * (model(batch["x"])[:, 0] - batch["y"]).square()


def steps(model, optimizer, batch, weights=1.0):
    optimizer.zero_grad()
    (weights * losses(model, batch)).mean().backward()
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_batch_a_pool_is_the_plain_trajectory(name):
    data = [pool for seed in range(4) for pool in pools(seed=seed)]
    plain, sifted = net(), net()
    one, other = (OPTIMIZERS[name](model.parameters()) for model in (plain, sifted))
    for pool in data:
        steps(plain, one, pool)
    sifter, done, rows = build(), 0, 0
    run = stream(sifter, data, refill=False)
    for batch, weights, state, _info in run:
        for _ in range(int(state.step) - done - 1):  # pools that keep nothing: a step without a gradient
            other.zero_grad(set_to_none=False)
            other.step()
        done, rows = int(state.step), rows + len(weights)
        steps(sifted, other, batch, weights)
    for _ in range(int(run.state.step) - done):
        other.zero_grad(set_to_none=False)
        other.step()
    assert rows < 0.4 * ROWS * len(data)
    # Weights are floats of single precision, as all weights are.
    for mine, theirs in zip(sifted.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [{"refill": False}, {"patience": 1}])
def test_keeping_everything_is_the_pools_themselves_to_the_bit(options):
    data = pools()
    given = list(stream(build(ps.uniform(keep=1.0), batch_size=ROWS), data, **options))
    assert len(given) == len(data)
    for pool, (batch, weights, _state, _info) in zip(data, given, strict=True):
        assert laws.equal(batch, pool) and torch.equal(weights, torch.ones(ROWS))


def test_what_leaves_is_what_was_kept_in_one_of_eight_sizes():
    data, sizes, given = pools(), set(), stream(build(), pools(), refill=False)
    kept = [pool for pool in data if (pool["gain"] != 0).any()]
    seen = 0
    for pool, (batch, weights, state, info) in zip(kept, given, strict=True):
        rows = int((pool["gain"] != 0).sum())
        assert torch.equal(batch["place"][:rows], pool["place"][pool["gain"] != 0])
        assert (batch["place"][rows:] == batch["place"][rows - 1]).all() and not weights[rows:].any()
        values = torch.arange(float(len(weights))) * (torch.arange(len(weights)) < rows)
        assert float((weights * values).mean()) == pytest.approx(float(values.sum()) / ROWS)
        assert len(weights) - rows < ROWS / 8 and int(state.buffer.fill[0]) == 0
        sizes.add(len(weights))
        seen += len(info.losses)
        assert len(info.extra["nonfinite"]) * ROWS == len(info.losses), "pools without a batch are in the next info"
    assert sizes <= {2 * n for n in range(1, 9)}
    assert seen == ROWS * len(data) and int(given.state.step) == len(data)


@pytest.mark.parametrize("whole", [1, 3, 8, 10, 16, 100])
def test_sizes_are_eighths_rounded_up(whole):
    sizes = [leaving.size(rows, whole) for rows in range(1, whole + 1)]
    assert sorted(sizes) == sizes and set(sizes) <= {-(-n * whole // 8) for n in range(1, 9)}
    assert all(size >= rows for rows, size in enumerate(sizes, 1)) and sizes[-1] == whole


@pytest.mark.parametrize("options", [{"refill": False}, {"patience": 2}, {"patience": 4}])
@pytest.mark.parametrize("rule", [ps.nonzero(), ps.relative(keep=0.3, history=64)])
def test_it_resumes_to_the_bit_at_every_batch(rule, options):
    data, sifter = pools(), build(rule)
    assert ps.testing.assert_resumes(lambda state=None: stream(sifter, data, state, **options)) > 3


def test_a_state_goes_on_with_full_batches_or_with_one_a_pool():
    """Its form is the same; rows that wait are then a batch of their own."""
    sifter, data = build(ps.top(keep=0.3), batch_size=8), pools()
    full = stream(sifter, data)
    state = through_file(next(full).state)
    waiting = int(state.buffer.fill[0])
    assert 0 < waiting < 8
    batches = [sifted.weights for sifted in stream(sifter, data, state, refill=False)]
    assert len(batches) == 1 + len(data) - int(state.step)
    assert int((batches[0] > 0).sum()) == waiting
    apart = stream(sifter, data, refill=False)
    again = stream(sifter, data, next(apart).state)
    assert all(len(sifted.weights) == 8 for sifted in again)


def test_rows_of_another_length_are_cut_and_lists_of_objects_leave_whole():
    long = [{"tokens": (torch.arange(6) < torch.arange(1, 5)[:, None]).long() * (n + 1)} for n in range(3)]
    sifter = ps.sifter(
        lambda params, batch: (batch["tokens"].sum(1) % 2).float(), ps.nonzero(), batch_size=4,
        pad={"tokens": ps.Pad(0, 6)}, length=lambda batch: (batch["tokens"] > 0).sum(1),
    )  # fmt: skip
    assert [sifted.batch["tokens"].shape[1] for sifted in stream(sifter, long, refill=False)] == [3, 3]
    words = [{"name": [f"{n}{letter}" for letter in "abcd"], "keep": torch.tensor([0.0, 1, 0, n])} for n in range(3)]
    sifter = ps.sifter(lambda params, batch: batch["keep"], ps.nonzero(), batch_size=9)
    names = [sifted.batch["name"] for sifted in stream(sifter, words, refill=False)]
    assert names == [["0b"], ["1b", "1d"], ["2b", "2d"]]


def test_rows_may_be_groups_whose_score_costs_nothing():
    """A row is a prompt with all of its rollouts; it is kept where some advantage is not 0."""
    prompts, group = 12, 4
    numbers = ps.keys.uniform(ps.key(1), prompts * group * 3).view(prompts, group, 3)
    reward = (numbers[..., 0] > torch.linspace(-0.2, 1.2, prompts)[:, None]).float()
    batch = {"prompt": numbers[:, 0, 1:], "rollout": numbers, "advantage": reward - reward.mean(1, keepdim=True)}
    mixed = (reward.mean(1) > 0) & (reward.mean(1) < 1)
    sifter = ps.sifter(lambda params, batch: batch["advantage"].abs().amax(1), ps.nonzero(), batch_size=4)
    (kept, weights, _state, info), = stream(sifter, [batch], refill=False)  # fmt: skip
    rows = int(mixed.sum())
    assert 0 < rows < prompts and torch.equal(info.mask, mixed)
    assert torch.equal(kept["rollout"][:rows], numbers[mixed]) and kept["advantage"].shape[1:] == (group,)

    def loss(weight, batch):
        return (batch["advantage"] * (batch["rollout"] @ weight).tanh()).mean(1)

    weight = torch.ones(3, requires_grad=True)
    plain = torch.autograd.grad(loss(weight, batch).mean(), weight)[0]
    sifted = torch.autograd.grad((weights * loss(weight, kept)).mean(), weight)[0]
    assert torch.linalg.norm(sifted - plain) <= 1e-6 * torch.linalg.norm(plain)


def by_hand(live, batch_size, patience):
    """The places that each batch holds, and what is left: lists and counts, no tensors."""
    batches, held, waited = [], [], 0
    for pool in live:
        held, waited = held + pool, waited + 1
        while len(held) >= batch_size:
            batches.append(held[:batch_size])
            held, waited = held[batch_size:], 0
        if waited >= patience and held:
            batches.append(held)
            held, waited = [], 0
    return batches, held


def check_against_the_model(seed):
    chance = random.Random(seed)
    number, burst, kind = chance.randint(1, 12), chance.randint(1, 4), chance.choice(["dead", "alive", "bursts", "any"])
    count = {
        "dead": lambda n: 0,
        "alive": lambda n: ROWS,
        "bursts": lambda n: chance.randint(1, ROWS) if n // burst % 2 else 0,
        "any": lambda n: chance.choice([0, 0, chance.randint(0, ROWS)]),
    }[kind]
    data = pools([count(n) for n in range(number)], seed % 40)
    batch_size, patience = chance.choice([1, 5, 8, 16, 24]), chance.randint(1, 6)
    alive = [pool["place"][pool["gain"] != 0].tolist() for pool in data]
    expected, left = by_hand(alive, batch_size, patience)
    run, shorts, short = stream(build(batch_size=batch_size), data, patience=patience), 0, 0
    for places, (batch, weights, _state, info) in zip(expected, run, strict=True):
        rows = len(places)
        assert batch["place"][:rows].tolist() == places and not weights[rows:].any() and (weights[:rows] > 0).all()
        assert len(weights) == (batch_size if rows == batch_size else leaving.size(rows, batch_size)) <= batch_size
        shorts, short = shorts + int(info.extra["left_short"].sum()), short + (rows < batch_size)
        assert shorts == short, "each short batch is counted with the pool that ended it"
    places = [
        place for batch, _ in build(batch_size=batch_size).flush(run.state)[1] for place in batch["place"].tolist()
    ]
    assert places == left and int(run.state.step) == number


@pytest.mark.parametrize("seed", range(40))
def test_patience_is_the_model_by_hand(seed):
    check_against_the_model(seed)


@pytest.mark.slow
def test_a_thousand_random_streams_lose_nothing_and_never_stop():
    for seed in range(1000):
        check_against_the_model(seed)


@pytest.mark.parametrize("options", [{"refill": False}, {"patience": 2}])
def test_infos_of_short_batches_are_read_by_all_who_read_infos(options, tmp_path):
    """And a governor has its say: pools that it hands through are whole ones."""
    meter, data = ps.Meter(), pools()
    run = stream(build(columns={"id": lambda batch: batch["place"]}), data, governor=ps.governor(), **options)
    with ps.Recorder(tmp_path, name="short", every=1) as recorder:
        for _batch, _weights, state, info in run:
            meter.update(info)
            recorder.write(info, state.step)
            assert ps.summarize(info)["seen"] == len(info.losses)
    meter.update(run.info)
    assert meter.read()["seen"] == ROWS * len(data)
    assert ("left_short" in run.info.extra) == ("patience" in options)


def test_an_empty_stream_still_says_so_and_dead_ones_do_not_stop():
    for options in ({"refill": False}, {"patience": 3}):
        run = stream(build(), pools([0, 0, 0, 0]), **options)
        assert list(run) == [] and int(run.state.step) == 4 and len(run.info.losses) == 4 * ROWS
        sifter, data = build(), pools([1])
        with pytest.raises(ps.SiftError, match="gave no batch"):
            list(ps.sift(sifter, sifter.init(ps.key(0), data[0]), {}, iter(()), skip=0, **options))


def test_on_several_ranks_a_pool_that_keeps_nothing_gives_a_batch_of_weight_0(monkeypatch):
    monkeypatch.setattr(leaving, "place", lambda: (0, 2))
    data = pools()
    given = list(stream(build(), data, refill=False))
    assert [int((sifted.weights > 0).sum()) for sifted in given] == LIVE
    assert all(len(sifted.weights) == leaving.size(count, ROWS) for sifted, count in zip(given, LIVE, strict=True))
    for pool, sifted in zip(data, given, strict=True):
        assert int(sifted.batch["place"][0]) // ROWS == int(pool["place"][0]) // ROWS


@pytest.mark.slow
def test_two_ranks_of_ddp_end_where_the_plain_loop_does():
    """A pool that keeps nothing on one of them gives a step all the same."""
    jobs = [("trained", 2, {"name": name}) for name in OPTIMIZERS]
    *answers, words = launch("tests.stream.exact_ranks", [*jobs, ("objects", 2, {})], processes=2)
    for first, second in answers:
        assert first["error"] < 1e-6 and first["moved"] > 1e-2
        assert first["weights"] == second["weights"] and first["rows"] != second["rows"]
        assert len(first["rows"]) == len(second["rows"]) == 18
    assert all("let rows be tensors" in said for said in words)


REFUSED = {  # in words
    "both": (lambda: build(), {"refill": False, "patience": 2}, "choose"),
    "patience": (lambda: build(), {"patience": 0}, "patience must be"),
    "own step": (lambda: build()._replace(step=lambda *args: None), {"refill": False}, "use ps.sifter"),
    "global": (lambda: build(ranks="global"), {"patience": 2}, "leave out either"),
    "bucket": (lambda: build(bucket=lambda batch: batch["place"]), {"refill": False}, "length="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_before_anything_is_read(name):
    make, options, words = REFUSED[name]
    with pytest.raises(ps.SiftError, match=words):
        stream(make(), pools(), state=build().init(ps.key(0), pools()[0]), **options)
