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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import puresift as ps
from models import arms, bert, checkpoints, compare, data, files, locks, report, runs
from models.arms import Job
from models.options import Options, Parser, parse
from puresift.report import draw

WARM_UP = 0.06  # of the budget
EVALUATIONS = 10  # in a run, on at most GLANCE test rows each; the last one on all of them
GLANCE = 1000
ORDER = ("plain", "shortened", "random", "sifted")


def train(job: Job, arm: str, budget: int, score_dtype: str | None, stop: runs.Stop) -> dict[str, Any] | None:
    """Train one arm on `budget` pools of candidates; None when told to stop, with everything saved."""
    o, folder = job.options, job.folder / arm
    device = torch.device(o.device)
    torch.manual_seed(o.seed)  # only dropout draws from it
    model = copy.deepcopy(job.model).to(device)
    optimizer = arms.adamw(model, o)
    candidates = ps.epochs(arms.loader(job), o.epochs)

    log = runs.Log(folder, o, budget, lambda id: job.rows[id][0], job.mark)
    tally, saved = log.tally, log.saved
    if saved:
        with checkpoints.fitting(log.path):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            score_dtype = saved["score_dtype"]

    sifter: ps.Sifter | None = None
    state: ps.SiftState | None = None
    source = arms.plain(candidates, tally.pool, budget, device)
    if arm in ("sifted", "random"):
        score = compare.timed(arms.scorer(job, model, score_dtype), tally, device) if score_dtype else None
        sifter, governor = arms.compose(job, score)
        state = sifter.init(ps.key(o.seed), ps.peek(candidates.loader))
        if saved:
            with checkpoints.fitting(log.path):
                state = ps.load_state_dict(state, saved["sift"])
        stream = ps.sift(sifter, state, ps.live(model), candidates, governor=governor)
        source = arms.sifted(stream, sifter, budget)

    save = partial(log.save, model, optimizer, score_dtype)
    if not saved:
        set_rate(optimizer, rate(o.lr, 0.0))
        save(state)
    if not tally.pool:
        log.write(optimizer, bert.evaluate(model, job.glance))
    if saved:
        with checkpoints.fitting(log.path):
            runs.set_rng(saved["rng"])  # last, so that nothing draws before training resumes

    laps = compare.Laps(device)
    for batch, weights, pool, done, now, info in source:
        began = compare.clock(device)
        loss = arms.update(model, optimizer, batch, weights, o.train_dtype)
        tally.train_seconds += compare.clock(device) - began
        set_rate(optimizer, rate(o.lr, done))  # for the next step

        before = tally.trains(pool, len(batch["labels"]), loss, info)
        tally.seconds += laps.lap()  # from here on, time does not count as training
        log.record(info)
        if crossed(before, pool, budget / EVALUATIONS) and pool < budget:
            log.write(optimizer, bert.evaluate(model, job.glance))
            tally.eval_seconds += laps.lap()
        elif crossed(before, pool, log.every):
            log.write(optimizer, None)
        if stop.signal or crossed(before, pool, o.save_every):
            save(now)
        if stop.signal:
            log.close()
            return None
        laps.lap()

    if sifter is not None:  # pools after the last batch were read too
        state, rest = sifter.flush(stream.state)
        tally.pool = int(state.step)
        if not rest:
            log.record(stream.info)
    tally.seconds += laps.lap()
    set_rate(optimizer, 0.0)
    save(state)  # if killed after this, a resumed run only evaluates
    laps.lap()
    accuracy = bert.evaluate(model, job.test)
    tally.eval_seconds += laps.lap()
    summary = compare.summarize(job, tally, accuracy, optimizer)
    log.write(optimizer, accuracy)
    log.close()
    runs.write_json(folder / "summary.json", summary)
    return summary


def rate(peak: float, done: float) -> float:
    """Linear up over the warm-up, linear down to zero; `done` is the fraction of the budget spent."""
    return peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def crossed(before: int, now: int, every: float) -> bool:
    return int(now / every) > int(before / every)


# Around the loop: measurements before it, reports after it.


def main(argv: list[str] | None = None) -> int:
    threads = torch.get_num_threads()
    try:
        with runs.stopping() as stop:
            return run(*parse(argv), stop)
    except ValueError as error:
        Parser().error(str(error))
    except OSError as error:
        Parser().error(files.unwritten(error))
    except KeyboardInterrupt:
        print("train: stopped at once; what was saved before is in the run folder", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)


def run(o: Options, folder: Path, resume: bool, stop: runs.Stop) -> int:
    torch.set_num_threads(o.threads)
    corpus = data.load(o.data, seed=o.seed)
    job = prepared(o, folder, corpus)
    with locks.held(folder):
        if not resume:
            files.unused(folder)  # since we looked, another process may have come and gone
        files.clean(folder)
        return arms_of(job, corpus, resume, stop)


def arms_of(job: Job, corpus: data.Corpus, resume: bool, stop: runs.Stop) -> int:
    """Train what is not trained yet, and tell."""
    o, folder = job.options, job.folder
    facts = opened(job, corpus, resume)
    job = job._replace(mark=checkpoints.mark(o, facts))
    again = "remove it, and it is measured again"
    measured = files.read_json(folder / "costs.json", "score", "interleaved", cure=again) if resume else None
    if measured is None:
        measured = compare.measure(job, stop)
        if stop.signal:
            print("train: stopped before training began; start again", file=sys.stderr)
            return 128 + stop.signal
        runs.write_json(folder / "costs.json", measured)
    dtype = measured["score"]["dtype"] if measured["score"] else None

    total = o.epochs * len(arms.loader(job))
    single = {"none": "plain", "uniform": "random"}.get(o.sift, "sifted")
    known: dict[str, dict[str, Any]] = {}
    for arm in ("plain", "sifted", "random", "shortened") if o.compare else (single,):
        budget = total
        if arm == "shortened":
            budget = min(max(round(total * compare.sifted_cost(measured, known["sifted"])), 1), total)
        done = compare.read_summary(folder / arm / "summary.json")
        done = done or train(job, arm, budget, dtype if arm == "sifted" else None, stop)
        if done is not None:
            known[arm] = done
        if stop.signal and (done is None or arm != ("shortened" if o.compare else single)):
            print(f"train: stopped in arm {arm}, everything is saved; resume with", file=sys.stderr)
            print(f"  python -m models.train --resume --out {folder}", file=sys.stderr)
            return 128 + stop.signal

    known = {name: known[name] for name in ORDER if name in known}
    compare.add_costs(known)
    runs.write_json(folder / "summary.json", {"arms": known, **measured, **report.circumstances(o, facts)})
    draw([folder / name for name in known], folder)
    print(report.table(known))
    print(report.remarks(known, measured, corpus.synthetic), end="")
    print(f"\nall of it on a page: puresift report {folder}\nrun folder: {folder}")
    return 0


def prepared(o: Options, folder: Path, corpus: data.Corpus) -> Job:
    """The model as built, and the sentences as its tokens."""
    rows = corpus.train[: o.limit]
    built = bert.build(o.model, [sentence for sentence, _ in rows], seed=o.seed, max_length=o.max_length)
    glance = random.Random(o.seed).sample(corpus.test, min(GLANCE, len(corpus.test)))
    sentences = partial(data.Sentences, tokenize=built.tokenize, pad_id=built.pad_id)
    test, some = (list(data.eval_batches(sentences(part), 256)) for part in (corpus.test, glance))
    if len(rows) * o.epochs * o.keep < 2 * o.batch_size and o.sift != "none":
        raise ValueError(
            f"{len(rows)} sentences, {o.epochs} times, at --keep {o.keep:g} make less than two batches of "
            f"{o.batch_size}: lower --batch-size or take more data"
        )
    return Job(o, folder, built.model, built.pad_id, sentences(rows), rows, some, test)


def opened(job: Job, corpus: data.Corpus, resume: bool) -> dict[str, Any]:
    """Make the run folder, or check that the one to resume began with the same data; returns facts about the data."""
    o, folder, rows = job.options, job.folder, job.rows
    facts = {"name": corpus.name, "synthetic": corpus.synthetic, "train": len(rows), "test": len(corpus.test)}
    facts["checksum"] = zlib.crc32(repr((rows, corpus.test)).encode())
    if resume and (files.read_json(folder / "config.json") or {}).get("rows") != facts:
        raise ValueError(f"the data is not what the run in {folder} began with: restore it, or start a new run")
    runs.write_json(folder / "config.json", asdict(o) | {"rows": facts})
    print(
        f"{'resuming on ' if resume else ''}{corpus.name}: {len(rows)} sentences to train on, {len(corpus.test)} to "
        f"test on; {o.model} on {o.device}, threads: {o.threads}; run folder {folder}",
        file=sys.stderr,
    )
    return facts


if __name__ == "__main__":
    sys.exit(main())
