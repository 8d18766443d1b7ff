"""What sifting costs outside the model, and end to end: a plain loop, our stream, and a stateful wrapper.

    python -m bench overhead [--rounds 9] [--loops 5] [--threads N]

1. Outside the model. The model's own work is taken out, not subtracted: the sifted model holds the parameters and
   computes nothing, so what is left is reading and binding parameters, ranking, drawing, refilling and taking. At rows
   of text, at 224x224 images and at long histories; beside it, one training step of the same model.
2. End to end, at keep 1/2: candidates a second. All arms train one model at a learning rate of 0, which costs what any
   other does and leaves the model to the others as it was. Realised keep differs by a few rows; rates are those at the
   plan, with these rows charged at the plain arm's price.
3. Peak memory of tensors, and host reads a pool.

On a CPU the model is MiniLM and trains in float32; on a GPU it is BERT-base in bfloat16. Scores are in bfloat16
where the device is fast at it.
"""

from __future__ import annotations

import argparse
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import puresift as ps
from bench.loops import Batch, Fresh, Loss, Trainer
from bench.measure import (
    COLOURS,
    Spread,
    bars,
    bytes_of,
    clock,
    device,
    figure,
    interleaved,
    native,
    ratio,
    reads,
    save,
    spread,
)
from bench.wrapper import SiftingWrapper
from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.trials import peak

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BASE: dict[str, int] = {}  # the defaults of BertConfig
KEEP, HISTORY, ENDLESS = 0.5, 1_000, 1_000_000
SHAPES = {  # rows and history
    "text": ("text", 1_000),
    "images": ("images", 1_000),
    "text, history 1e4": ("text", 10_000),
    "text, history 1e5": ("text", 100_000),
}


class Idle(nn.Module):
    """Holds a model and computes nothing with it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, losses: Tensor) -> Tensor:
        return losses


class Glance(nn.Module):
    """A small network for large images, so that what it costs to keep images stands out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(256, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.layers(pixels))


def text_loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits.float(), batch["labels"], reduction="none")


def image_loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["pixels"]).float(), batch["labels"], reduction="none")


def subject() -> tuple[str, nn.Module, torch.dtype]:
    """The model by name, and the precision that it trains in."""
    cuda = device().type == "cuda"
    name, dtype = ("BERT-base", torch.bfloat16) if cuda else ("MiniLM", torch.float32)
    config = BertConfig(num_labels=2, **(BASE if cuda else MINILM))
    return name, BertForSequenceClassification(config).to(device()).train(), dtype


def rows(kind: str, pool: int, length: int, seed: int) -> Batch:
    torch.manual_seed(seed)
    batch = {"labels": torch.randint(2, (pool,)), "loss": torch.rand(pool)}
    if kind == "text":
        batch["input_ids"] = torch.randint(30_000, (pool, length))
        batch["attention_mask"] = torch.ones((pool, length), dtype=torch.int64)
    else:
        batch["pixels"] = torch.rand(pool, 3, 224, 224)
    return {name: leaf.to(device()) for name, leaf in batch.items()}


def our_stream(model: nn.Module, loss: Loss, batch: Batch, history: int) -> Any:
    """A sifter and where it starts: with a full history, as it would be from some hundred steps on."""
    rule = ps.relative(keep=KEEP, history=history)
    sifter = ps.sifter(ps.batched(model, loss), rule, batch_size=len(batch["labels"]))
    start = sifter.init(ps.key(0), batch)
    return sifter, start._replace(rule=rule.select(start.rule, past(history).to(device()))[0]), ps.live(model)


def their_wrapper(model: nn.Module, loss: Loss, batch: Batch, history: int) -> SiftingWrapper:
    size = len(batch["labels"])
    wrapper = SiftingWrapper((), model, loss, beta=1 / KEEP - 1, batch_size=size, history=history, seed=0)
    wrapper.history = deque(past(history).tolist(), maxlen=history)
    return wrapper


def their_names(model: nn.Module, loss: Loss, pools: list[Batch], history: int) -> SiftingDataloader:
    """The door for scripts written for Smart Sifting, which keeps its state as they expect it, over the pure core."""

    class PerSample:
        def loss(self, model: nn.Module, transformed_batch: Any, original_batch: Any = None) -> Tensor:
            return loss(model, transformed_batch)

    logging.getLogger("smart_sifting.metrics").setLevel(logging.WARNING)  # some lines a batch, which are not read here
    sift_config = {"beta_value": 1 / KEEP - 1, "loss_history_length": history}
    sift_config["loss_based_sift_config"] = {"sift_config": {"sift_delay": 0}}
    return SiftingDataloader(sift_config, pools, model=model, loss_impl=PerSample())


def past(history: int) -> Tensor:
    return torch.rand(history, generator=torch.Generator().manual_seed(0))


def consume(batches: Any) -> None:
    for _ in batches:
        pass


# 1. Outside the model


def outside(model: nn.Module, train: Callable[[], None], pool: int, length: int, rounds: int) -> dict[str, Any]:
    idle = Idle(model)
    loss: Loss = lambda model, batch: model(batch["loss"])  # noqa: E731
    arms: dict[str, Callable[[], Any]] = {"train": train}
    count: dict[str, int] = {"train": 1}
    host: dict[str, dict[str, float]] = {}
    for name, (kind, history) in SHAPES.items():
        batch = rows(kind, pool, length, 0)
        pools = 20 if kind == "text" else 5
        sifter, start, live = our_stream(idle, loss, batch, history)
        wrapper = their_wrapper(idle, loss, batch, history)

        def sift(number=pools, sifter=sifter, start=start, live=live, batch=batch):  # type: ignore[no-untyped-def]
            consume(ps.sift(sifter, start, live, [batch] * number))

        def wrap(number=pools, wrapper=wrapper, batch=batch):  # type: ignore[no-untyped-def]
            wrapper.loader = [batch] * number
            consume(wrapper)

        arms |= {f"ours, {name}": sift, f"wrapper, {name}": wrap}
        count |= {f"ours, {name}": pools, f"wrapper, {name}": pools}
        host[name] = {"ours": reads(sift, 10), "wrapper": reads(wrap, 10)}
        if name == "text":
            door = their_names(idle, loss, [batch] * pools, history)
            arms["smart_sifting names, text"] = lambda door=door: consume(door)
            count["smart_sifting names, text"] = pools
            for part, run in parts(sifter, start, live, batch).items():
                arms[f"  {part}"], count[f"  {part}"] = (lambda run=run, n=pools: [run() for _ in range(n)]), pools
    times = interleaved(arms, rounds=rounds)
    each = {name: [s / count[name] for s in times[name]] for name in times}
    return {
        "milliseconds": {name: spread([1e3 * s for s in values]) for name, values in each.items()},
        "share_of_step": {
            name: {arm: ratio(each[f"{arm}, {name}"], each["train"]) for arm in ("ours", "wrapper")} for name in SHAPES
        },
        "ours_over_wrapper": {name: ratio(each[f"ours, {name}"], each[f"wrapper, {name}"]) for name in SHAPES},
        "host_reads_a_pool": host,
    }


def parts(sifter: ps.Sifter, start: ps.SiftState, live: Any, batch: Batch) -> dict[str, Callable[[], Any]]:
    """The pieces of our stream, each by itself."""
    params = live()
    _, info = sifter.step(start, params, batch)
    rule = ps.relative(keep=KEEP, history=HISTORY)
    score = ps.batched(live.model, lambda model, batch: model(batch["loss"]))
    kept = ps.Kept(batch, info.odds.weights, info.mask)
    return {
        "read live parameters": live,
        "score (binding alone)": lambda: score(params, batch),
        "select": lambda: rule.select(start.rule, info.losses),
        "draw": lambda: ps.bernoulli(ps.keys.fold_in(start.key, start.step), info.odds.probs),
        "refill": lambda: ps.refill(start.buffer, kept),
        "step, all of these": lambda: sifter.step(start, params, batch),
    }


# 2. End to end


class Loop:
    """One arm: trains on so many batches, and tells how many candidates that took."""

    def __init__(self, batches: Iterator[tuple[Batch, Tensor | None, int]], step: Callable[[Batch, Any], None]):
        self.batches, self.step = batches, step
        self.read = 0

    def block(self, steps: int) -> tuple[float, int, int]:
        """Seconds, pools read, rows trained on."""
        begun, before, trained = clock(), self.read, 0
        for _ in range(steps):
            batch, weights, self.read = next(self.batches)
            self.step(batch, weights)
            trained += len(batch["labels"])
        return clock() - begun, self.read - before, trained


def loops(
    model: nn.Module, loss: Loss, step: Callable[[Batch, Any], None], pools: list[Batch]
) -> dict[str, Callable[[], Iterator[tuple[Batch, Tensor | None, int]]]]:
    """The arms, as endless batches with the number of pools read so far."""
    endless = ps.epochs(pools, ENDLESS)

    def plain() -> Iterator[tuple[Batch, Tensor | None, int]]:
        for number, batch in enumerate(endless, 1):
            yield batch, None, number

    def ours() -> Iterator[tuple[Batch, Tensor | None, int]]:
        score = ps.batched(model, loss)
        score = ps.autocast(score) if native() else score
        sifter = ps.sifter(score, ps.relative(keep=KEEP, history=HISTORY), batch_size=len(pools[0]["labels"]))
        stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), ps.live(model), endless)
        for batch, weights, state, _ in stream:
            yield batch, weights, int(state.step)

    def wrapped(dtype: torch.dtype | None) -> Iterator[tuple[Batch, Tensor | None, int]]:
        size = len(pools[0]["labels"])
        wrapper = SiftingWrapper(endless, model, loss, beta=1 / KEEP - 1, batch_size=size, history=HISTORY, dtype=dtype)
        for batch in wrapper:
            yield batch, None, wrapper.read

    arms: dict[str, Callable[[], Any]] = {
        "plain": plain,
        f"ours, {'bf16' if native() else 'fp32'} scores": ours,
        "wrapper as published": lambda: wrapped(None),
    }
    if native():
        arms["wrapper, bf16 scores"] = lambda: wrapped(torch.bfloat16)
    return arms


def end_to_end(arms: dict[str, Any], step: Callable[[Batch, Any], None], pool: int, rounds: int) -> dict[str, Any]:
    running = {name: Loop(make(), step) for name, make in arms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}  # a candidate, at the planned keep
    keeps: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, rounds):
        row = 0.0
        for name, loop in running.items():
            spent, read, trained = loop.block(2)
            candidates = read * pool
            keep, each = trained / candidates, spent / candidates
            if name == "plain":
                row = each
            else:
                each -= (keep - KEEP) * row
            if number >= 0:
                seconds[name].append(each)
                keeps[name].append(keep)
    base = {name: ratio(seconds["plain"], values) for name, values in seconds.items()}
    own = next(name for name in arms if name.startswith("ours"))
    return {
        "candidates_a_second": {name: spread([1 / s for s in values]) for name, values in seconds.items()},
        "over_plain": base,
        "ours_over": {name: ratio(seconds[name], seconds[own]) for name in arms if name != own},
        "keep": {name: spread(values) for name, values in keeps.items()},
    }


# 3. Memory


def memory(arms: dict[str, Any], step: Trainer, buffer: int) -> dict[str, Any]:
    def two(make: Callable[[], Iterator[Any]]) -> None:
        batches = make()
        for _ in range(2):
            batch, weights, _ = next(batches)
            step(batch, weights)

    megabytes = {}
    for name, make in arms.items():
        step.fresh()  # every arm makes its gradients and its optimizer's state itself
        megabytes[name] = peak(lambda make=make: two(make), device()) / 1e6
    bar = megabytes["plain"] + 3 * buffer / 1e6
    return {"megabytes": megabytes, "buffer_megabytes": buffer / 1e6, "plain_plus_three_buffers": bar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of the parts outside the model")
    parser.add_argument("--loops", type=int, default=5, help="rounds of the loops end to end")
    parser.add_argument("--pool", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    name, model, dtype = subject()
    trainer = Trainer(model, text_loss, dtype)
    pools = Fresh(rows("text", args.pool, args.length, seed) for seed in range(16))
    precision = str(dtype).removeprefix("torch.")
    what = f"{name} {precision}, pools of {args.pool}x{args.length} tokens, keep {KEEP:g}, {args.threads} threads"

    found = outside(model, lambda: trainer(pools[0]), args.pool, args.length, args.rounds)
    show_outside(found, what)
    arms = loops(model, text_loss, trainer, pools)
    ends = end_to_end(arms, trainer, args.pool, args.loops)
    show_loops(ends)

    glance = Glance().to(device()).train()
    pictures = Trainer(glance, image_loss, torch.float32)
    images = Fresh(rows("images", 16, 0, seed) for seed in range(4))
    storage = {}
    for kind, source, network, loss, step in (
        ("text", pools, model, text_loss, trainer),
        ("images", images, glance, image_loss, pictures),
    ):
        buffer = bytes_of(ps.empty(source[0], batch_size=len(source[0]["labels"])))
        some = loops(network, loss, step, source)
        if native():
            del some["wrapper as published"]
        storage[kind] = memory(some, step, buffer)
    show_memory(storage)

    result = {"outside_the_model": found, "end_to_end": ends, "memory": storage}
    settings = {"rounds": args.rounds, "loops": args.loops, "pool": args.pool, "length": args.length}
    path = save("overhead", result, seed=0, keep=KEEP, model=name, precision=precision, **settings)
    figure(path, (6.5, 5, 4.5), lambda *axes: draw(result, name, *axes))


def show_outside(found: dict[str, Any], what: str) -> None:
    print(f"{what}; median [quartiles]")
    print(f"{'milliseconds a pool':34} {'median':>9} {'quartiles':>21}")
    for name, row in found["milliseconds"].items():
        label = "one training step" if name == "train" else name
        print(f"{label:34} {row['median']:9.3f} [{row['low']:9.3f} {row['high']:9.3f}]")
    print(f"{'outside the model':22} {'ours/step':>10} {'wrapper/step':>13} {'ours/wrapper':>13} {'reads a pool':>20}")
    for name in SHAPES:
        ours, theirs = (found["share_of_step"][name][arm]["median"] for arm in ("ours", "wrapper"))
        over, host = found["ours_over_wrapper"][name]["median"], found["host_reads_a_pool"][name]
        counts = f"{host['ours']:g} ours, {host['wrapper']:g}"
        print(f"{name:22} {ours:10.2%} {theirs:13.2%} {over:13.2f} {counts:>20}")


def show_loops(ends: dict[str, Any]) -> None:
    print(f"{'end to end':22} {'candidates/s':>12} {'quartiles':>19} {'x plain':>8} {'ours x this':>12} {'kept':>6}")
    for name, row in ends["candidates_a_second"].items():
        over = f"{ends['ours_over'][name]['median']:12.2f}" if name in ends["ours_over"] else " " * 12
        times, keep = ends["over_plain"][name]["median"], ends["keep"][name]["median"]
        print(f"{name:22} {row['median']:12.1f} [{row['low']:8.1f} {row['high']:8.1f}] {times:8.2f} {over} {keep:6.3f}")


def show_memory(storage: dict[str, Any]) -> None:
    for kind, found in storage.items():
        most = ", ".join(f"{name} {size:.2f}" for name, size in found["megabytes"].items())
        print(f"peak memory of tensors [MB], {kind}: {most}; plain + 3 buffers {found['plain_plus_three_buffers']:.2f}")


def draw(result: dict[str, Any], model: str, outer: Any, ends: Any, store: Any) -> None:
    found: dict[str, Spread] = result["outside_the_model"]["milliseconds"]
    labels = {"ours": "ours", "wrapper": "wrapper"}
    groups = {arm: [found[f"{label}, {name}"] for name in SHAPES] for arm, label in labels.items()}
    bars(outer, [name.replace(", ", ",\n") for name in SHAPES], groups)
    step = found["train"]["median"]
    outer.axhline(step / 100, color=COLOURS["floor"], linestyle="--", label=f"1 % of a {model} step of {step:.0f} ms")
    outer.set(yscale="log", ylabel="time a pool outside the model [ms]", title="Outside the model")
    rates: dict[str, Spread] = result["end_to_end"]["candidates_a_second"]
    bars(ends, [name.replace(", ", ",\n").replace(" as ", "\nas ") for name in rates], {"": list(rates.values())})
    ends.set(ylabel="candidates a second", title=f"End to end, keep {KEEP:g}")
    kinds = result["memory"]
    most = {name: [spread([kinds[kind]["megabytes"][name]]) for kind in kinds] for name in kinds["text"]["megabytes"]}
    bars(store, list(kinds), most, "{:.0f}")
    store.set(yscale="log", ylabel="peak of tensors above the model [MB]", title="Memory")


if __name__ == "__main__":
    main()
