"""What every scorer is worth along a training run: how far it lowers the gradient's variance, for what it costs.

    python -m bench merit [--task encoder] [--precision fp32] [--data FOLDER] [--threads 1] [--train-threads 4]
    python -m bench merit --task minilm --precision bf16 --seconds 170
    python -m bench merit --task width
    python -m bench merit --join bench/results/merit-*.json

    merit = max over k of reduction(k) / (1 + phi / k),  reduction(k) = (sum n^2 / k) / (sum n^2 / p),  p by importance

n are the true norms of the rows' gradients (`ps.grad_norm`), phi is the time to score a pool of 64 rows of 32 tokens
over that of a training step on it, both on one thread, in turns, medians; the precision is that of the training run,
and phi is told against steps in float32 and in bfloat16. At each look some pools are scored by all. The probes and the
remembered losses are taught by training alone, as it goes. `--seconds` ends training early, so that all fits; compiling
comes first. `--times` charges what another machine was measured to take, where this one is slow at 16 or 8 bits; how
far a score lowers the variance is the same on both. `width` tells from where on a linear layer gains by 8 bits. Without
`--data` (a folder that holds sst2/ or glue-sst2/) sentences are the embedded corpus's. A machine without 8-bit products
leaves the arms out that need them. One that is slow at bfloat16 scores in float32, compiled, in its place, and does not
time 8 bits. "Free" is what a scorer would be worth if it cost nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import puresift as ps
from bench.measure import figure, interleaved, native, ratio, save, spread
from bench.quality.nets import Encoder
from models import bert, data
from models.reviews import phrases
from puresift.scores import integers
from puresift.trials import merits, rank_correlation

ROWS, WIDTH, KNOWN = 64, 32, 48  # of a pool; features of a probe, for each label
KEEP = 0.6  # of a cascade
HALF = torch.bfloat16
STEPS = {"fp32": torch.float32, "bf16": HALF}
PADS = {"input_ids": ps.Pad(0, WIDTH), "attention_mask": ps.Pad(0, WIDTH)}
Rows = dict[str, Tensor]


class Subject(NamedTuple):
    """A model, its sentences, and how its parts are run."""

    model: nn.Module
    rows: Rows
    loss: Callable[[Any, Rows], Tensor]
    norms: nn.Module  # the same model in the form that can be vmapped
    by_row: Callable[[Any, Rows], Tensor]  # its loss
    hidden: Callable[[Any, Rows, int], Tensor]  # after some of its layers
    size: int  # of hidden states
    half: int  # half of its layers
    lr: float
    least: int  # of layers that are rounded


def rows_of(texts: list[tuple[str, int]], tokenize: bert.Tokenize, number: int) -> Rows:
    tokens = tokenize([text for text, _ in texts[:number]])
    lengths = torch.tensor([len(one) for one in tokens])
    return {
        "input_ids": torch.tensor([one + [0] * (WIDTH - len(one)) for one in tokens]),
        "attention_mask": (torch.arange(WIDTH) < lengths[:, None]).long(),
        "labels": torch.tensor([label for _, label in texts[: len(tokens)]]),
        "id": torch.arange(len(tokens)),
    }


def corpus(folder: str | None, part: str) -> list[tuple[str, int]]:
    found = Path(folder) / part / "train.tsv" if folder else None
    if found is not None and found.is_file():
        return data.read(found)
    rows = data.load(folder).train
    return rows if part == "sst2" else [(piece, label) for text, label in rows for piece in phrases(text)]


def additive(mask: Tensor) -> Tensor:
    return (1.0 - mask)[:, None, None, :] * torch.finfo(torch.float32).min


def minilm(folder: str | None, number: int) -> Subject:
    model, tokenize, _, _ = bert.build("minilm", [], seed=0, max_length=WIDTH)
    norms: Any = copy.deepcopy(model)
    norms.set_attn_implementation("eager")  # fused attention has no backward by row

    def by_row(model: Any, batch: Rows) -> Tensor:
        return bert.loss(model, {**batch, "attention_mask": additive(batch["attention_mask"])})

    def hidden(model: Any, batch: Rows, layers: int) -> Tensor:
        state, mask = model.bert.embeddings(batch["input_ids"]), additive(batch["attention_mask"])
        for layer in model.bert.encoder.layer[:layers]:
            state = layer(state, mask.to(state.dtype))
            state = state[0] if isinstance(state, tuple) else state
        return state

    rows = rows_of(corpus(folder, "sst2"), tokenize, number)
    return Subject(model, rows, bert.loss, norms, by_row, hidden, 384, 3, 5e-5, integers.LEAST)


def encoder(folder: str | None, number: int) -> Subject:
    texts = corpus(folder, "glue-sst2")[:number]
    built = bert.small([text for text, _ in texts], seed=0, max_length=WIDTH)
    model = Encoder(built.model.config.vocab_size, context=WIDTH)

    def loss(model: Any, batch: Rows) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"])
        return F.cross_entropy(logits.float(), batch["labels"], reduction="none")

    def hidden(model: Any, batch: Rows, layers: int) -> Tensor:
        state = model.token(batch["input_ids"]) + model.place(torch.arange(batch["input_ids"].shape[1]))
        for block in model.blocks[:layers]:
            state = block(state, batch["attention_mask"].float()[:, None, None].log())
        return state

    rows = rows_of(texts, built.tokenize, number)
    return Subject(model, rows, loss, copy.deepcopy(model), loss, hidden, 128, 1, 1e-3, 128)


SUBJECTS = {"minilm": minilm, "encoder": encoder}


def probe(subject: Subject, layers: int, half: bool) -> Any:
    """A probe of the mean over the tokens, some dozens of its directions, apart for each label."""
    generator = torch.Generator().manual_seed(layers)
    onto = torch.randn(subject.size, KNOWN, generator=generator) / subject.size**0.5

    def features(model: Any, batch: Rows) -> Tensor:
        with torch.autocast("cpu", HALF, enabled=half and layers > 0):
            state = subject.hidden(model, batch, layers).float()
        share = batch["attention_mask"].float()
        mean = (state * share[..., None]).sum(1) / share.sum(1, keepdim=True)
        return (mean @ onto)[:, None, :] * F.one_hot(batch["labels"], 2).float()[:, :, None]

    return ps.probed(subject.model, features, size=2 * KNOWN)


class Scorers:
    """All scorers of a model, and what those that learn know so far."""

    def __init__(self, subject: Subject, anyway: bool, half: bool = True):
        self.subject, whole = subject, ps.batched(subject.model, subject.loss)
        kind, one = ("bf16", ps.autocast(whole)) if half else ("fp32", whole)
        self.plain = {"fp32": whole, f"{kind} compiled": ps.compiled(one, pad=PADS)}
        if anyway or integers.multiplies("cpu", None):
            eight = ps.int8(one, least=subject.least, anyway=anyway)
            self.plain["int8 compiled" if half else "int8"] = ps.compiled(eight, pad=PADS) if half else eight
        self.probes = {"probe": probe(subject, subject.half, half), "embeddings": probe(subject, 0, half)}
        self.known = {name: one.init() for name, one in self.probes.items()}
        self.memory = ps.recalled(len(subject.rows["id"]))
        self.losses = self.memory.init()
        self.cascades = {
            f"cascade by {how}, {name.split()[0]}": (how, ps.cascade(first, score, keep=KEEP, divided=True))
            for how, first in (("probe", self.probes["embeddings"]), ("remembered", self.memory))
            for name, score in self.plain.items()
            if name not in ("fp32", "int8")
        }
        self.names = [*self.plain, "probe", *self.cascades]
        self.priced = [name for name in self.names if name != "int8"]

    def learn(self, pool: Rows, losses: Tensor) -> None:
        """What a training step tells, for nothing but the probes' own features."""
        params = ps.live(self.subject.model)
        for name, one in self.probes.items():
            seen = one.look(self.known[name], params, pool)[1]
            self.known[name] = one.learn(self.known[name], seen, losses, torch.ones_like(losses))
        assert self.memory.observe is not None
        self.losses = self.memory.observe(self.losses, pool, losses)

    def looks(self, name: str, pool: Rows) -> list[merits.Look]:
        params = ps.live(self.subject.model)
        if name in self.plain:
            return merits.looks(self.plain[name], None, params, pool)
        if name == "probe":
            return merits.looks(lambda params, pool: self._guess(pool), None, params, pool)
        return merits.looks(self.cascades[name][1], self._state(name), params, pool)

    def once(self, name: str, pool: Rows) -> Tensor:
        """One scoring, to be timed."""
        params = ps.live(self.subject.model)
        if name in self.plain:
            return self.plain[name](params, pool)
        return (
            self._guess(pool)
            if name == "probe"
            else merits.once(self.cascades[name][1], self._state(name), params, pool)
        )

    def _guess(self, pool: Rows) -> Tensor:
        return self.probes["probe"].look(self.known["probe"], ps.live(self.subject.model), pool)[0]

    def _state(self, name: str) -> Any:
        how, both = self.cascades[name]
        return both.init()._replace(first=self.known["embeddings"] if how == "probe" else self.losses)


def trainer(subject: Subject, model: nn.Module, dtype: torch.dtype, lr: float) -> Callable[[Rows], Tensor]:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr)

    def step(batch: Rows) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = subject.loss(model, batch)
        losses.mean().backward()
        optimizer.step()
        return losses.detach()

    return step


def pools(rows: Rows, seed: int = 0) -> Iterator[Rows]:
    """Pass after pass, in another order each time."""
    size, turn = len(rows["id"]), 0
    while True:
        order = ps.keys.uniform(ps.keys.fold_in(ps.key(seed), turn), size).argsort()
        for some in order.split(ROWS):
            if len(some) == ROWS:
                yield {name: leaf[some] for name, leaf in rows.items()}
        turn += 1


class Seen(NamedTuple):
    """What the scorers told at a look."""

    step: int
    loss: float
    moments: dict[str, dict[float, tuple[float, float]]]  # of each scorer, by the fraction kept
    ranks: dict[str, float]  # correlation of plain scores with fp32


def look(subject: Subject, scorers: Scorers, some: list[Rows], step: int, args: argparse.Namespace) -> Seen:
    params = ps.live(subject.model)
    truth = ps.grad_norm(subject.norms, subject.by_row, chunk=8)
    torch.set_num_threads(args.train_threads)
    norms = [truth(params(), pool) for pool in some]
    torch.set_num_threads(args.threads)
    told = {name: [scorers.looks(name, pool) for pool in some] for name in scorers.names}
    found: dict[str, dict[float, tuple[float, float]]] = {}
    for name in scorers.names:
        each = [
            (keep, [merits.moments(n, seen, keep) for n, seen in zip(norms, told[name], strict=True)])
            for keep in merits.KEEPS
        ]
        found[name] = {keep: (sum(a for a, _ in two), sum(b for _, b in two)) for keep, two in each}
    exact = torch.cat([seen[0].losses for seen in told["fp32"]])
    plain = [*scorers.plain, "probe"]
    ranks = {name: rank_correlation(exact, torch.cat([seen[0].losses for seen in told[name]])) for name in plain}
    return Seen(step, float(exact.mean()), found, ranks)


def worth(moments: dict[float, tuple[float, float]], phi: float) -> dict[str, float]:
    made = [(plain / kept / (1 + phi / keep), keep, plain / kept) for keep, (plain, kept) in moments.items()]
    return dict(zip(("merit", "keep", "reduction"), max(made), strict=True))


def run(task: str, precision: str, args: argparse.Namespace, keep: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Times first, which do not hang on the weights, then training; what is found is kept after each look."""
    began = time.perf_counter()

    def spent() -> float:
        return (time.perf_counter() - began) / args.seconds

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)  # for which is compiled
    subject = SUBJECTS[task](args.data, args.rows)
    half = native() or args.times is not None
    scorers, feed = Scorers(subject, args.anyway, half), pools(subject.rows)
    first = next(feed)
    for name in scorers.priced:
        scorers.once(name, first)
    print(f"{task} {precision}: {time.perf_counter() - began:.0f} s until all is compiled", flush=True)
    found: dict[str, Any] = {"task": task, "precision": precision, "looks": []}
    if args.times:
        record = json.loads(args.times.read_text())
        found |= {name: record["run"][name] for name in ("phi", "seconds")} | {"timed_on": record["hardware"]}
    else:
        steps = {name: kind for name, kind in STEPS.items() if half or name == "fp32"}
        times = timed(subject, scorers, first, steps, args.rounds, lambda: spent() > 0.55)
        print(f"  {len(times['fp32'])} rounds of timing: {time.perf_counter() - began:.0f} s", flush=True)
        found["phi"] = {name: {of: ratio(times[name], times[f"step {of}"]) for of in steps} for name in scorers.priced}
        found["seconds"] = {name: spread(values) for name, values in times.items()}
    phi = found["phi"]
    step, begin, number = trainer(subject, subject.model, STEPS[precision], subject.lr), spent(), 0
    for part in range(1, args.looks + 1):
        limit = begin + (0.9 - begin) * part / args.looks  # the rest is for the last look
        while number < args.steps * part / args.looks and (spent() < limit or number == 0):
            torch.set_num_threads(args.train_threads)
            pool = next(feed)
            scorers.learn(pool, step(pool))
            number += 1
        torch.set_num_threads(args.threads)
        seen = look(subject, scorers, [next(feed) for _ in range(args.pools)], number, args)
        worths = {
            name: {of: worth(seen.moments[name], price["median"]) for of, price in phi.get(name, {}).items()}
            | {"free": worth(seen.moments[name], 0.0)}
            for name in scorers.names
        }
        found["looks"].append({"step": number, "loss": seen.loss, "ranks": seen.ranks, "merit": worths})
        print(f"  after {number} steps: loss {seen.loss:.3f}, {time.perf_counter() - began:.0f} s", flush=True)
        keep(found)
    return found


def timed(
    subject: Subject,
    scorers: Scorers,
    pool: Rows,
    steps: dict[str, torch.dtype],
    rounds: int,
    over: Callable[[], bool],
) -> dict[str, list[float]]:
    """Seconds of every scorer and of the steps, in turns; at least two rounds, however long they take."""
    arms: dict[str, Callable[[], Any]] = {
        f"step {name}": partial(trainer(subject, copy.deepcopy(subject.model), kind, 1e-9), pool)
        for name, kind in steps.items()
    }
    arms |= {name: partial(scorers.once, name, pool) for name in scorers.priced}
    times = interleaved(arms, rounds=1, warmup=1)
    while len(times["fp32"]) < rounds and (len(times["fp32"]) < 2 or not over()):
        for name, more in interleaved(arms, rounds=1, warmup=0).items():
            times[name] += more
    return times


def show(found: dict[str, Any]) -> None:
    seconds, last = found["seconds"], found["looks"][-1]
    prices = list(found["phi"]["fp32"])  # steps in float32, and in bfloat16 where that was timed
    ends = ", ".join(f"{of} {seconds[f'step {of}']['median'] * 1e3:.0f} ms" for of in prices)
    print(
        f"\n{found['task']}, trained in {found['precision']} for {last['step']} steps to a loss of {last['loss']:.3f}; "
        f"a step: {ends}"
    )
    heads = "".join(f" {'at ' + str(one['step']):>8}" for one in found["looks"])
    columns = "".join(f"  merit, {of}:{heads}" for of in (*prices, "free"))
    print(f"{'scorer':32} {'ms':>7} {'phi':>13}{columns}   best k, ranks")
    for name, worths in last["merit"].items():
        phi, ms = found["phi"].get(name), seconds.get(name)
        price = " ".join(f"{phi[of]['median']:6.3f}" for of in prices) if phi else ""
        cells = ""
        for of in (*prices, "free"):
            each = [one["merit"][name].get(of) for one in found["looks"]]
            cells += " " * (9 + len(of)) + "".join(f" {one['merit']:8.2f}" if one else " " * 9 for one in each)
        took = f"{ms['median'] * 1e3:7.1f}" if ms else " " * 7
        rank = last["ranks"].get(name)
        best = worths.get(found["precision"], worths["free"])["keep"]
        print(f"{name:32} {took} {price:>13}{cells}   {best:.2f}" + ("" if rank is None else f"  {rank:.4f}"))


def draw(runs: list[dict[str, Any]], *panels: Any) -> None:
    for axes, found in zip(panels, runs, strict=True):
        of = found["precision"]
        for name in [name for name, worths in found["looks"][-1]["merit"].items() if of in worths]:
            xs = [one["step"] for one in found["looks"]]
            ys = [one["merit"][name][of]["merit"] for one in found["looks"]]
            style = "--" if name.startswith("cascade") else ":" if name == "probe" else "-"
            axes.plot(xs, ys, style, marker="o", ms=3, label=name)
        axes.axhline(1, color="#999999", lw=0.8)
        axes.set(xlabel="training steps", ylabel="merit", title=f"{found['task']}, trained in {of}")


def widths(sizes: Sequence[int] = (64, 128, 256, 384, 512, 768, 1024), rounds: int = 15) -> dict[str, Any]:
    """One linear layer, 2048 tokens: float32, bfloat16 and 8 bits, compiled each."""
    found = {}
    for width in sizes:
        x, weight, bias = torch.randn(ROWS * WIDTH, width), torch.randn(width, width), torch.randn(width)

        def half(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(x.to(HALF), weight.to(HALF), bias.to(HALF))

        def eight(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return integers.linear(x, weight, bias).to(HALF)

        arms = {
            name: partial(torch.compile(make, dynamic=False), x, weight, bias)
            for name, make in {"fp32": F.linear, "bf16": half, "int8": eight}.items()
        }
        with torch.no_grad():
            found[str(width)] = {name: spread(times) for name, times in interleaved(arms, rounds=rounds).items()}
        one = {name: row["median"] * 1e3 for name, row in found[str(width)].items()}
        print(f"width {width:5}: " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in one.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=[*SUBJECTS, "width"], default="encoder")
    parser.add_argument("--precision", choices=list(STEPS), default="fp32", help="of the training run")
    parser.add_argument("--data", help="a folder with sst2/train.tsv and glue-sst2/train.tsv")
    parser.add_argument("--rows", type=int, default=1_600, help="of the training set")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--pools", type=int, default=3, help="a look")
    parser.add_argument("--rounds", type=int, default=9, help="of timing")
    parser.add_argument("--seconds", type=float, default=600.0, help="within which a run ends, about")
    parser.add_argument("--threads", type=int, default=1, help="while times are taken")
    parser.add_argument("--train-threads", type=int, default=1, help="between")
    parser.add_argument("--anyway", action="store_true", help="8 bits on a machine that is slow at it")
    parser.add_argument("--times", type=Path, metavar="RESULT", help="another machine's, whose times are charged here")
    parser.add_argument("--join", nargs="+", type=Path, help="results of several runs, for one table and one figure")
    args = parser.parse_args()
    if args.precision == "bf16" and not native():
        parser.error("this processor has no instructions for bfloat16; train in fp32")
    warnings.filterwarnings("ignore", message="There is a performance drop")
    if args.join:
        records = [json.loads(path.read_text()) for path in args.join]
        runs = [record["run"] for record in records if "run" in record]
        for found in runs:
            show(found)
        path = save("merit", {"runs": runs}, seed=0, joined=[path.name for path in args.join])
        figure(path, [5.5] * len(runs), partial(draw, runs))
        return
    if args.task == "width":
        torch.set_num_threads(args.threads)
        save("merit-width", {"widths": widths()}, rows=ROWS * WIDTH)
        return
    kept = {key: value for key, value in vars(args).items() if key not in ("join", "threads")}
    # Without paths, which tell of one machine alone.
    kept |= {"times": args.times and args.times.name, "data": args.data and "a folder"}
    theme = f"merit-{args.task}-{args.precision}"
    found = run(args.task, args.precision, args, lambda found: save(theme, {"run": found}, seed=0, **kept))
    show(found)
    figure(save(theme, {"run": found}, seed=0, **kept), (6.5,), partial(draw, [found]))


if __name__ == "__main__":
    main()
