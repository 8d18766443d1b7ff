"""What a score costs in each mode: phi, the time to score a pool over the time to train on it, for four small models.

    python -m bench scoring [--no-quick] [--rounds 5] [--models minilm gpt] [--threads 2] [--device cuda]

Beside each mode stands its limit, a bare forward of an eval-mode copy under no_grad in the same mode: fp32 by itself,
under autocast, compiled for this one shape. The share of its throughput that scoring reaches should be .97 or more.
Modes that skip work (bucketed, remembered) can reach more than 1. All weights are random: only time counts here, and
ranks against the fp32 scores. Quick, the default, takes a few minutes; `--no-quick` takes three times the rounds. The
first run on a machine also compiles, off the clock; later ones find the kernels on the disk.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

os.environ["KINETO_LOG_LEVEL"] = os.environ.get("KINETO_LOG_LEVEL", "6")  # else measuring memory prints lines

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import puresift as ps
from bench.measure import interleaved, ratio, save, spread
from bench.speed.overhead import MINILM
from puresift import trees
from puresift.scores import integers
from puresift.trials import peak, rank_correlation

ROWS, WIDTH, VOCABULARY = 64, 32, 4000
EVERY, KEEP, POOLS = 3, 0.5, 4  # of the remembered score: epochs a loss is good for, rows kept, pools in the dataset
LIMIT = {
    **{name: name for name in ("bf16", "compiled", "compiled bf16")},
    **dict.fromkeys(("compiled int8", "graphs bf16"), "compiled bf16"),
}
TARGET = 0.97

Loss = Callable[[Any, Any], Tensor]


class Subject(NamedTuple):
    """A model to score with, and what its modes need to know of it."""

    model: nn.Module
    loss: Loss
    pool: dict[str, Tensor]
    by_row: Loss  # the loss in the form that can be vmapped
    pad: dict[str, ps.Pad]  # the ragged leaves; their mask, "attention_mask", tells the lengths


def lengths() -> Tensor:
    """Ragged rows: half of the pool is padding, as in pools of short sentences; the longest row is full."""
    found = (ps.keys.uniform(ps.key(2), ROWS) * (WIDTH - 3)).long() + 3
    return found.index_fill(0, torch.tensor([0]), WIDTH)


def text(**leaves: Tensor) -> dict[str, Tensor]:
    mask = (torch.arange(WIDTH) < lengths()[:, None]).long()
    ids = (ps.keys.uniform(ps.key(0), ROWS * WIDTH).reshape(ROWS, WIDTH) * (VOCABULARY - 1)).long() + 1
    return {"input_ids": ids * mask, "attention_mask": mask, **leaves}


def minilm() -> Subject:
    def loss(model: Any, batch: Any) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits.float(), batch["labels"], reduction="none")

    def by_row(model: Any, batch: Any) -> Tensor:  # a 2-D mask cannot be vmapped, an additive 4-D one can
        mask = (1.0 - batch["attention_mask"])[:, None, None, :] * torch.finfo(torch.float32).min
        return loss(model, {**batch, "attention_mask": mask})

    model = BertForSequenceClassification(BertConfig(num_labels=2, **MINILM))
    pool = text(labels=(ps.keys.uniform(ps.key(1), ROWS) * 2).long())
    return Subject(model, loss, pool, by_row, {"input_ids": ps.Pad(0, WIDTH), "attention_mask": ps.Pad(0, WIDTH)})


def gpt() -> Subject:
    def loss(model: Any, batch: Any) -> Tensor:  # right padding behind a causal mask needs no mask of its own
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()
        counts = batch["attention_mask"][:, 1:]
        tokens = F.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
        return (tokens * counts).sum(1) / counts.sum(1).clamp(min=1)

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=WIDTH, n_embd=256, n_layer=4, n_head=4, bos_token_id=None, eos_token_id=None
    )
    pad = {"input_ids": ps.Pad(0, WIDTH), "attention_mask": ps.Pad(0, WIDTH)}
    return Subject(GPT2LMHeadModel(config), loss, text(), loss, pad)


def convolutional(norm: Callable[[int], nn.Module]) -> Subject:
    def loss(model: Any, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch["image"]).float(), batch["label"], reduction="none")

    def block(width: int, out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(width, out, 3, padding=1, bias=False)
        return [convolution, norm(out), nn.ReLU()]

    layers = block(3, 32) + block(32, 32)
    for width in (32, 64):
        layers += [nn.MaxPool2d(2), *block(width, 2 * width), *block(2 * width, 2 * width)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    image = ps.keys.uniform(ps.key(3), ROWS * 3 * 32 * 32).reshape(ROWS, 3, 32, 32) * 2 - 1
    return Subject(model, loss, {"image": image, "label": (ps.keys.uniform(ps.key(4), ROWS) * 10).long()}, loss, {})


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "minilm": minilm,
    "batchnorm": lambda: convolutional(nn.BatchNorm2d),
    "groupnorm": lambda: convolutional(lambda width: nn.GroupNorm(8, width)),
    "gpt": gpt,
}


def compiler(device: str) -> None:
    """Refuse what cannot compile, in words."""
    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise RuntimeError("no C++ compiler (g++, or what CXX names) for inductor's kernels")


def scores(subject: Subject, device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The modes by name, each with what makes its score."""
    model, loss = subject.model, subject.loss

    def half() -> Any:
        return ps.autocast(ps.batched(model, loss), torch.bfloat16)

    def built(score: Any, **settings: Any) -> Any:
        compiler(device)
        return ps.compiled(score, pad=subject.pad, **settings)

    def eight() -> Any:
        if not integers.multiplies(device, 0 if device == "cuda" else None):
            raise RuntimeError("no 8-bit products on this machine")
        return ps.int8(half())  # which refuses models without a wide layer

    def bucketed() -> Any:
        if not subject.pad:
            raise RuntimeError("rows are of one length")
        return ps.chunked(
            ps.batched(model, loss), ROWS // 4, length=lambda batch: batch["attention_mask"].sum(1), pad=subject.pad
        )

    yield "fp32", lambda: ps.batched(model, loss)
    yield "bf16", half
    yield "compiled", lambda: built(ps.batched(model, loss))
    yield "compiled bf16", lambda: built(half())
    yield "compiled int8", lambda: built(eight())
    if device == "cuda":
        yield "graphs bf16", lambda: built(half(), mode="reduce-overhead")
    yield "chunked", lambda: ps.chunked(ps.batched(model, loss), ROWS // 4)
    yield "bucketed", bucketed
    yield "vmapped", lambda: ps.per_sample(model, subject.by_row)


def limits(subject: Subject, device: str) -> Iterator[tuple[str, Callable[[], Callable[[], Tensor]]]]:
    """The bare forward, by mode: what no score can undercut without skipping work."""
    bare = copy.deepcopy(subject.model).eval()

    def forward(model: Any, half: bool) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=False):
                return subject.loss(model, subject.pool)

        return run

    def built(half: bool) -> Callable[[], Tensor]:
        compiler(device)
        return torch.compile(forward(bare, half), dynamic=False)

    yield "fp32", lambda: forward(bare, False)
    yield "bf16", lambda: forward(bare, True)
    yield "compiled", lambda: built(False)
    yield "compiled bf16", lambda: built(True)


def trainer(subject: Subject, device: str, half: bool) -> Callable[[], None]:
    model = copy.deepcopy(subject.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            mean = subject.loss(model, subject.pool).mean()
        mean.backward()
        optimizer.step()

    return step


def remembering(subject: Subject, params: Callable[[], Any], device: str) -> Callable[[], None]:
    """`EVERY` epochs over `POOLS` pools, long after the first: which rows are kept and observed is drawn ahead."""
    memory = ps.remembered(ps.batched(subject.model, subject.loss), ROWS * POOLS, every=EVERY, id=lambda b: b["id"])
    ids = torch.arange(ROWS * POOLS, device=device).split(ROWS)
    pools = [{**subject.pool, "id": some} for some in ids]
    kept = [
        (ps.keys.uniform(ps.key(100 + draw), ROWS) < KEEP).nonzero()[:, 0].to(device) for draw in range(7 * POOLS)
    ]  # seven turns, coprime to the epochs, so that rows are not kept in step
    state, draws = trees.to(memory.init(), torch.device(device)), itertools.cycle(kept)
    assert memory.observe is not None
    for pool in pools:
        state, _ = memory.apply(state, params(), pool)

    def epochs() -> None:
        nonlocal state
        for pool in pools * EVERY:
            state, losses = memory.apply(state, params(), pool)
            rows = next(draws)
            assert memory.observe is not None
            state = memory.observe(state, {"id": pool["id"][rows]}, losses[rows])

    for _ in range(2):
        epochs()
    return epochs


def attempt(make: Callable[[], Callable[[], Any]]) -> tuple[Any, str, float]:
    """An arm, called once; or the first line of why it cannot be; and the seconds this took."""
    began = time.perf_counter()
    try:
        run = make()
        run()
    except Exception as error:
        why = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {why[0]}", 0.0
    return run, "", time.perf_counter() - began


def one(name: str, device: str, rounds: int, skipped: Collection[str] = ()) -> dict[str, Any]:
    """All modes of one model but those skipped."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    subject = subject._replace(
        model=subject.model.to(device), pool={key: leaf.to(device) for key, leaf in subject.pool.items()}
    )
    live, arms, answers, firsts, bytes_held = ps.live(subject.model), {}, {}, {}, {}
    refused: dict[str, str] = {}
    times_of = {"remembered": EVERY * POOLS}
    arms["train fp32"], arms["train bf16"] = (trainer(subject, device, half) for half in (False, True))
    began = time.perf_counter()

    def scored(mode: str, score: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with sdpa_kernel(SDPBackend.MATH) if mode == "vmapped" else nullcontext():
                return score(live(), subject.pool)

        return run

    arms["remembered"] = remembering(subject, live, device)  # here, to have the heap settle after a training step
    bare = dict(limits(subject, device))
    for mode, make in scores(subject, device):
        if mode in skipped:
            refused[mode] = "left out by --quick, for it is compiled once more; --no-quick has it"
            continue
        run, why, first = attempt(lambda mode=mode, make=make: scored(mode, make()))
        if why:
            refused[mode] = why
            continue
        if mode in bare:  # each mode has its limit for a neighbour
            limit, why, _ = attempt(bare[mode])
            arms |= {} if why else {f"bare {mode}": limit}
        arms[mode], answers[mode], firsts[mode] = run, run().float(), first
    preparing = time.perf_counter() - began

    for arm in [arm for arm in arms if not arm.startswith("bare")]:
        bytes_held[arm] = peak(arms[arm], torch.device(device))
    times = interleaved(arms, rounds=rounds, warmup=1)
    times = {arm: [seconds / times_of.get(arm, 1) for seconds in values] for arm, values in times.items()}
    rows = {}
    for mode in [*answers, "remembered"]:
        limit = times.get(f"bare {LIMIT.get(mode, 'fp32')}")
        rows[mode] = {
            "seconds": spread(times[mode]),
            "phi_fp32": ratio(times[mode], times["train fp32"]),
            "phi_bf16": ratio(times[mode], times["train bf16"]),
            "throughput_of_bare": ratio(limit, times[mode]) if limit else None,
            "phi_of_bare_fp32": ratio(limit, times["train fp32"]) if limit else None,
            "rank_correlation": rank_correlation(answers["fp32"], answers[mode]) if mode in answers else None,
            "memory_of_training": bytes_held[mode] / bytes_held["train fp32"],
            "first_call_seconds": firsts.get(mode),
        }
    training = {arm: {**spread(times[arm]), "bytes": bytes_held[arm]} for arm in ("train fp32", "train bf16")}
    return {"modes": rows, "refused": refused, "training": training, "seconds_before_timing": preparing}


def show(name: str, found: dict[str, Any]) -> None:
    fp32, bf16 = (found["training"][arm]["median"] * 1e3 for arm in ("train fp32", "train bf16"))
    print(
        f"\n{name}: a training step of {ROWS} rows, fp32 {fp32:.1f} ms, bf16 {bf16:.1f} ms; "
        f"{found['seconds_before_timing']:.0f} s of compiling and warm-up before"
    )
    print(
        f"{'mode':14} {'ms a pool':>9} {'quartiles':>17} {'phi, fp32':>10} {'quartiles':>13} {'phi, bf16':>10} "
        f"{'quartiles':>13} {'of bare':>8} {'ranks':>7} {'memory':>7} {'first, s':>8}"
    )
    for mode, row in found["modes"].items():
        ms = {key: row["seconds"][key] * 1e3 for key in ("median", "low", "high")}
        full, half, bare, ranks = row["phi_fp32"], row["phi_bf16"], row["throughput_of_bare"], row["rank_correlation"]
        print(
            f"{mode:14} {ms['median']:9.1f} {ms['low']:8.1f} {ms['high']:8.1f} {full['median']:10.3f} "
            f"{full['low']:6.3f} {full['high']:6.3f} {half['median']:10.3f} {half['low']:6.3f} {half['high']:6.3f} "
            f"{bare['median'] if bare else float('nan'):8.3f} {'' if ranks is None else f'{ranks:.4f}':>7} "
            f"{row['memory_of_training']:7.3f} {row['first_call_seconds'] or 0:8.1f}"
        )
    for mode, why in found["refused"].items():
        print(f"{mode:14} does not apply: {why}")


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(results), 2)
    lines = -(-len(results) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(6.2 * columns, 3.6 * lines), squeeze=False)
    for panel in axes.flat[len(results) :]:
        panel.axis("off")
    for panel, (name, found) in zip(axes.flat, results.items(), strict=False):
        modes = list(found["modes"])
        for shift, key, label, color in (
            (-0.18, "phi_fp32", "of an fp32 training step", "#3b6fb6"),
            (0.18, "phi_bf16", "of a bf16 training step", "#e08a3c"),
        ):
            rows = [found["modes"][mode][key] for mode in modes]
            middle = [row["median"] for row in rows]
            errors = [[row["median"] - row["low"] for row in rows], [row["high"] - row["median"] for row in rows]]
            places = [place + shift for place in range(len(modes))]
            panel.barh(places, middle, 0.34, xerr=errors, color=color, label=label, error_kw={"lw": 0.8})
            for place, value, row in zip(places, middle, rows, strict=True):
                panel.text(max(value, row["high"]), place, f" {value:.3f}", va="center", fontsize=7)
        limits = [found["modes"][mode]["phi_of_bare_fp32"] for mode in modes]
        marks = [(limit["median"], place - 0.18) for place, limit in enumerate(limits) if limit]
        panel.plot(*zip(*marks, strict=True), "k|", ms=10, mew=1.6, label="bare forward, same mode (fp32 step)")
        panel.set_yticks(range(len(modes)), modes)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_xlabel("phi: one pool scored, as a share of one trained", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rounds = args.rounds or (5 if args.quick else 15)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="There is a performance drop")
    began, results = time.perf_counter(), {}
    for name in args.models:
        skipped = [mode for mode in LIMIT if "compiled" in mode] if args.quick and name == "groupnorm" else []
        results[name] = one(name, args.device, rounds, skipped)
        show(name, results[name])
        torch.compiler.reset()
    short = [
        f"{name} {mode} {row['throughput_of_bare']['median']:.3f}"
        for name, found in results.items()
        for mode, row in found["modes"].items()
        if mode in ("fp32", *LIMIT) and row["throughput_of_bare"] and row["throughput_of_bare"]["median"] < TARGET
    ]
    print(f"\nbelow {TARGET} of the bare forward in the same mode: {', '.join(short) or 'none'}")
    print(f"{time.perf_counter() - began:.0f} s in all")
    path = save("scoring", {"models": results}, seed=0, rounds=rounds, rows=ROWS, width=WIDTH, device=args.device)
    draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
