"""Scoring leaves the model alone, and says what is wrong with a loss."""

import copy

import pytest
import torch
from torch import nn

import puresift as ps
from tests.laws import flat
from tests.strategies import cross_entropy, data, net


def everything(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.filterwarnings("ignore:.* has a forward hook")
@pytest.mark.parametrize("make", [ps.batched, ps.per_sample])
def test_scoring_leaves_parameters_buffers_rng_and_mode_alone(make):
    model = net().train()
    fired = []
    model[0].register_forward_hook(lambda *args: fired.append(1))
    before, rng = everything(model), torch.get_rng_state()
    make(model, cross_entropy)(ps.live(model), data(16).tensors)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not fired, "hooks belong to the training forward"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_twin_scores_as_the_model_would_in_eval_mode():
    model = net()
    model(data(32, 5).tensors[0])  # move the BatchNorm statistics
    score = ps.batched(net(1), cross_entropy)
    with torch.no_grad():
        expected = cross_entropy(copy.deepcopy(model).eval(), data(16).tensors)
    assert torch.equal(score(ps.live(model), data(16).tensors), expected)


def test_live_parameters_are_the_newest():
    model = net()
    score, params, batch = ps.batched(model, cross_entropy), ps.live(model), data(8).tensors
    first = score(params, batch)
    model[1].running_mean = model[1].running_mean + 1  # replaced, not written to
    assert not torch.equal(score(params, batch), first)
    assert set(params) == set(dict(model.named_parameters())) | set(dict(model.named_buffers()))
    assert len(params) == len(list(params))
    assert params["0.weight"] is model[0].weight


def test_the_twin_spends_no_memory_and_keeps_ties():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x))

    model, x = Tied(), torch.arange(5)
    score = ps.batched(model, lambda model, x: nn.functional.cross_entropy(model(x), x, reduction="none"))
    assert list(ps.live(model)) == ["embed.weight"]
    loss = nn.functional.cross_entropy(model(x), x, reduction="none")
    torch.testing.assert_close(score(ps.live(model), x), loss.detach())


def test_wrappers_are_taken_off():
    model, batch = net().eval(), data(8).tensors
    compiled = torch.compile(model, backend="eager")
    expected = ps.batched(model, cross_entropy)(ps.live(model), batch)
    assert torch.equal(ps.batched(compiled, cross_entropy)(ps.live(compiled), batch), expected)
    parallel = nn.DataParallel(model)
    assert list(ps.live(parallel)) == list(ps.live(model))


def test_a_loss_may_be_a_module_and_call_the_model_as_it_likes():
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, model, x):
            return self.scale.detach() * (model[0](x) + model(x)).square().sum(-1)

    model, x = nn.Sequential(nn.Linear(3, 3)), torch.ones(4, 3)
    assert ps.batched(model, Smooth())(ps.live(model), x).shape == (4,)


@pytest.mark.filterwarnings("ignore:.* has a forward hook")
def test_hooks_with_large_owners_are_not_copied():
    class Heavy:
        def __deepcopy__(self, memo):
            raise AssertionError("a hook's owner was copied")

        def hook(self, *args):
            return None

    model, heavy = net(), Heavy()
    model[0].register_forward_hook(heavy.hook)
    model[0].register_full_backward_hook(heavy.hook)
    ps.batched(model, cross_entropy)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_computed_in_hooks_are_refused(wrap):
    with pytest.raises(ValueError, match=r"computes its weight in a hook .* torch.nn.utils.parametrizations instead"):
        ps.batched(nn.Sequential(wrap(nn.Linear(4, 3))), cross_entropy)


def test_parametrizations_are_fine():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    batch = data(8).tensors
    torch.testing.assert_close(
        ps.batched(model, cross_entropy)(ps.live(model), batch), cross_entropy(model, batch).detach()
    )


def test_a_model_that_caches_a_computed_tensor_is_refused_in_words():
    model = net()
    model.cache = model[0].weight * 2
    with pytest.raises(ValueError, match=r"cannot be copied for scoring .* clear the cache before sifting"):
        ps.batched(model, cross_entropy)


def test_missing_or_unknown_parameters_are_named():
    model, batch = net(), data(8).tensors
    score, params = ps.batched(model, cross_entropy), ps.live(model)()
    with pytest.raises(ValueError, match=r"missing \['1.running_mean'\], unknown \[\]; pass ps.live\(model\)"):
        score({name: tensor for name, tensor in params.items() if name != "1.running_mean"}, batch)
    with pytest.raises(ValueError, match=r"unknown \['module.0.weight'\]"):
        score({**params, "module.0.weight": params["0.weight"]}, batch)


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        (lambda values: values.mean(), r'already reduced to one number, .* each of the 8 rows; pass reduction="none"'),
        (lambda values: values[:3], r"must have shape \[8\], one number a row, got \[3\]"),
        (lambda values: values[:, None].expand(-1, 2), r"got \[8, 2\]; reduce every dimension but the first"),
        (lambda values: values[None], r"got \[1, 8\]; reduce every dimension but the first"),
        (lambda values: values.long(), r"must be floating point, got torch.int64; call .float\(\)"),
        (lambda values: values.tolist(), "must be a tensor of 8 numbers, got list"),
    ],
    ids=["scalar", "short", "two-dimensional", "row", "integer", "list"],
)
def test_a_loss_that_is_not_one_number_a_row_is_refused(reduce, words):
    score = ps.batched(net(), lambda model, batch: reduce(cross_entropy(model, batch)))
    with pytest.raises(ValueError, match=words):
        score(ps.live(net()), data(8).tensors)


@pytest.mark.parametrize("rows", [8, 1])
def test_a_column_of_losses_is_read_as_losses(rows):
    model, batch = net(), data(rows).tensors
    column = ps.batched(model, lambda model, batch: cross_entropy(model, batch)[:, None])
    expected = ps.batched(model, cross_entropy)(ps.live(model), batch)
    assert torch.equal(column(ps.live(model), batch), expected)
    sifter = ps.sifter(lambda params, batch: column(params, batch)[:, None], ps.top(keep=0.5), batch_size=4)
    _, info = sifter.step(sifter.init(ps.key(0), batch), ps.live(model), batch)
    assert torch.equal(info.losses, expected)


@pytest.mark.parametrize("given", [lambda model: model, lambda model: list(model.parameters())], ids=["model", "list"])
def test_a_model_in_place_of_its_parameters_is_refused_with_the_cure(given):
    model, batch = net(), data(8).tensors
    score = ps.batched(model, cross_entropy)
    sifter = ps.sifter(score, ps.top(keep=0.5), batch_size=4)
    words = r"params is a (model|list); pass ps.live\(model\)"
    for call in (
        lambda: score(given(model), batch),
        lambda: ps.per_sample(model, cross_entropy)(given(model), batch),
        lambda: ps.compiled(score, backend="eager")(given(model), batch),
        lambda: sifter.step(sifter.init(ps.key(0), batch), given(model), batch),
        lambda: ps.check(score, given(model), batch),
    ):
        with pytest.raises(ps.SiftError, match=words):
            call()


def test_per_sample_takes_a_loss_that_reduces_its_one_row():
    model = net()
    score = ps.per_sample(model, lambda model, batch: cross_entropy(model, batch).mean())
    batch = data(8).tensors
    torch.testing.assert_close(score(ps.live(model), batch), ps.batched(model, cross_entropy)(ps.live(model), batch))


def test_per_sample_refuses_more_than_one_number_a_row():
    score = ps.per_sample(net(), lambda model, batch: model(batch[0]))
    with pytest.raises(ValueError, match=r"the loss of one row must be one number, got shape \[1, 3\]"):
        score(ps.live(net()), data(8).tensors)


def test_mappings_and_nested_batches():
    model = nn.Linear(4, 3)

    class Encoding(dict):
        pass

    def loss(model, batch):
        return model(batch["a"]["x"]).sum(-1)

    batch = Encoding(a={"x": torch.ones(5, 4)}, b=(torch.zeros(5), [torch.ones(5)]))
    torch.testing.assert_close(
        ps.batched(model, loss)(ps.live(model), batch), ps.per_sample(model, loss)(ps.live(model), batch)
    )


def test_flat_names_cover_the_model():
    assert flat(ps.live(net())()).keys() == {f"/{name}" for name in net().state_dict()}
