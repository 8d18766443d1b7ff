"""Film reviews to sift: read from a TSV file or a folder of them, from the hub, or generated on the spot.

A corpus is two lists of (sentence, label) rows, label 1 for praise. Files are read strictly: a row that cannot be
trained on is an error that names its line, because a row skipped silently would be unintended sifting.
"""

import importlib
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from models.orders import Alike, Shares
from models.reviews import Corpus, Row, embedded

TEXT = ("sentence", "text")
HELD_OUT = ("dev.tsv", "validation.tsv", "valid.tsv", "test.tsv")


def load(source: str | None, *, seed: int = 0) -> Corpus:
    """Read a corpus; `seed` decides the generated one, and the 90/10 split where no test rows are given.

    Args:
        source: None for the generated reviews; a TSV file; a folder with `train.tsv` and any of `dev.tsv`,
            `validation.tsv`, `valid.tsv`, `test.tsv` (joined as the test rows); or a hub name such as `sst2`.

    Raises:
        ValueError: with the file, the line and the fix.
    """
    if source is None:
        return embedded(seed)
    path = Path(source).expanduser()
    if path.is_file():
        return Corpus(path.stem, *split(read(path), seed, source), synthetic=False)
    if path.is_dir():
        if not (path / "train.tsv").is_file():
            raise ValueError(f"{source}: no train.tsv in this folder: add one, or name a single .tsv file")
        train = read(path / "train.tsv")
        test = [row for name in HELD_OUT if (path / name).is_file() for row in read(path / name)]
        return Corpus(path.resolve().name, *((train, test) if test else split(train, seed, source)), synthetic=False)
    if "/" in source or "\\" in source or source.endswith(".tsv"):
        raise ValueError(f"{source}: no such file or folder: check the path, or leave it out for the generated reviews")
    return hub(source, seed)


def read(path: Path) -> list[Row]:
    """The rows of one TSV file. A header, if any, says which column is which; quotes are ordinary characters."""
    try:
        # Not splitlines(): a sentence may hold a form feed or U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}: save the file as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): let this user read it") from None
    numbered = [(n, [f.strip() for f in line.split("\t")]) for n, line in enumerate(lines, 1) if line.strip()]
    names = ["sentence", "label"]
    if numbered and set(numbered[0][1]) & {*TEXT, "label"} and not set(numbered[0][1]) & {"0", "1"}:
        at, names = numbered.pop(0)
        for wanted, found in (("sentence", [n for n in TEXT if n in names]), ("label", {"label"} & set(names))):
            if not found:
                raise ValueError(f"{path}:{at}: no {wanted} column among {names}: add it, or leave the file out")
    if not numbered:
        raise ValueError(f"{path}: no rows: want lines of sentence<TAB>label")
    text, label = next(names.index(n) for n in TEXT if n in names), names.index("label")
    rows = []
    for n, fields in numbered:
        if len(fields) != len(names):
            cure = (
                "add the label, or leave the file out"
                if len(fields) < len(names)
                else "is there a tab in the sentence?"
            )
            raise ValueError(f"{path}:{n}: want {len(names)} columns ({', '.join(names)}), got {len(fields)}: {cure}")
        rows.append(row(f"{path}:{n}", fields[text], fields[label]))
    return rows


def row(where: str, sentence: str, label: object) -> Row:
    if str(label) not in ("0", "1"):
        cure = "write 0 for blame, 1 for praise (a header must name its columns sentence and label)"
        raise ValueError(f"{where}: label must be 0 or 1, got {label!r}: {cure}")
    if not sentence.strip():
        raise ValueError(f"{where}: the sentence is empty: fill it in or remove the row")
    return sentence.strip(), int(str(label))


def split(rows: list[Row], seed: int, where: str) -> tuple[list[Row], list[Row]]:
    """Nine tenths of the sentences to train on, the rest to test on; a repeated sentence stays on one side."""
    sentences = list(dict.fromkeys(sentence for sentence, _ in rows))
    if len(sentences) < 2:
        raise ValueError(f"{where}: one sentence cannot be split into train and test rows: add more")
    random.Random(seed).shuffle(sentences)
    held = set(sentences[: max(1, len(sentences) // 10)])
    return [r for r in rows if r[0] not in held], [r for r in rows if r[0] in held]


def hub(name: str, seed: int) -> Corpus:
    """A data set of the hub, through the `datasets` library: splits train and validation (or test), labels 0 and 1."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise ValueError(f"{name} is no file or folder; to fetch it from the hub: pip install datasets") from None
    try:
        parts = datasets.load_dataset({"sst2": "stanfordnlp/sst2"}.get(name, name))
    except Exception as error:  # the library raises some twenty kinds
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{name}: no file or folder, and the hub gave none: check name and network ({why})") from error
    if "train" not in parts:
        raise ValueError(f"{name}: no train split among {sorted(parts)}: save the rows you want as a TSV file")

    def rows(part: str) -> list[Row]:
        found = []
        for n, record in enumerate(parts[part]):
            text = next((t for t in TEXT if t in record), None)
            if text is None or "label" not in record:
                raise ValueError(
                    f"{name}/{part}: want columns sentence and label, got {sorted(record)}: use a TSV file"
                )
            found.append(row(f"{name}/{part}:{n}", record[text], record["label"]))
        if not found:
            raise ValueError(f"{name}/{part}: no rows: choose another data set")
        return found

    # GLUE's test labels are withheld (-1): validation first.
    part = next((p for p in ("validation", "test") if p in parts), None)
    train = rows("train")
    return Corpus(name, *((train, rows(part)) if part else split(train, seed, name)), synthetic=False)


class Sentences(Dataset[dict[str, Any]]):
    """Tokenised rows; `id` is a row's place in the list, which stateful scores and reports use."""

    def __init__(self, rows: list[Row], tokenize: Callable[[list[str]], list[list[int]]], *, pad_id: int = 0) -> None:
        self.tokens = tokenize([sentence for sentence, _ in rows])  # the tokenizer truncates
        self.labels = [label for _, label in rows]
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[i], "label": self.labels[i], "id": i}


def collate(rows: list[dict[str, Any]], *, pad_id: int = 0) -> dict[str, Tensor]:
    """Int64 tensors: input_ids and attention_mask [B, L], padded right to the longest of these rows; labels, id [B]."""
    lengths = torch.tensor([len(r["input_ids"]) for r in rows])
    width = int(lengths.max())
    return {
        "input_ids": torch.tensor([r["input_ids"] + [pad_id] * (width - len(r["input_ids"])) for r in rows]),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        "labels": torch.tensor([r["label"] for r in rows]),
        "id": torch.tensor([r["id"] for r in rows]),
    }


def loader(
    dataset: Sentences,
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    drop_last: bool = False,
    share: tuple[int, int] = (0, 1),
    alike: bool = False,
) -> DataLoader[dict[str, Any]]:
    """A DataLoader whose order is a function of (seed, epoch): call `loader.sampler.set_epoch(epoch)` before each pass.

    The default sampler would draw its order from the global generator state, so a resumed run, or one that scores more
    than another, would see other batches.

    Args:
        share: (rank, ranks); with more than one rank, this one's rows of pools of `batch_size`, the last one included.
        alike: whether the rows of a pool are of about one length; pools then hardly hold padding.
    """
    order: Any = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=shuffle, seed=seed)
    order = Alike(order, list(map(len, dataset.tokens)), batch_size) if alike else order
    several = share[1] > 1
    pools: dict[str, Any] = {"batch_size": batch_size, "sampler": order, "drop_last": drop_last}
    return DataLoader(
        dataset,
        collate_fn=partial(collate, pad_id=dataset.pad_id),
        generator=torch.Generator().manual_seed(seed),
        **({"batch_sampler": Shares(order, batch_size, *share)} if several else pools),
    )


def eval_batches(dataset: Sentences, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Every row once, shortest first, so almost no padding. A generator: read it once, or make a list of it."""
    order = sorted(range(len(dataset)), key=lambda i: len(dataset.tokens[i]))
    for start in range(0, len(order), batch_size):
        yield collate([dataset[i] for i in order[start : start + batch_size]], pad_id=dataset.pad_id)
