"""Fine-tune a BERT on film reviews, training only on the sentences that still teach it something.

    python -m models.train                      four arms on generated reviews, one table; minutes on two cores
    python -m models.train --data reviews.tsv --model minilm --keep 0.25
    python -m models.train --resume --out runs/small-20250101-120000

Arms: `plain` trains on everything; `sifted` scores every candidate and trains on those the rule keeps; `random` keeps
as many, unseen; `shortened` is plain with its schedule cut to what sifting cost, the arm that sifting has to beat.
"""

import copy
import random
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from models import bert, costs, data, report, runs
from models.options import Options, Parser, parse
from puresift import pools
from puresift.governor import Governor
from puresift.recorder import FILE as RECORD
from puresift.report import draw
from puresift.stream import Stream

WARM_UP = 0.06  # of the budget
EVALUATIONS = 10  # in a run, on at most GLANCE test rows each; the last one on all of them
GLANCE = 1000
LINES = 100  # of metrics.jsonl, about
ORDER = ("plain", "shortened", "random", "sifted")


class Job(NamedTuple):
    """What the arms share."""

    options: Options
    folder: Path
    model: nn.Module  # as built; every arm trains a copy
    pad_id: int
    train: data.Sentences
    rows: list[data.Row]  # the sentences, for those who read
    glance: list[dict[str, Tensor]]
    test: list[dict[str, Tensor]]


class Step(NamedTuple):
    """One batch to train on, and the place in the candidates right after it."""

    batch: dict[str, Tensor]
    weights: Tensor | None  # None: the plain mean
    pool: int  # candidates read, in pools
    progress: float  # of the budget, which is counted in pools: the one number known beforehand
    state: ps.SiftState | None
    info: ps.Info | None


def train(job: Job, arm: str, budget: int, score_dtype: str | None, stop: runs.Stop) -> dict[str, Any] | None:
    """Train one arm on `budget` pools of candidates; None when told to stop, with everything saved."""
    o, folder = job.options, job.folder / arm
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(o.device)
    torch.manual_seed(o.seed)  # dropout is the only one to draw from it
    model = copy.deepcopy(job.model).to(device)
    optimizer = adamw(model, o)
    candidates = ps.epochs(loader(job), o.epochs)
    tally = runs.Tally()

    saved = runs.load(folder / "checkpoint.pt")
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        tally, score_dtype = runs.Tally(**saved["tally"]), saved["score_dtype"]

    sifter: ps.Sifter | None = None
    stream: Stream | None = None
    state: ps.SiftState | None = None
    if arm in ("sifted", "random"):
        score = costs.timed(scorer(job, model, score_dtype), tally, device) if score_dtype else None
        sifter, governor = compose(job, score)
        state = sifter.init(ps.key(o.seed), ps.peek(candidates.loader))
        if saved:
            state = ps.load_state_dict(state, saved["sift"])
        stream = ps.sift(sifter, state, ps.live(model), candidates, governor=governor)

    metrics = runs.Metrics(folder / "metrics.jsonl", saved["metrics_bytes"] if saved else 0)
    if not saved:
        (folder / RECORD).unlink(missing_ok=True)
    recorder = ps.Recorder(
        folder,
        name=arm,
        sample=lambda id: job.rows[id][0],
        classes=("blame", "praise"),
        facts=asdict(o),
        every=max(budget // LINES, 1),
        state=saved["recorder"] if saved else None,
    )
    checkpoint = partial(
        runs.save,
        folder / "checkpoint.pt",
        model,
        optimizer,
        metrics=metrics,
        recorder=recorder,
        score_dtype=score_dtype,
    )
    progress = runs.Progress(arm, budget, tally.pool)

    def write(accuracy: float | None) -> None:
        line = tally.line(optimizer.param_groups[0]["lr"]) | {"accuracy": accuracy}
        metrics.write(line)
        if accuracy is not None:
            recorder.evaluate(tally.pool, seconds=tally.seconds, accuracy=accuracy)
            progress.say(line)

    if not saved:
        set_rate(optimizer, rate(o.lr, 0.0))
        checkpoint(sift=flat(state), tally=tally)
    if not tally.pool:
        write(bert.evaluate(model, job.glance))
    if saved:
        runs.set_rng(saved["rng"])  # last of all, so that the next draw is the one that was due

    laps = costs.Laps(device)
    source = plain(candidates, tally.pool, budget, device)
    if stream is not None and sifter is not None:
        source = sifted(stream, sifter, budget)
    for batch, weights, pool, done, now, info in source:
        began = costs.clock(device)
        loss = update(model, optimizer, batch, weights, o.train_dtype)
        tally.train_seconds += costs.clock(device) - began
        set_rate(optimizer, rate(o.lr, done))  # for the next step

        before, tally.pool = tally.pool, pool
        tally.step, tally.trained = tally.step + 1, tally.trained + len(batch["labels"])
        tally.loss, tally.steps = tally.loss + loss, tally.steps + 1
        if info is not None:
            tally.saw(info.losses, info.mask)
        progress.update(tally, info.mask.float().mean().item() if info is not None and len(info.mask) else None)
        tally.seconds += laps.lap()  # from here on the clock of training stands still
        if info is not None:
            recorder.write(info, pool, seconds=tally.seconds, phi=tally.phi)

        if crossed(before, pool, budget / EVALUATIONS) and pool < budget:
            write(bert.evaluate(model, job.glance))
            tally.eval_seconds += laps.lap()
        elif crossed(before, pool, max(budget / LINES, 1)):
            write(None)
        if stop.signal or crossed(before, pool, o.save_every):
            checkpoint(sift=flat(now), tally=tally)
        if stop.signal:
            progress.close()
            recorder.close()
            return None
        laps.lap()

    if stream is not None and sifter is not None:  # pools after the last batch were read too
        state, rest = sifter.flush(stream.state)
        tally.pool = int(state.step)
        if not rest:
            recorder.write(stream.info, tally.pool, seconds=tally.seconds, phi=tally.phi)
    tally.seconds += laps.lap()
    set_rate(optimizer, 0.0)
    checkpoint(sift=flat(state), tally=tally)  # killed from here on, a run only evaluates again
    laps.lap()
    accuracy = bert.evaluate(model, job.test)
    tally.eval_seconds += laps.lap()
    summary = summarize(job, tally, accuracy, optimizer)
    write(accuracy)
    progress.close()
    recorder.close()
    runs.write_json(folder / "summary.json", summary)
    return summary


def plain(candidates: ps.epochs, read: int, budget: int, device: torch.device) -> Iterator[Step]:
    """The pools themselves, from number `read` on."""
    for pool, batch in enumerate(pools.read(candidates, read), read + 1):
        if pool > budget:
            return
        yield Step({name: leaf.to(device) for name, leaf in batch.items()}, None, pool, pool / budget, None, None)


def sifted(stream: Stream, sifter: ps.Sifter, budget: int) -> Iterator[Step]:
    """What the sifter keeps of them, to the last row."""
    for batch, weights, state, info in stream:
        yield Step(batch, weights, int(state.step), ps.progress(state, budget), state, info)
    # Less than a batch is left. The rate has all but reached zero, so this is for the counts' sake: every row that was
    # kept is trained on once.
    state, rest = sifter.flush(stream.state)
    for place, (batch, weights) in enumerate(rest):
        info = None if place else stream.info  # of the pools after the last full batch
        yield Step(batch, weights, int(state.step), ps.progress(state, budget), state, info)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], weights: Tensor | None, dtype: str
) -> float:
    """One step of training; the loss that it had."""
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        losses = bert.loss(model, batch)
    loss = losses.mean() if weights is None else (weights * losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value = loss.item()
    if value - value != 0:
        raise ValueError("the training loss is NaN or infinite: lower --lr")
    return value


def rate(peak: float, done: float) -> float:
    """Linear up over the warm-up, linear down to zero; `done` is the fraction of the budget spent."""
    return peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def adamw(model: nn.Module, o: Options) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), o.lr)


def loader(job: Job) -> Any:
    return data.loader(job.train, job.options.batch_size, seed=job.options.seed)


def scorer(job: Job, model: nn.Module, dtype: str) -> Any:
    """The loss in a precision of its own, short sentences apart from long ones: half of a random pool is padding."""
    score = ps.autocast(ps.batched(model, bert.loss), getattr(torch, dtype))
    return ps.chunked(score, max(job.options.batch_size // 2, 1), length=length, pad=pads(job))


def compose(job: Job, score: Any) -> tuple[ps.Sifter, Governor | None]:
    """Without a score, a random share. Rows wait padded to one length and leave cut to the longest of their batch."""
    o = job.options
    columns = {"id": lambda batch: batch["id"], "label": lambda batch: batch["labels"]}
    shape: Any = {"batch_size": o.batch_size, "pad": pads(job), "length": length, "columns": columns}
    if score is None:
        return ps.sifter(None, ps.uniform(keep=o.keep), **shape), None
    if o.sift == "auto":
        return ps.auto(score, keep=o.keep, history=o.history, **shape)
    return ps.sifter(score, ps.delay(o.rule(), o.delay) if o.delay else o.rule(), **shape), None


def pads(job: Job) -> dict[str, ps.Pad]:
    longest = job.options.max_length
    return {"input_ids": ps.Pad(job.pad_id, longest), "attention_mask": ps.Pad(0, longest)}


def length(batch: dict[str, Tensor]) -> Tensor:
    return batch["attention_mask"].sum(1)


def crossed(before: int, now: int, every: float) -> bool:
    return int(now / every) > int(before / every)


def flat(state: ps.SiftState | None) -> dict[str, Tensor] | None:
    return None if state is None else ps.state_dict(state)


# Around the loop: what is measured before it, what is told after it.


def main(argv: list[str] | None = None) -> int:
    threads = torch.get_num_threads()
    try:
        with runs.stopping() as stop:
            return run(*parse(argv), stop)
    except ValueError as error:
        Parser().error(str(error))
    except KeyboardInterrupt:
        print("train: stopped at once; what was saved before is in the run folder", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)


def run(o: Options, folder: Path, resume: bool, stop: runs.Stop) -> int:
    torch.set_num_threads(o.threads)
    corpus = data.load(o.data, seed=o.seed)
    rows = corpus.train[: o.limit]
    built = bert.build(o.model, [sentence for sentence, _ in rows], seed=o.seed, max_length=o.max_length)
    glance = random.Random(o.seed).sample(corpus.test, min(GLANCE, len(corpus.test)))
    sentences = partial(data.Sentences, tokenize=built.tokenize, pad_id=built.pad_id)
    test, some = (list(data.eval_batches(sentences(part), 256)) for part in (corpus.test, glance))
    job = Job(o, folder, built.model, built.pad_id, sentences(rows), rows, some, test)
    if len(rows) * o.epochs * o.keep < 2 * o.batch_size and o.sift != "none":
        raise ValueError(
            f"{len(rows)} sentences, {o.epochs} times, at --keep {o.keep:g} make less than two batches of "
            f"{o.batch_size}: lower --batch-size or take more data"
        )

    facts = {"name": corpus.name, "synthetic": corpus.synthetic, "train": len(rows), "test": len(corpus.test)}
    facts["checksum"] = zlib.crc32(repr((rows, corpus.test)).encode())
    if resume and runs.read_json(folder / "config.json")["rows"] != facts:
        raise ValueError(f"the data is not what the run in {folder} began with: put it back, or start a new run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_json(folder / "config.json", asdict(o) | {"rows": facts})
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from error
    print(
        f"{'going on with ' if resume else ''}{corpus.name}: {len(rows)} sentences to train on, {len(corpus.test)} to "
        f"test on; {o.model} on {o.device}, threads: {o.threads}; run folder {folder}",
        file=sys.stderr,
    )

    costs_file = folder / "costs.json"
    measured = runs.read_json(costs_file) if resume else None
    if measured is None:
        measured = measure(job, stop)
        if stop.signal:
            print("train: stopped before training began; start again", file=sys.stderr)
            return 128 + stop.signal
        runs.write_json(costs_file, measured)
    dtype = measured["score"]["dtype"] if measured["score"] else None

    total = o.epochs * len(loader(job))
    single = {"none": "plain", "uniform": "random"}.get(o.sift, "sifted")
    arms: dict[str, dict[str, Any]] = {}
    for arm in ("plain", "sifted", "random", "shortened") if o.compare else (single,):
        budget = max(round(total * sifted_cost(measured, arms["sifted"])), 1) if arm == "shortened" else total
        done = runs.read_json(folder / arm / "summary.json")
        done = done or train(job, arm, min(budget, total), dtype if arm == "sifted" else None, stop)
        if done is not None:
            arms[arm] = done
        if stop.signal and (done is None or arm != ("shortened" if o.compare else single)):
            print(f"train: stopped in arm {arm}, everything is saved; go on with", file=sys.stderr)
            print(f"  python -m models.train --resume --out {folder}", file=sys.stderr)
            return 128 + stop.signal

    pace = {name: arm["seconds"] / arm["seen"] for name, arm in arms.items()}
    for name in arms:  # time per candidate, in units of the plain arm's
        arms[name]["cost"] = pace[name] / pace["plain"] if "plain" in pace else None
    arms = {name: arms[name] for name in ORDER if name in arms}
    runs.write_json(folder / "summary.json", {"arms": arms, **measured, **report.circumstances(o, facts)})
    draw([folder / name for name in arms], folder)
    print(report.table(arms))
    print(report.remarks(arms, measured, corpus.synthetic), end="")
    print(f"\nall of it on a page: puresift report {folder}\nrun folder: {folder}")
    return 0


def measure(job: Job, stop: runs.Stop) -> dict[str, Any]:
    """Which precision scores faster here and, for the comparison, what a sifted pass costs."""
    o, device = job.options, torch.device(job.options.device)
    if o.sift in ("none", "uniform"):
        return {"score": None, "interleaved": None}
    model = copy.deepcopy(job.model).to(device)
    first = {name: leaf.to(device) for name, leaf in ps.peek(loader(job)).items()}
    names = ("float32", "bfloat16") if o.score_dtype == "auto" else (o.score_dtype,)
    choice = ps.fastest({name: scorer(job, model, name) for name in names}, ps.live(model), first)
    score = {"dtype": choice.name, "seconds": choice.seconds, "agreement": choice.agreement}
    if not o.compare:
        return {"score": score, "interleaved": None}
    print(f"scoring in {choice.name}; measuring what a sifted pass costs", file=sys.stderr)
    torch.manual_seed(o.seed)
    turns = costs.interleaved(
        model,
        partial(adamw, o=o),
        partial(update, dtype=o.train_dtype),
        lambda tally: compose(job, costs.timed(scorer(job, model, choice.name), tally, device))[0],
        partial(loader, job),
        ps.key(o.seed),
        stop,
    )
    return {"score": score, "interleaved": turns._asdict()}


def sifted_cost(measured: dict[str, Any], sifted: dict[str, Any]) -> float:
    """The sifted arm's cost in plain passes: scoring as it was measured in turns, training as much as it came to."""
    scoring: float = measured["interleaved"]["cost"] - measured["interleaved"]["keep"]
    return scoring * float(sifted["scored"]) / float(sifted["seen"]) + float(sifted["keep"])


def summarize(job: Job, tally: runs.Tally, accuracy: float, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    epochs, rest = divmod(tally.pool, len(loader(job)))
    seen = epochs * len(job.train) + min(rest * job.options.batch_size, len(job.train))
    keep = tally.trained / seen
    return {
        "accuracy": accuracy,
        "seconds": tally.seconds,
        "eval_seconds": tally.eval_seconds,
        "pools": tally.pool,
        "steps": tally.step,
        "seen": seen,
        "scored": tally.scored,
        "trained": tally.trained,
        "phi": tally.phi,
        "keep": keep,
        "predicted_cost": (tally.phi or 0.0) * tally.scored / seen + keep,
        "lr": optimizer.param_groups[0]["lr"],
    }


if __name__ == "__main__":
    sys.exit(main())
