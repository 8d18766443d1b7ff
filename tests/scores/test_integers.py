"""8-bit whole numbers: the weights of now, a stated error, the same numbers each time; and where they gain nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from puresift.scores import integers
from puresift.trials import rank_correlation
from tests import laws
from tests.strategies import seeds


def noise(*shape, seed=0):
    return ps.keys.uniform(ps.key(seed), math.prod(shape)).reshape(shape) * 2 - 1


def net(width=32, seed=0, layers=3):
    """Random, without anything narrow: all of its layers but the head are `width` wide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.LayerNorm(width), nn.GELU())]
        return nn.Sequential(*parts, nn.Linear(width, 4))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]).float(), batch["y"], reduction="none")


def pool(rows=64, width=32, seed=0):
    return {"x": noise(rows, width, seed=seed), "y": torch.arange(rows) % 4}


def both(model, least=32):
    score = ps.batched(model, loss)
    return score, ps.int8(score, least=least, anyway=True)


@given(seed=seeds, rows=st.integers(1, 20), inputs=st.integers(1, 70), outputs=st.integers(1, 40))
def test_a_layer_is_within_the_stated_error(seed, rows, inputs, outputs):
    x, weight, bias = (noise(*shape, seed=seed + 9) for shape in ((rows, inputs), (outputs, inputs), (outputs,)))
    x = x * 10 ** (4 * noise(rows, 1, seed=seed + 5))
    most = inputs * x.abs().amax(1)[:, None] * weight.abs().amax(1) * (1 / 127 + 1 / 254**2)
    exact = x.double() @ weight.double().T + bias
    error = (integers.linear(x, weight, bias) - exact).abs()
    assert bool((error <= most + 1e-5 * exact.abs()).all())


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_layer_answers_as_linear_does(shape, dtype):
    x, weight = noise(*shape).to(dtype), noise(5, 8, seed=1).to(dtype)
    answer, exact = integers.linear(x, weight), nn.functional.linear(x, weight)
    assert (answer.shape, answer.dtype) == (exact.shape, dtype)
    torch.testing.assert_close(answer, exact, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert integers.linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("seed", range(4))
def test_losses_of_random_nets_are_near_and_rank_alike(seed):
    model, batch = net(64, seed), pool(256, 64, seed)
    score, rounded = both(model)
    exact, rough = (one(ps.live(model), batch) for one in (score, rounded))
    assert not torch.equal(exact, rough), "nothing was rounded"
    assert float((rough - exact).std() / exact.std()) < 0.03
    assert rank_correlation(exact, rough) > 0.999


def test_it_is_deterministic_and_reads_the_weights_of_now():
    model, batch = net(), pool()
    score, rounded = both(model)
    params = ps.live(model)
    first = rounded(params, batch)
    assert torch.equal(first, rounded(params, batch))
    with torch.no_grad():
        model[0].weight.copy_(noise(32, 32, seed=5))
    after = rounded(params, batch)
    assert not torch.equal(first, after)
    assert torch.equal(after, both(model)[1](params, batch)), "rounded weights were kept"
    torch.testing.assert_close(after, score(params, batch), rtol=0.05, atol=0.05)


def test_the_model_its_modes_and_the_plain_score_are_left_alone():
    model, batch = net(), pool()
    score, rounded = both(model)
    before, forward = score(ps.live(model), batch), nn.functional.linear
    with laws.untouched(dict(model.named_parameters()), batch):
        answer = rounded(ps.live(model), batch)
    assert model.training
    assert not answer.requires_grad
    assert nn.functional.linear is forward
    assert torch.equal(score(ps.live(model), batch), before)


def test_only_wide_layers_are_rounded(monkeypatch):
    seen = []
    whole = integers.linear
    monkeypatch.setattr(integers, "linear", lambda x, weight, bias: seen.append(weight.shape) or whole(x, weight, bias))
    model = nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 40), nn.Linear(40, 4))
    ps.int8(ps.batched(model, loss), least=40, anyway=True)(ps.live(model), pool())
    assert seen == [(40, 48)]
    assert integers.LEAST == 256


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_spoils_its_row_and_no_other(value):
    x, weight = noise(5, 8), noise(6, 8, seed=1)
    exact = integers.linear(x, weight)
    x[2, 3] = value
    answer = integers.linear(x, weight)
    assert bool(answer[2].isnan().all())
    rest = [0, 1, 3, 4]
    assert torch.equal(answer[rest], exact[rest])
    assert torch.equal(integers.linear(torch.zeros(2, 8), weight), torch.zeros(2, 6))


@pytest.mark.parametrize(("rows", "depth", "channels"), [(1, 8, 8), (16, 9, 15), (17, 24, 7), (40, 16, 16)])
def test_shapes_are_filled_up_for_a_gpu_and_nothing_changes(rows, depth, channels):
    left, right = ((noise(*shape) * 127).to(torch.int8) for shape in ((rows, depth), (channels, depth)))
    one, other = integers.fitted(left, right)
    assert one.shape[0] > 16
    assert one.shape[1] % 8 == other.shape[0] % 8 == other.shape[1] % 8 == 0
    assert torch.equal(torch._int_mm(one, other)[:rows, :channels], left.int() @ right.int().T)


class Attending(nn.Module):
    """Asks for devices and shapes, and unflattens, as models do; may break the graph."""

    def __init__(self, breaks):
        super().__init__()
        self.wide, self.place, self.breaks = nn.Linear(32, 64), nn.Embedding(8, 32), breaks

    def forward(self, x):
        if self.breaks:
            torch._dynamo.graph_break()
        x = x.unflatten(1, (2, -1)).flatten(1)
        x = x + self.place(torch.arange(x.shape[1] // 32, device=x.device))[0].to(x.device)
        return self.wide(x).unflatten(-1, (2, -1)).sum(-1)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_model_that_asks_for_devices_compiles_whether_or_not_it_breaks_the_graph(breaks):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, counter = Attending(breaks), CompileCounterWithBackend("eager")
    _, whole = both(model)
    compiled = ps.compiled(whole, backend=counter)
    for seed in (0, 1):
        batch = {"x": noise(16, 32, seed=seed), "y": torch.arange(16) % 2}
        torch.testing.assert_close(compiled(ps.live(model), batch), whole(ps.live(model)(), batch))
    assert (counter.frame_count == 1) is not breaks


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_it_compiles_once_for_pools_of_all_sizes_and_moves_with_the_weights(half):
    torch._dynamo.reset()
    model = net(layers=1)
    score = ps.batched(model, loss)
    plain = ps.int8(ps.autocast(score) if half else score, least=32, anyway=True)
    counter = CompileCounterWithBackend("aot_eager")
    fast = ps.compiled(plain, backend=counter)
    for rows in (12, 5, 1):
        assert torch.equal(fast(ps.live(model), pool(rows)), plain(ps.live(model), pool(rows)))
        with torch.no_grad():
            model[0].weight.mul_(-1.5)
    assert counter.frame_count == 1


def forget():
    integers.multiplies.cache_clear()
    integers._tell.cache_clear()


@pytest.fixture
def old(monkeypatch):
    """A machine without the instruction, which has said nothing yet."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    forget()
    yield
    forget()


@pytest.mark.parametrize("wrap", [lambda score: score, lambda score: ps.compiled(score, backend="aot_eager")])
def test_a_machine_without_the_instruction_is_told_once_and_scores_as_before(old, wrap):
    torch._dynamo.reset()
    model, batch = net(layers=1), pool()
    score = ps.batched(model, loss)
    rounded = wrap(ps.int8(score, least=32))
    with pytest.warns(UserWarning, match="neither AVX512-VNNI nor AMX, so ps.int8 would be slower") as said:
        first = rounded(ps.live(model), batch)
    assert len(said) == 1
    assert not integers.multiplies("mps", 0)
    torch.testing.assert_close(first, score(ps.live(model), batch))
    assert torch.equal(ps.int8(score, least=32)(ps.live(model), batch), score(ps.live(model), batch))


def test_a_machine_with_the_instruction_rounds(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    forget()
    model, batch = net(), pool()
    score = ps.batched(model, loss)
    try:
        assert torch.equal(ps.int8(score, least=32)(ps.live(model), batch), both(model)[1](ps.live(model), batch))
    finally:
        forget()


@pytest.mark.parametrize(("capability", "able"), [((7, 0), False), ((7, 5), True), ((9, 0), True)])
def test_a_gpu_is_asked_for_its_capability(old, monkeypatch, capability, able):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    if able:
        assert integers.able("cuda", 0)
    else:
        with pytest.warns(UserWarning, match="older than compute capability 7.5"):
            assert not integers.able("cuda", 0)


class Shard:
    """A score of a sharded model, as far as it can be told apart."""

    def __init__(self, model):
        self.scored = integers.Scored(model, loss)
        self.scored.image = integers.Sharded(model, loss)

    def __call__(self, params, batch):
        return self.scored.call(params, batch)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda wide, thin, words: ps.per_sample(wide, loss), "a per-sample score .* wrap the batched one"),
        (lambda wide, thin, words: ps.grad_norm(wide, loss), "a per-sample score"),
        (lambda wide, thin, words: Shard(wide), "a sharded model is scored live"),
        (lambda wide, thin, words: ps.batched(thin, loss), "no linear layer of the model is 32 wide, the widest 8"),
        (lambda wide, thin, words: ps.batched(words, loss), "no linear layer of the model is 32 wide, the widest 0"),
        (lambda *_: ps.recalled(9), "rounds a plain score, and this is a Score; wrap the score inside it"),
        (lambda *_: "loss", "rounds a plain score, and this is a str"),
    ],
    ids=["per_sample", "grad_norm", "sharded", "narrow", "embedding", "remembering", "word"],
)
def test_what_cannot_gain_is_refused(make, words):
    models = net(), net(8), nn.Embedding(64, 64)
    with pytest.raises(ps.SiftError, match=words):
        ps.int8(make(*models), least=32)


def test_a_user_s_own_vmap_and_a_bad_width_are_refused():
    model = net()
    params = dict(model.named_parameters())
    one = ps.int8(lambda params, x: torch.func.vmap(lambda row: model(row).sum())(x), least=32, anyway=True)
    with pytest.raises(ps.SiftError, match="a per-sample score runs each row by itself under vmap"):
        one(params, noise(4, 32))
    with pytest.raises(ps.SiftError, match="least must be a whole number >= 1, got 0"):
        ps.int8(ps.batched(model, loss), least=0)


def test_a_model_that_was_sharded_since_is_refused_when_it_is_scored():
    model = net()
    score = ps.batched(model, loss)
    rounded = ps.int8(score, least=32, anyway=True)
    for part in integers.parts(score):
        if isinstance(part, integers.Scored):
            part.image = integers.Sharded(model, loss)
    with pytest.raises(ps.SiftError, match="a sharded model is scored live"):
        rounded(ps.live(model), pool())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_inductor_agrees():
    torch._dynamo.reset()
    model = net()
    for score in (ps.batched(model, loss), ps.autocast(ps.batched(model, loss))):
        plain = ps.int8(score, least=32, anyway=True)
        fast = ps.compiled(plain)
        for rows in (24, 7, 1):
            expected = plain(ps.live(model), pool(rows))
            torch.testing.assert_close(fast(ps.live(model), pool(rows)), expected, rtol=2e-2, atol=2e-2)
