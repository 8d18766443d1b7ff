"""The copy follows the live model: after any change, a score is what the live model would give in eval mode."""

import copy
import functools
import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.scores.model import Twin

X = ps.keys.uniform(ps.key(0), 24).reshape(6, 4) - 0.5


class Model(nn.Module):
    """A forward that reads plain attributes of all kinds, and sets some itself."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.temperature, self.mask = 1.0, torch.ones(4)
        self.shape = self.other = SimpleNamespace(shift=0.0, scales=[1.0], names={"power": 1})
        self.squash = torch.tanh
        self.calls, self.seen, self.hidden = 0, [], None

    def forward(self, x):
        self.calls += 1
        self.seen.append(self.calls)
        self.hidden = self.act(self.first(x)) * self.mask
        power = self.other.names["power"]
        return self.squash(self.last(self.hidden) / self.temperature * self.shape.scales[0] + self.shape.shift) ** power


def loss(model, x):
    return model(x).square().sum(1)


NAMED = Model()
SCORE = ps.batched(NAMED, loss)


def doubled(params, batch):
    return 2 * SCORE(params, batch)


def expected(model, x=X):
    with torch.no_grad():
        return loss(copy.deepcopy(model).eval(), x)


def assign(name, value):
    def change(model):
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, value() if callable(value) else value)

    return change


def untie(model):
    model.last.weight = nn.Parameter(torch.eye(4))


CHANGES = {
    "activation": assign("act", nn.Tanh),
    "function": lambda model: setattr(model, "squash", torch.sigmoid),
    "number": assign("temperature", 0.25),
    "tensor for a number": assign("temperature", lambda: torch.tensor(3.0)),
    "number of a part": assign("act", lambda: nn.LeakyReLU(0.5)),
    "tensor": assign("mask", lambda: torch.tensor([0.0, 1.0, 0.0, 2.0])),
    "tensor in place": lambda model: model.mask.mul_(torch.tensor([3.0, 0.0, 1.0, 1.0])),
    "object": lambda model: setattr(model, "shape", SimpleNamespace(shift=1.0, scales=[2.0])),
    "in an object": lambda model: setattr(model.shape, "shift", -1.0),
    "in a list in it": lambda model: model.shape.scales.__setitem__(0, 5.0),
    "in a dict in it": lambda model: model.shape.names.update(power=2),
    "untied": untie,
    "a bias more": lambda model: setattr(model.last, "bias", nn.Parameter(torch.ones(4))),
    "a bias less": lambda model: setattr(model.first, "bias", None),
    "a layer": lambda model: setattr(model, "first", nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU())),
}


def moved(model):
    model.last.bias, model.first.bias = model.first.bias, None


def swapped(model):
    model.first, model.last = model.last, model.first


def renamed(model):
    model.primary = model.first
    del model.first


BUILT = {  # what changes the names or the tensors of a model
    **CHANGES,
    "moved": moved,
    "swapped": swapped,
    "renamed": renamed,
    "made again": lambda model: model.__init__(),
    "a part of a leaf": lambda model: setattr(model.act, "inner", nn.Linear(2, 2)),
    "a buffer": lambda model: model.act.register_buffer("count", torch.zeros(())),
    "scripted": lambda model: setattr(model, "first", torch.jit.trace(nn.Linear(4, 4), X)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")  # deprecated, and still in use
@pytest.mark.parametrize("name", BUILT)
def test_live_parameters_are_those_that_the_model_has_now(name):
    model = Model()
    params = ps.live(model)
    for change in (lambda model: None, BUILT[name], lambda model: None):
        change(model)
        want = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert params().keys() == want.keys()
        assert all(params[key] is want[key] for key in want if name != "scripted")
    params().clear()
    assert params().keys() == want.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_live_model_is_followed(name):
    torch.manual_seed(0)
    model = Model().train()
    score, params = ps.batched(model, loss), ps.live(model)
    before = score(params, X)
    assert torch.equal(before, expected(model))
    CHANGES[name](model)
    after = score(params, X)
    assert torch.equal(after, expected(model))
    assert not torch.equal(after, before), "the change must matter"
    if name in ("object", "tensor for a number"):  # and what came in is followed in its turn
        model.shape.scales[0] = 7.0
        model.temperature = model.temperature * 2
        assert torch.equal(score(params, X), expected(model))
    if name == "untied":
        model.last.weight = model.first.weight
        assert torch.equal(score(params, X), before)


def columns(model, x):
    return model(x), torch.zeros(len(x), dtype=torch.int64)


SCORES = {
    "per_sample": lambda model: ps.per_sample(model, loss),
    "grad_norm": lambda model: ps.grad_norm(model, loss, only=lambda name: "first" in name),
    "entropy": lambda model: ps.entropy(model, columns),
    "chunked": lambda model: ps.chunked(ps.batched(model, loss), 4),
    "autocast": lambda model: ps.autocast(ps.batched(model, loss), torch.float32),
    "compiled": lambda model: ps.compiled(ps.batched(model, loss), backend="eager"),
    "compiled of one's own": lambda model: own(ps.batched(model, loss)),
}


def own(score):
    """A score within all that may hold one: a method's owner, a partial, a closure, a list."""

    class Owner:
        def __init__(self, scores):
            self.scores = scores

        def score(self, factor, params, batch):
            return factor * self.scores[0](params, batch)

    def scaled(params, batch):
        return held(params, batch)

    held = functools.partial(Owner([score]).score, 2.0)
    return ps.compiled(scaled, backend="eager")


class Bare(nn.Module):
    """As `Model`, without what the forward sets: compilers and vmap take it whole."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.temperature, self.mask = nn.Linear(4, 3), nn.ReLU(), 1.0, torch.ones(3)

    def forward(self, x):
        return self.act(self.first(x)) * self.mask / self.temperature


@pytest.mark.parametrize("name", SCORES)
def test_every_score_of_a_model_follows(name):
    torch.manual_seed(0)
    model = Bare()
    score, params = SCORES[name](model), ps.live(model)
    torch._dynamo.reset()
    for change in (
        lambda: None,
        assign("temperature", 0.5).__get__(model),
        assign("act", nn.Sigmoid).__get__(model),
        lambda: model.mask.copy_(torch.tensor([1.0, 0.0, 3.0])),
    ):
        change()
        fresh = SCORES[name](copy.deepcopy(model))
        torch.testing.assert_close(score(params, X), fresh(ps.live(model), X))


def test_what_a_forward_sets_is_left_to_each_of_the_two():
    model = Model()
    twin = Twin(model, loss)
    for step in range(1, 4):
        loss(model, X).sum().backward()  # sets a hidden state with a graph, a list and a counter
        loss(model, X)
        with torch.no_grad():
            twin.call(ps.live(model)(), X)
        assert (model.calls, len(model.seen)) == (2 * step, 2 * step)
    assert model.hidden.requires_grad
    assert not twin.model.hidden.requires_grad
    assert len(twin.model.seen) == 2 + 3, "those from before its first score, and its own"
    model.act = nn.Tanh()  # and a graph that a forward has left is no hindrance to a copy of other modules
    with torch.no_grad():
        assert torch.equal(twin.call(ps.live(model)(), X), loss(model, X))


def test_nothing_is_copied_while_nothing_changes():
    model = Bare()
    twin = Twin(model, loss)
    copied, mask = twin.model, twin.model.mask
    for _ in range(3):
        model.train(not model.training)
        with torch.no_grad():
            model.first.weight.mul_(1.5)
            twin.call(ps.live(model)(), X)
    assert twin.model is copied
    assert twin.model.mask is mask
    model.temperature = 2.0
    twin.follow(ps.live(model)())
    assert twin.model is copied
    assert twin.model.temperature == 2.0


def test_parts_that_share_a_setting_share_its_copy_and_a_setting_removed_is_gone():
    model = nn.Sequential(Bare(), Bare())
    twin = Twin(model, loss)
    model[0].config = model[1].config = SimpleNamespace(width=3)
    twin.follow(ps.live(model)())
    assert twin.model[0].config is twin.model[1].config is not model[0].config
    assert twin.model[0].config == model[0].config
    del model[0].config
    twin.follow(ps.live(model)())
    assert not hasattr(twin.model[0], "config")


def test_what_cannot_be_taken_over_is_told_once():
    model = Bare()
    twin, params = Twin(model, loss), ps.live(model)()
    model.optimizer = torch.optim.SGD(model.parameters(), 0.1)  # holds parameters: no setting of a forward
    twin.follow(params)
    model.guard = threading.Lock()
    with pytest.warns(UserWarning, match=r"'guard' of the model has become another lock .* make the score .* anew"):
        twin.follow(params)
    model.guard = threading.Lock()
    twin.follow(params)


def test_a_compiled_score_follows_a_model_whose_score_is_a_global():
    score, params = ps.compiled(doubled, backend="eager"), ps.live(NAMED)
    assert torch.allclose(score(params, X), doubled(params, X))
    NAMED.temperature = 3.0
    assert torch.allclose(score(params, X), 2 * ps.batched(NAMED, loss)(params, X))


@pytest.mark.filterwarnings("ignore:.* has a forward hook")
def test_handles_of_hooks_are_no_setting():
    model = Bare()
    twin, params = Twin(model, loss), ps.live(model)()
    before = {*vars(twin.model)}
    model.handles = [model.register_forward_hook(lambda *args: None)]
    twin.follow(params)
    assert {*vars(twin.model)} == before


@pytest.mark.parametrize("change", [lambda model: setattr(model, "cache", None), lambda model: delattr(model, "cache")])
def test_a_tensor_that_the_model_lets_go_is_freed(change):
    model = Bare()
    model.cache = torch.ones(3)
    twin, cache = Twin(model, loss), weakref.ref(model.cache)
    change(model)
    twin.follow(ps.live(model)())
    assert cache() is None


def test_the_weights_of_a_model_that_is_given_up_are_freed():
    model = Bare()
    score, weight = ps.batched(model, loss), weakref.ref(next(model.parameters()))
    params = {name: tensor.detach().clone() for name, tensor in ps.live(model)().items()}
    before = score(params, X)
    del model
    gc.collect()
    assert weight() is None and torch.equal(score(params, X), before)


def test_a_model_that_is_given_up_leaves_its_score_as_it_was():
    model = Bare()
    score, params = ps.batched(model, loss), ps.live(model)()
    before = score(params, X)
    del model
    assert torch.equal(score(params, X), before)
