"""What a pool takes outside the model: numbers made ahead and compiled steps decide as plain steps do."""

import re
from collections import Counter

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from torch.profiler import ProfilerActivity, profile

import puresift as ps
from puresift import draws, sifters
from puresift import uniforms as made
from tests import laws
from tests.laws import DRAWS

VIEWS = {"select", "slice", "unbind", "view", "detach", "expand", "unsqueeze", "squeeze", "reshape", "lift_fresh"}
VIEWS |= {"item", "is_nonzero", "_local_scalar_dense", "empty", "result_type"}  # and what computes nothing
CASES = {  # the rule, its draw, and how many operations a pool may take, of them casts: one makes 64 pools' numbers
    "relative": (ps.relative(keep=0.5), ps.bernoulli, 52, 3.02),
    "hold": (ps.hold(ps.relative(keep=0.5), keep=0.5), ps.systematic, 80, 6),
    "uniform": (ps.uniform(keep=0.5), ps.bernoulli, 31, 0.02),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_a_stream_decides_as_its_steps_do(monkeypatch, draw):
    """For pools that grow and shrink, and more of them than are made ahead in one call."""
    monkeypatch.setattr(made, "_STEPS", 3)
    pools = [torch.arange(float(rows)) for rows in (9, 4, 12, 3, 12, 7, 12, 1)]
    sifter = ps.sifter(lambda params, x: x, ps.relative(keep=0.5), batch_size=2, draw=DRAWS[draw])
    begun = sifter.init(ps.key(5), torch.zeros(12))
    infos, state = [], begun
    for pool in pools:
        state, info = sifter.step(state, {}, pool)
        infos.append(info.mask)
        while bool(ps.full(state.buffer)):
            state, _ = sifter.take(state)
    stream = ps.sift(sifter, begun, {}, ps.epochs(pools, 1))
    seen = [sifted.info.mask for sifted in stream] + [stream.info.mask]
    assert torch.equal(torch.cat(seen), torch.cat(infos))
    assert laws.equal(stream.state, state)


def counted(rule, draw, pools=121, rows=64):
    """Operations a pool outside the model, by name: all that a profiler sees but for views and calls within a call.

    So many pools that what is done once in 50 or 64 of them is counted too.
    """
    loader = [{"x": torch.rand(rows, 32), "y": torch.rand(rows)} for _ in range(pools)]
    sifter = ps.sifter(lambda params, batch: batch["y"], rule, batch_size=rows, draw=draw)
    stream = ps.sift(sifter, sifter.init(ps.key(0), loader[0]), {"w": torch.zeros(())}, ps.epochs(loader, 1))
    next(stream)
    begun = int(stream.state.step)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        for _ in stream:
            pass
    calls = [event for event in seen.profiler.kineto_results.events() if event.name().startswith("aten::")]
    end, found = -1, Counter()
    inner: list[str] = []
    for call in sorted(calls, key=lambda call: (call.start_ns(), -call.duration_ns())):
        name = call.name().removeprefix("aten::")
        if call.start_ns() >= end:
            end, top = call.start_ns() + call.duration_ns(), name
            found[top] += top not in VIEWS and top != "to"
        elif top == "to" and name == "copy_":
            found["to"] += 1
        inner.append(name)
    assert {"index_copy", "lt"} <= set(inner)  # it has seen what a pool cannot do without
    return {name: number / (int(stream.state.step) - begun) for name, number in found.items() if number}


@pytest.mark.parametrize("name", CASES)
def test_a_pool_takes_few_operations_outside_the_model(name):
    rule, draw, most, casts = CASES[name]
    found = counted(rule, draw)
    assert sum(found.values()) <= most, found
    assert found.get("to", 0) <= casts


ROWS = {  # pools that a compiled stream is to sift as a plain one, with the sifter's settings
    "tensors": (lambda rows: {"x": torch.arange(float(rows)), "y": torch.arange(rows)}, {}),
    "constant": (lambda rows: {"x": torch.arange(float(rows))}, {"draw": ps.systematic}),
    "objects": (lambda rows: {"x": torch.arange(float(rows)), "text": [f"row {row}" for row in range(rows)]}, {}),
    "large": (lambda rows: {"x": torch.arange(float(rows)), "y": torch.ones(rows, 300_000)}, {}),
    "ragged": (
        lambda rows: {"x": torch.arange(float(rows)), "t": torch.ones(rows, 1 + rows % 5, dtype=torch.int64)},
        {"pad": {"t": ps.Pad(0, 8)}, "bucket": lambda batch: batch["t"].sum(1), "window": 2},
    ),
}


@pytest.mark.parametrize(
    "name", [name if name in ("constant", "objects") else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_a_compiled_stream_sifts_as_a_plain_one(name):
    pool, settings = ROWS[name]
    rule = ps.hold(ps.relative(keep=0.5), keep=0.5) if name == "constant" else ps.relative(keep=0.5)
    sifter = ps.sifter(lambda params, batch: batch["x"], rule, batch_size=4, **settings)
    pools = [pool(rows) for rows in (12, 12, 8, 12)]
    torch._dynamo.reset()
    runs = []
    for one in (sifter, sifters.compiled(sifter, backend="aot_eager")):
        stream = ps.sift(one, sifter.init(ps.key(5), pools[0]), {}, ps.epochs(pools, 1))
        runs.append((list(stream), stream.state))
    (plain, end), (compiled, other) = runs
    assert len(plain) > 3
    assert laws.equal([one._replace(state=None) for one in plain], [one._replace(state=None) for one in compiled])
    assert laws.equal((end.rule, end.buffer.fill, end.step), (other.rule, other.buffer.fill, other.step))


def test_only_our_own_sifters_are_compiled():
    sifter = ps.sifter(None, ps.uniform(keep=0.5), batch_size=2)
    own = sifter._replace(step=lambda state, params, batch: sifter.step(state, params, batch))
    with pytest.raises(ps.SiftError, match=r"a step of its own, which cannot be split; build it by ps\.sifter"):
        ps.sift(own, sifter.init(ps.key(0), torch.zeros(4)), {}, [torch.zeros(4)], compiled=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own imports
@pytest.mark.parametrize(("name", "most"), [("relative", 3), ("hold", 8), ("uniform", 3)])
def test_a_compiled_pool_takes_few_kernels(name, most):
    """On a CPU, where sorts, running sums and searches are calls of their own."""
    rule, draw, *_ = CASES[name]
    torch._dynamo.reset()
    pool = {"x": torch.rand(64, 32), "y": torch.rand(64)}
    plain = ps.sifter(lambda params, batch: batch["y"], rule, batch_size=64, draw=draw)
    state, numbers = plain.init(ps.key(0), pool), draws.ahead(draw, ps.key(0), torch.arange(1), 64)
    step = sifters.compiled(plain).step
    answer, code = run_and_get_code(lambda: step(state, {}, pool, uniforms=numbers[0]))
    for one, tensor in zip(laws.leaves(plain.step(state, {}, pool)), laws.leaves(answer), strict=True):
        torch.testing.assert_close(tensor, one, equal_nan=True)
    kernels = re.findall(
        r"^ +(?:buf\d+ = )?(cpp_fused\w*|extern_kernels\.\w+|torch\.ops\.\S+)\(", "\n".join(code), re.MULTILINE
    )
    assert 0 < len(kernels) <= most, kernels
