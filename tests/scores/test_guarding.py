"""The door: what a score must leave alone is named at its first pool, and what it gives keeps nothing of it."""

import pytest
import torch
from torch import nn

import puresift as ps
from tests import laws

X = ps.keys.uniform(ps.key(0), 32).reshape(8, 4)


class Model(nn.Module):
    """BatchNorm, dropout, and a forward to be spoilt."""

    def __init__(self, spoil=lambda model, x: x):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.spoils = (spoil,)

    def forward(self, x):
        return self.drop(self.norm(self.first(self.spoils[0](self, x))))


def loss(model, x):
    return model(x).square().sum(1)


def counts(model, x):
    model.calls += 1
    return x


def wraps_the_old_forward(model):
    old = model.forward
    model.forward = lambda x: 2 * old(x)


def backward(model, x):
    with torch.enable_grad():
        loss(model, x).sum().backward()
    return loss(model, x)


def after(act):
    def spoilt(model, x):
        act(model)
        return loss(model, x)

    return spoilt


def prepared(spoil=None, change=None):
    model = Model(spoil) if spoil else Model()
    loss(model.train(), X).sum().backward()
    if change:
        change(model)
    return model


def live_loss(act):
    """A score of one's own, which runs the live model."""

    def make(model):
        def score(params, x):
            with torch.no_grad():
                act(model)
                return loss(model, x)

        return score

    return make


def twin(spoilt=loss):
    return lambda model: ps.batched(model, spoilt)


def another(model):
    return ps.batched(model, lambda _, x: loss(model, x))


def replaces(model):
    model.eval()
    model.calls = model.calls + 1


# What is spoilt: (the model, its score, the words)
OFFENDERS = {
    "a buffer counts up": (lambda: prepared(counts), twin(), r"writes to params\['calls'\].* `if self.training`"),
    "forward patched": (lambda: prepared(None, wraps_the_old_forward), twin(), "of the model itself.*subclass"),
    "another model": (prepared, another, "of the model itself.*use the loss's argument"),
    "train": (prepared, twin(after(lambda model: model.train())), "puts Model into train mode|writes to params"),
    "a part in train mode": (prepared, twin(after(lambda model: model.drop.train())), "puts drop into train mode"),
    "zero_grad": (prepared, twin(after(lambda model: model.zero_grad())), r"changes the gradient of .*zero_grad\(\)"),
    "zero_grad in place": (
        prepared, twin(after(lambda model: model.zero_grad(set_to_none=False))), "changes the gradient of",
    ),
    "backward": (prepared, twin(backward), r"changes the gradient of params\['first.weight'\].*backward\(\)"),
    "freezes": (prepared, twin(after(lambda model: model.requires_grad_(False))), "changes requires_grad of"),
    "live model in train mode": (prepared, live_loss(lambda model: None), "writes to params"),
    "live model left in eval mode": (prepared, live_loss(lambda model: model.eval()), "into eval mode.*ps.batched"),
    "live model's buffer replaced": (prepared, live_loss(replaces), r"replaces params\['calls'\] .*ps.batched"),
}  # fmt: skip


def stream(score, params, pools, **settings):
    sifter = ps.sifter(score, settings.pop("rule", ps.top(keep=0.5)), batch_size=4, **settings)
    return ps.sift(sifter, sifter.init(ps.key(0), pools[0]), params, pools)


@pytest.mark.parametrize("name", OFFENDERS)
@pytest.mark.parametrize("door", ["stream", "check"])
def test_a_score_that_touches_the_model_is_named_with_its_cure(name, door):
    make, score, words = OFFENDERS[name]
    model = make()
    score = score(model)
    if door == "check":
        with pytest.raises(ps.SiftError, match=words):
            ps.check(score, ps.live(model), X.clone())
        return
    sifted = stream(score, ps.live(model), [X.clone()] * 2)
    with pytest.raises(ps.SiftError, match=words):
        next(sifted)
    assert int(sifted.state.step) == 0, "the pool is not taken in"


@pytest.mark.parametrize("name", ["a buffer counts up", "a part in train mode", "zero_grad", "backward"])
def test_parameters_that_are_no_live_mapping_are_watched_too(name):
    make, score, words = OFFENDERS[name]
    for params in (lambda model: lambda: ps.live(model)(), lambda model: ps.live(model)()):
        model = make()
        with pytest.raises(ps.SiftError, match=words):
            next(stream(score(model), params(model), [X.clone()]))


def test_the_mode_of_a_compiled_score_is_watched_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    torch._dynamo.reset()
    score = ps.compiled(ps.batched(model, after(lambda model: model.train())), backend="eager")
    with pytest.raises(ps.SiftError, match="into train mode"):
        next(stream(score, ps.live(model), [X]))


def test_a_copy_that_was_put_into_train_mode_is_put_back():
    model, spoils = prepared(), [True]
    score = ps.batched(model, lambda model, x: (model.train(spoils[0] or model.training), loss(model, x))[1])
    with pytest.raises(ps.SiftError, match="into train mode"):
        score(ps.live(model), X)
    spoils.clear()
    spoils.append(False)
    honest = ps.batched(model, loss)(ps.live(model), X)
    assert torch.equal(score(ps.live(model), X), honest)


def test_a_clean_score_may_train_in_between_and_is_watched_once():
    """Gradients, modes and buffers change from pool to pool, and from the stream's beginning to its first score."""
    model = prepared()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hooked = []
    score = ps.batched(model, lambda twin, x: (hooked.append(len(model.drop._forward_pre_hooks)), loss(twin, x))[1])
    score(ps.live(model), X)
    sifted = stream(score, ps.live(model), [X] * 6, rule=ps.delay(ps.top(keep=0.5), steps=2))
    for batch, *_ in sifted:
        optimizer.zero_grad()
        loss(model.train(), batch).sum().backward()
        optimizer.step()
        model.eval()
    assert hooked == [1, 1, 0, 0, 0], "by itself once, and at the first scored pool of the stream"
    assert not any(module._forward_pre_hooks for module in model.modules())


# What comes in is not written to.


def divides(model, x):
    return x.div_(255)


WRAPPED = {
    "batched": lambda model: ps.batched(model, loss),
    "per_sample": lambda model: ps.per_sample(model.requires_grad_(False), loss),
    "chunked": lambda model: ps.chunked(ps.batched(model, loss), 3),
    "compiled": lambda model: ps.compiled(ps.batched(model, loss), backend="eager"),
    "state": lambda model: ps.change(ps.batched(model, lambda model, b: loss(model, b["x"])), 8),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_score_that_writes_to_its_batch_is_refused_at_every_pool(name):
    model = Model(lambda model, x: x.div_(255) if spoils else x)
    torch._dynamo.reset()
    spoils, score = [], WRAPPED[name](model)
    pool = {"x": X.clone(), "id": torch.arange(8)} if name == "state" else X.clone()
    sifter = ps.sifter(score, ps.top(keep=0.5), batch_size=4)
    state, _ = sifter.step(sifter.init(ps.key(0), pool), ps.live(model), pool)
    spoils.append(1)
    torch._dynamo.reset()
    with pytest.raises(ps.SiftError, match=r"writes to its input, leaf '\w+' of the batch.* x = x / 255"):
        sifter.step(state, ps.live(model), pool)


def test_rows_that_a_score_copies_first_may_be_written_to():
    model = Model(lambda model, x: x.clone().div_(255))
    batches = [sifted.batch for sifted in stream(ps.batched(model, loss), ps.live(model), [X.clone()] * 2)]
    assert all((batch[:, None] == X).all(2).any(1).all() for batch in batches)


def test_tensors_of_inference_mode_are_rows_like_others():
    with torch.inference_mode():
        pool = X.clone()
    model = prepared()
    assert len(list(stream(ps.batched(model, loss), ps.live(model), [pool] * 2))) == 2
    ps.check(ps.batched(model, loss), ps.live(model), pool)


# What goes out holds nothing of the score.


@pytest.mark.parametrize("rule", [ps.relative(keep=0.5, history=32), ps.importance(keep=0.5, history=32)])
def test_no_graph_stays_in_a_state_an_info_or_a_batch(rule):
    weight = torch.ones(4, requires_grad=True)
    pools = [{"x": X.clone().requires_grad_(), "y": X.sum(1)} for _ in range(3)]

    def apply(state, params, batch):
        losses = (batch["x"] * weight).sum(1)
        return state + losses.mean(), losses

    score = ps.Score(lambda: torch.zeros(()), apply)
    sifted = stream(score, {}, pools, rule=rule, columns={"x": lambda batch: batch["x"].sum(1) * weight.sum()})
    for item in [*sifted, sifted.state, sifted.info]:
        assert not any(leaf.requires_grad for leaf in laws.leaves(item))
    assert pools[0]["x"].requires_grad, "the caller's own tensors stay as they are"


OUT = torch.zeros(8)


def writes_over_its_answer(params, x):
    """Gives the same tensor at each call."""
    answer = OUT[: len(x)]
    return torch.sum(x * params["scale"], 1, out=answer)


def test_infos_of_a_score_that_writes_over_its_answer_differ():
    sifter = ps.sifter(writes_over_its_answer, ps.relative(keep=0.5), batch_size=4)
    state = sifter.init(ps.key(0), X)
    infos = []
    for step in range(3):
        state, info = sifter.step(state, {"scale": torch.tensor(1.0 + step)}, X)
        infos.append(info.losses)
    for step, losses in enumerate(infos):
        assert torch.equal(losses, (X * (1.0 + step)).sum(1))


def test_scores_made_of_one_that_writes_over_its_answer_are_right():
    one, two = {"scale": torch.tensor(1.0)}, {"scale": torch.tensor(3.0)}
    expected = X.sum(1)
    assert torch.equal(ps.chunked(writes_over_its_answer, 3)(one, X), expected)
    threefold = lambda params, x: writes_over_its_answer(two, x)  # noqa: E731
    for score in (
        ps.difference(threefold, writes_over_its_answer),
        ps.reducible(threefold, lambda x: writes_over_its_answer(one, x)),
    ):
        torch.testing.assert_close(score.apply(score.init(), one, X)[1], 2 * expected)


def test_a_check_compares_a_score_with_itself_though_it_writes_over_its_answer():
    calls = []

    def counts_its_calls(params, x):
        calls.append(1)
        return writes_over_its_answer({"scale": torch.tensor(float(len(calls)))}, x)

    with pytest.raises(ps.SiftError, match="calling the score again moves the losses"):
        ps.check(counts_its_calls, {}, X)


def test_numbers_among_the_parameters_are_left_to_the_score():
    sifter = ps.sifter(lambda params, batch: batch * params["scale"], ps.top(keep=0.5), batch_size=2)
    params, pools = {"weight": torch.ones(1), "scale": 2.0}, [ps.keys.uniform(ps.key(1), 4)] * 3
    assert len(list(ps.sift(sifter, sifter.init(ps.key(0), pools[0]), params, pools))) == 3
