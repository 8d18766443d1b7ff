"""What comes before training: the model and the sentences, the run folder, and what scoring costs here."""

import random
import sys
import zlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from models import bert, compare, data, files, ranks, runs, savings
from models.arms import Job
from models.options import Options
from puresift.distributed import place

GLANCE = 1000  # test rows that are evaluated on while training


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
    _, world = place()
    rest = len(rows) % o.batch_size
    if world > 1 and (len(rows) < o.batch_size or 0 < rest < world):
        raise ValueError(
            f"{len(rows)} sentences end with a pool of {rest}, which {world} ranks cannot share: choose another "
            "--batch-size, or leave out some by --limit"
        )
    return Job(o, folder, built.model, built.pad_id, sentences(rows), rows, some, test)


def opened(job: Job, corpus: data.Corpus, resume: bool) -> dict[str, Any]:
    """Make the run folder, or check that the one to resume began with the same data; returns facts about the data."""
    o, folder, rows = job.options, job.folder, job.rows
    facts = {"name": corpus.name, "synthetic": corpus.synthetic, "train": len(rows), "test": len(corpus.test)}
    facts["checksum"] = zlib.crc32(repr((rows, corpus.test)).encode())
    others = [rank for rank, checksum in enumerate(ranks.each(facts["checksum"])) if checksum != facts["checksum"]]
    if others:
        raise ValueError(f"the data of rank {others[0]} is not that of this rank: give all ranks the same files")
    _, world = place()

    def begin() -> None:
        if resume and (files.read_json(folder / "config.json") or {}).get("rows") != facts:
            raise ValueError(f"the data is not what the run in {folder} began with: restore it, or start a new run")
        runs.write_json(folder / "config.json", asdict(o) | {"rows": facts})
        print(
            f"{'resuming on ' if resume else ''}{corpus.name}: {len(rows)} sentences to train on, {len(corpus.test)} "
            f"to test on; {o.model} on {o.device}, threads: {o.threads}{f', ranks: {world}' if world > 1 else ''}; "
            f"run folder {folder}",
            file=sys.stderr,
        )

    ranks.first(begin)
    return facts


def measured(job: Job, resume: bool, stop: runs.Stop) -> dict[str, Any] | None:
    """What scoring and sifting cost here, measured once a run; None when told to stop meanwhile."""
    o, path, again = job.options, job.folder / "costs.json", "remove it, and it is measured again"
    found: dict[str, Any] | None = None
    if resume:
        found = ranks.first(partial(files.read_json, path, "score", "interleaved", cure=again))
    if found is None:
        found = compare.measure(job, stop)
        if o.compare and place()[1] == 1 and not stop.heard():
            found["loops"] = savings.measure(job, stop)
        if stop.heard():
            return None
        costs = found
        ranks.first(lambda: runs.write_json(path, costs))
    return found
