"""What a pool launches outside the model: operations, kernels, host reads, and the time they take.

    python -m bench launches [--rounds 9] [--pools 40] [--threads 1]

The model is taken out: a row's loss comes with it. Each rule is sifted as it is and with `compiled=True`, in turns;
beside them stands a training step of the model that `bench overhead` has: BERT-base in bfloat16 on a GPU, MiniLM in
float32 on a CPU. On a GPU each step is captured into a CUDA graph as well, and replayed on another pool.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

import puresift as ps
from bench.loops import Batch, Trainer
from bench.measure import bars, device, figure, interleaved, ratio, reads, save, spread
from bench.speed.overhead import rows, subject, text_loss
from puresift import draws, sifters


class Case(NamedTuple):
    """A rule and its draw."""

    rule: ps.Rule
    draw: ps.types.Draw


RELATIVE = ps.relative(keep=0.5)
CASES = {
    "relative, bernoulli": Case(RELATIVE, ps.bernoulli),
    "hold, systematic": Case(ps.hold(RELATIVE, keep=0.5), ps.systematic),
    "uniform, bernoulli": Case(ps.uniform(keep=0.5), ps.bernoulli),
}
VIEWS = {"select", "slice", "unbind", "view", "detach", "expand", "unsqueeze", "squeeze", "reshape", "lift_fresh", "to"}
VIEWS |= {"item", "is_nonzero", "_local_scalar_dense", "empty", "result_type"}  # and what computes nothing
COPIES = ("Memcpy", "Memset")


def stream(case: Case, batch: Batch, pools: int, *, compiled: bool) -> Callable[[int], None]:
    """Sifts so many pools; the graphs of a compiled sifter are made here, once."""
    sifter = ps.sifter(lambda params, pool: pool["loss"], case.rule, batch_size=len(batch["loss"]), draw=case.draw)
    whole = sifters.compiled(sifter) if compiled else sifter
    start, params = whole.init(ps.key(0), batch), {"w": torch.zeros((), device=device())}

    def run(number: int = pools) -> None:
        for _ in ps.sift(whole, start, params, ps.epochs([batch] * number, 1)):
            pass

    run(pools)
    return run


def launched(run: Callable[[int], None], pools: int) -> dict[str, float]:
    """Operations of torch, and on a GPU kernels and copies, a pool; what a stream's beginning takes cancels out."""
    few, many = (_counts(run, number) for number in (pools, 2 * pools))
    return {name: (many[name] - few[name]) / pools for name in many}


def _counts(run: Callable[[int], None], pools: int) -> dict[str, int]:
    cuda = device().type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds, acc_events=True) as seen:
        run(pools)
        if cuda:
            torch.cuda.synchronize()
    found, end = {"operations": 0}, -1
    events = list(seen.profiler.kineto_results.events())
    for call in sorted(events, key=lambda call: (call.start_ns(), -call.duration_ns())):
        if call.name().startswith("aten::") and call.start_ns() >= end:
            end = call.start_ns() + call.duration_ns()
            found["operations"] += call.name().removeprefix("aten::") not in VIEWS
    if cuda:
        names = [event.name() for event in events if event.device_type() == DeviceType.CUDA]
        found["copies"] = sum(name.startswith(COPIES) for name in names)
        found["kernels"] = len(names) - found["copies"]
    return found


def captured(case: Case, batch: Batch) -> bool:
    """Whether a step is captured into a CUDA graph, and a replay on another pool decides as the step itself does."""
    size = len(batch["loss"])
    sifter = ps.sifter(lambda params, pool: pool["loss"], case.rule, batch_size=size, draw=case.draw)
    start = ps.trees.to(sifter.init(ps.key(0), batch), device())
    numbers = draws.ahead(case.draw, ps.key(0), torch.arange(1), size)
    uniforms = None if numbers is None else numbers[0].to(device())
    pool, other = (({name: leaf.clone() for name, leaf in one.items()}) for one in (batch, rows("text", size, 32, 7)))
    params = {"w": torch.zeros((), device=device())}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            sifter.step(start, params, pool, uniforms=uniforms)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        after, info = sifter.step(start, params, pool, uniforms=uniforms)
    for name, leaf in pool.items():
        leaf.copy_(other[name])
    graph.replay()
    expected, told = sifter.step(start, params, other, uniforms=uniforms)
    torch.cuda.synchronize()
    return torch.equal(info.mask, told.mask) and torch.equal(after.buffer.fill, expected.buffer.fill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pools", type=int, default=40)
    parser.add_argument("--pool", type=int, default=64, help="rows")
    parser.add_argument("--length", type=int, default=32, help="tokens")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name, model, dtype = subject()
    train, batch = Trainer(model, text_loss, dtype), rows("text", args.pool, args.length, 0)
    runs = {
        f"{case}{', compiled' if compiled else ''}": stream(CASES[case], batch, args.pools, compiled=compiled)
        for case in CASES
        for compiled in (False, True)
    }
    counts = {arm: launched(run, args.pools) | {"host reads": reads(run, args.pools)} for arm, run in runs.items()}
    arms: dict[str, Callable[[], Any]] = {"step": lambda: train(batch)}
    arms |= {arm: lambda run=run: run(args.pools) for arm, run in runs.items()}
    times = interleaved(arms, rounds=args.rounds)
    each = {arm: [seconds / args.pools for seconds in times[arm]] for arm in runs}
    share = {arm: ratio(each[arm], times["step"]) for arm in runs}
    step = 1e3 * statistics.median(times["step"])
    what = f"pools of {args.pool}x{args.length}, {args.threads} threads; a step of {name} takes {step:.1f} ms"
    print(f"{what}\n{'a pool outside the model':34} {'ms':>7} {'of a step':>10}  launches")
    for arm in runs:
        said = ", ".join(f"{number:.0f} {kind}" for kind, number in counts[arm].items())
        print(f"{arm:34} {1e3 * statistics.median(each[arm]):7.3f} {share[arm]['median']:10.2%}  {said}")
    graphs = {case: captured(CASES[case], batch) for case in CASES} if device().type == "cuda" else {}
    if graphs:
        print("captured into a CUDA graph: " + ", ".join(f"{case} {done}" for case, done in graphs.items()))
    milliseconds = {arm: spread([1e3 * seconds for seconds in each[arm]]) for arm in runs}
    result = {"step": step, "milliseconds": milliseconds, "share_of_step": share, "counts": counts, "graphs": graphs}
    settings = {"rounds": args.rounds, "pools": args.pools, "pool": args.pool, "length": args.length}
    path = save("launches", result, seed=0, model=name, precision=str(dtype).removeprefix("torch."), **settings)

    def draw(axes: Any) -> None:
        groups = {"": list(milliseconds.values())}
        bars(axes, [arm.replace(", ", ",\n") for arm in runs], groups)
        axes.axhline(step / 50, color="#b03060", linestyle="--", label=f"2 % of a {name} step of {step:.0f} ms")
        axes.set(ylabel="time a pool [ms]", title="Outside the model")

    figure(path, (8,), draw)


if __name__ == "__main__":
    main()
