"""Fine-tune a BERT on film reviews, training only on the sentences that still teach it something.

    python -m models.train                      four arms on generated reviews, a verdict and a table; minutes
    python -m models.train --data reviews.tsv --model minilm --keep 0.25
    python -m models.train --resume --out runs/small-20250101-120000
    torchrun --nproc-per-node 2 -m models.train    the same on two ranks, which decide as one

Arms: `plain` trains on everything; `sifted` scores every candidate and trains on those the rule keeps; `random` keeps
as many, unseen; `shortened` is plain with its schedule cut to what sifting cost, the arm that sifting has to beat.
"""

import copy
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

import puresift as ps
from models import arms, checkpoints, compare, data, files, locks, logs, ranks, report, runs, starting
from models.arms import Job
from models.options import Options, Parser, parse
from puresift.distributed import place

WARM_UP = 0.06  # of the budget
EVALUATIONS = 10  # in a run, on a part of the test rows each; the last one on all of them
ORDER = ("plain", "shortened", "random", "sifted")


def train(job: Job, arm: str, budget: int, score_dtype: str | None, stop: runs.Stop) -> dict[str, Any] | None:
    """Train one arm on `budget` pools of candidates; None when told to stop, with everything saved."""
    o, folder = job.options, job.folder / arm
    device = ranks.device(o.device)
    model = copy.deepcopy(job.model).to(device)
    candidates = ps.epochs(arms.loader(job), o.epochs)
    some = ps.peek(candidates.loader)
    trained = ranks.spread(model, some)  # on several ranks, over all of them
    torch.manual_seed(ranks.seed(o.seed))  # only dropout draws from it
    optimizer = arms.adamw(model, o)

    log = logs.Log(folder, o, budget, lambda id: job.rows[id][0], job.mark)
    tally, saved = log.tally, log.saved
    if saved:
        with checkpoints.fitting(log.path):
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            score_dtype = saved["score_dtype"]

    sifter: ps.Sifter | None = None
    state: ps.SiftState | None = None
    own = runs.Tally()  # this rank's scoring since the last step
    source = arms.plain(job, candidates, tally.pool, budget, device)
    if arm in ("sifted", "random"):
        score = compare.timed(arms.scorer(job, model, score_dtype), own, device) if score_dtype else None
        sifter, governor = arms.compose(job, score)
        state = sifter.init(ps.key(o.seed), some)
        if saved:
            with checkpoints.fitting(log.path):
                state = logs.sifting(saved, state)
        stream = ps.sift(sifter, state, ps.live(model), candidates, governor=governor)
        source = arms.sifted(stream, sifter, budget, {name: leaf[:1].to(device) for name, leaf in some.items()})

    save = partial(log.save, model, optimizer, score_dtype)
    if not saved:
        set_rate(optimizer, rate(o.lr, 0.0))
        save(state)
    if not tally.pool:
        log.write(optimizer, ranks.evaluate(model, job.glance))
    if saved:
        with checkpoints.fitting(log.path):
            logs.set_dice(saved)  # last, so that nothing draws before training resumes

    laps = compare.Laps(device)
    for batch, weights, rows, pool, done, now, info in source:
        began = compare.clock(device)
        share = len(batch["labels"]) * place()[1] / rows
        loss = arms.update(trained, optimizer, batch, weights, o.train_dtype, share)
        tally.train_seconds += compare.clock(device) - began
        set_rate(optimizer, rate(o.lr, done))  # for the next step

        loss, info = ranks.met(stop, tally, own, loss, info)
        before = tally.trains(pool, rows, loss, info)
        tally.seconds += laps.lap()  # from here on, time does not count as training
        log.record(info)
        if crossed(before, pool, budget / EVALUATIONS) and pool < budget:
            log.write(optimizer, ranks.evaluate(model, job.glance))
            tally.eval_seconds += laps.lap()
        elif crossed(before, pool, log.every):
            log.write(optimizer, None)
        if stop.agreed or crossed(before, pool, o.save_every):
            save(now)
        if stop.agreed:
            log.close()
            return None
        laps.lap()

    if sifter is not None:  # pools after the last batch were read too
        state, rest = sifter.flush(stream.state)
        tally.pool = int(state.step)
        if not any(ranks.each(bool(rest))):
            log.record(ranks.met(stop, tally, own, 0.0, stream.info)[1])
    tally.seconds += laps.lap()
    set_rate(optimizer, 0.0)
    save(state)  # if killed after this, a resumed run only evaluates
    laps.lap()
    accuracy = ranks.evaluate(model, job.test)
    tally.eval_seconds += laps.lap()
    summary = ranks.same(compare.summarize(job, tally, accuracy, optimizer))
    log.write(optimizer, accuracy, compare.cost(summary, job.turns) if job.turns else None)
    log.close()
    ranks.first(lambda: runs.write_json(folder / "summary.json", summary))
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
        with ranks.joined(), runs.stopping() as stop:
            return run(*ranks.first(lambda: parse(argv)), stop)
    except ranks.Heard:
        return 2
    except ValueError as error:
        Parser().error(f"{ranks.name()}{error}")
    except OSError as error:
        Parser().error(f"{ranks.name()}{files.unwritten(error)}")
    except RuntimeError as error:
        if not ranks.parted(error):
            raise
        print(f"train: {ranks.name()}another rank has ended, and its own message says why", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: stopped at once; what was saved before is in the run folder", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)


def run(o: Options, folder: Path, resume: bool, stop: runs.Stop) -> int:
    torch.set_num_threads(o.threads)

    def ready() -> tuple[data.Corpus, Job]:
        corpus = data.load(o.data, seed=o.seed)
        return corpus, starting.prepared(o, folder, corpus)

    def enter() -> None:
        held.enter_context(locks.held(folder))
        if not resume:
            files.unused(folder)  # since we looked, another process may have come and gone
        files.clean(folder)

    corpus, job = ranks.every(ready)
    with ExitStack() as held:
        ranks.first(enter)
        return arms_of(job, corpus, resume, stop)


def arms_of(job: Job, corpus: data.Corpus, resume: bool, stop: runs.Stop) -> int:
    """Train what is not trained yet, and tell."""
    o, folder = job.options, job.folder
    facts = starting.opened(job, corpus, resume)
    job = job._replace(mark=checkpoints.mark(o, facts))
    measured = starting.measured(job, resume, stop)
    if measured is None:
        say("train: stopped before training began; start again")
        return 128 + stop.agreed
    dtype = measured["score"]["dtype"] if measured["score"] else None
    job = job._replace(turns=measured["interleaved"])

    total = o.epochs * len(arms.loader(job))
    single = {"none": "plain", "uniform": "random"}.get(o.sift, "sifted")
    known: dict[str, dict[str, Any]] = {}
    for arm in ("plain", "sifted", "random", "shortened") if o.compare else (single,):
        budget = total
        if arm == "shortened":
            budget = min(max(round(total * compare.cost(known["sifted"], job.turns)), 1), total)
        done = ranks.first(partial(compare.read_summary, folder / arm / "summary.json"))
        done = done or train(job, arm, budget, dtype if arm == "sifted" else None, stop)
        if done is not None:
            known[arm] = done
        if stop.heard() and (done is None or arm != ("shortened" if o.compare else single)):
            say(f"train: stopped in arm {arm}, everything is saved; resume with")
            say(f"  python -m models.train --resume --out {folder}")
            return 128 + stop.agreed

    known = {name: known[name] for name in ORDER if name in known}
    compare.add_costs(known, job.turns)
    ranks.first(lambda: report.tell(folder, o, facts, known, measured, corpus.synthetic))
    return 0


def say(line: str) -> None:
    if place()[0] == 0:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    ranks.leave(main)
