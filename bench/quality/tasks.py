"""The tasks: what is learnt, by which model, for how long, and how it is judged.

A task is a row of a table. `load` reads its data once a process; examples are dicts of tensors that share their first
dimension, `id` among them. All follows from `outputs(model, batch) -> (outputs, labels)`. Most tasks classify a row, or
each character of a row, and are judged by accuracy; a task with a `judge` of its own has one number a run.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import puresift as ps
from bench.quality.arms import LEFT
from bench.quality.places import SIDE, burgers, flow, picture, psnr, residuals, snr, squared
from bench.quality.rows import chars, digits, letters, precision
from bench.quality.sentences import phrases, sentences, sst2
from bench.quality.task import Data, Task, labelled

MINILM, FRESH, ONES = (5e-5, 1e-4, 2e-4), (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
SINES = (1e-3, 1.4e-3, 2e-3, 2.8e-3)  # a finer one, for at .004 they diverge
# What a full run takes decides the sizes: a minute on one core; `long` has four, for data to repeat themselves.
SST2_ROWS = partial(sst2, train=1_600)
FLIPPED = partial(sst2, train=1_600, flipped=0.2)
PHRASES = partial(phrases, model="minilm", train=3_200, test=3_000)
SCRATCH = partial(phrases, model="small", train=58_000, test=7_000)
THIN = partial(phrases, model="small", train=26_000, test=4_000, positive=0.1)
CHARS = partial(chars, train=12_000, valid=500, test=1_500)
HALF, WHOLE = torch.bfloat16, torch.float32
RARE = 0.01  # share of B and R


FIELD: Any = {"floor": 0.3, "shown": ps.by_root, "budgets": (0.75, 0.6, 0.4)}


def _pictured(name: str, *, kind: str, epochs: float) -> Task:
    """A picture, fitted in so many passes over its pixels."""
    says = f"{SIDE} x {SIDE} pixels of scikit-image's {name}, by a SIREN, {epochs:.0f} passes"
    load, tuned = partial(picture, name=name), None if name == TRIED else f"{kind}-{TRIED}"
    return Task(
        *(f"{kind}-{name}", says, load, labelled, epochs, 1024, 2e-3, SINES, WHOLE),
        **{"each": squared, "judge": psnr, "metric": "PSNR", "unit": "dB"},
        **FIELD,
        tuned=tuned,
        arms=("full", "shortened", "rs2", "infobatch", *DRAWN),
    )


def _rare(percent: int) -> Task:
    share = percent / 100
    return Task(
        f"rare-{percent}",
        f"13,000 GLUE phrases, {percent} % positives, 2 layers from scratch, float32, scored in bfloat16",
        partial(phrases, model="small", train=13_000, test=7_000, positive=share),
        sentences,
        *(4, 64, 1e-3, FRESH, WHOLE),
        judge=partial(precision, rare=share),
        metric="average precision",
        scored=HALF,
        glance=16,
        arms=RARES,
        budgets=(0.6, 0.4),
        rivals=("shortened", "rs2", *THINNED),
    )


def _whole(name: str, says: str, dtype: torch.dtype) -> Task:
    return Task(
        name,
        f"6,920 SST-2 sentences three times over, MiniLM, {says}",
        partial(sst2, train=6_920),
        sentences,
        *(3, 16, 5e-5, MINILM, dtype),
        scored=HALF,
        glance=24,
        arms=("full", "shortened", "rs2", "relative-1-gated", "auto", "prioritized-0", "probed-1", "recalled-1"),
        budgets=(0.6,),
        tuned=None if dtype == WHOLE else "sst2-whole32",
    )


PICTURES = (TRIED := "chelsea", "astronaut", "coffee", "camera")  # the first one chooses the learning rate
DRAWN = ("prioritized-0", "prioritized-.5", "prioritized-1")
SIFTED = ("infobatch", *DRAWN, "katharopoulos", "relative-1", "relative-1-gated")
LETTERS = ("full", "shortened", "rs2", *SIFTED)
THINNED = tuple(f"downsampled-{keep:g}".replace("0.", ".") for keep in LEFT)
RARES = (*LETTERS, *THINNED, "oversampled")
TABLE = (
    Task("sst2", "1,600 SST-2 sentences, MiniLM", SST2_ROWS, sentences, 1.5, 16, 5e-5, MINILM, glance=24),
    Task("phrases", "3,200 GLUE SST-2 phrases, MiniLM", PHRASES, sentences, 1, 16, 5e-5, MINILM, glance=16),
    Task(
        "noisy", "SST-2 with 20 % of the labels flipped, MiniLM", FLIPPED, sentences, 1.5, 16, 5e-5, MINILM, glance=24
    ),
    Task(
        "scratch",
        "58,000 GLUE phrases, 2 layers from scratch, bfloat16",
        SCRATCH,
        sentences,
        1.5,
        64,
        2e-3,
        FRESH,
        glance=16,
        cascades=True,
        tuned="scratch32",
    ),
    Task(
        "scratch32",
        "58,000 GLUE phrases, 2 layers from scratch, float32, scored in bfloat16",
        SCRATCH,
        sentences,
        *(1, 64, 2e-3, FRESH, WHOLE),
        scored=HALF,
        glance=16,
        cascades=True,
    ),
    Task(
        "long",
        "58,000 GLUE phrases four times over, 2 layers from scratch, float32, scored in bfloat16",
        SCRATCH,
        sentences,
        *(4, 64, 2e-3, FRESH[:2], WHOLE),
        scored=HALF,
        glance=16,
        cascades=True,
    ),
    Task(
        "thin",
        "26,000 GLUE phrases, 10 % positives, 2 layers from scratch, float32, scored in bfloat16",
        THIN,
        sentences,
        *(2, 64, 2e-3, FRESH, WHOLE),
        balanced=True,
        scored=HALF,
        glance=16,
        cascades=True,
    ),
    Task("digits", "8 x 8 digits, small convolutional net", digits, labelled, 60, 32, 1e-3, ONES, WHOLE),
    Task("chars", "characters of Python's library, small GPT", CHARS, labelled, 3, 32, 1e-3, ONES, many=True),
    *(_pictured(name, kind="picture", epochs=40) for name in PICTURES),
    *(_pictured(name, kind="long-picture", epochs=111) for name in PICTURES),
    Task(
        "letter",
        "26 letters by 16 numbers each, MLP",
        letters,
        labelled,
        *(20, 128, 1e-3, ONES, WHOLE),
        arms=LETTERS,
    ),
    Task(
        "letter-rare",
        "B and R against other letters, 1 % of the rows, MLP",
        partial(letters, rare=RARE),
        labelled,
        *(20, 128, 1e-3, ONES, WHOLE),
        judge=partial(precision, rare=RARE),
        metric="average precision",
        arms=RARES,
        rivals=("shortened", "rs2", *THINNED),
    ),
    _rare(1),
    _rare(3),
    Task(
        "burgers",
        "Burgers' equation on 10,000 points, by its residual, MLP",
        burgers,
        flow,
        *(195, 512, 2e-3, FRESH, WHOLE),
        each=residuals,
        judge=snr,
        metric="SNR",
        unit="dB",
        **FIELD,
        arms=("full", "shortened", "rs2", *DRAWN),
    ),
    _whole("sst2-whole", "bfloat16", HALF),
    _whole("sst2-whole32", "float32, scored in bfloat16", WHOLE),
)
TASKS = {task.name: task for task in TABLE}


@cache
def loaded(name: str, folder: Path) -> Data:
    """A task's data, read once a process.

    Raises:
        Missing: its files or packages are not here.
    """
    return TASKS[name].load(folder)
