"""models/data.py: every way to name a corpus, every way to get it wrong, and batches that depend on the seed alone."""

import random
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import data, reviews

SHARED = Path(__file__).parents[3] / "shared" / "data"
seeds = st.integers(0, 2**32)


@given(seeds, st.integers(0, 200), st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_embedded_is_a_function_of_its_seed(seed: int, n_train: int, n_test: int) -> None:
    before = random.getstate()
    corpus = reviews.embedded(seed, n_train=n_train, n_test=n_test)
    assert random.getstate() == before
    assert corpus == reviews.embedded(seed, n_train=n_train, n_test=n_test)
    assert (len(corpus.train), len(corpus.test)) == (n_train, n_test)
    assert corpus.synthetic and "synthetic" in corpus.name
    for sentence, label in corpus.train + corpus.test:
        assert label in (0, 1) and sentence == data.row("here", sentence, label)[0]
        assert not set(sentence) & set("\t\n[]_|")  # no slot left open


@given(seeds, seeds)
@settings(deadline=None, max_examples=10)
def test_embedded_splits_are_disjoint_even_across_seeds(one: int, other: int) -> None:
    train = reviews.embedded(one, n_train=500, n_test=0).train
    test = reviews.embedded(other, n_train=0, n_test=300).test
    assert not {s for s, _ in train} & {s for s, _ in test}
    assert len({s for s, _ in test}) == len(test)


@given(seeds, st.floats(0, 1))
@settings(deadline=None, max_examples=10)
def test_noise_turns_that_share_of_train_labels_and_nothing_else(seed: int, noise: float) -> None:
    clean = reviews.embedded(seed, n_train=1000, n_test=100, noise=0)
    noisy = reviews.embedded(seed, n_train=1000, n_test=100, noise=noise)
    assert [s for s, _ in clean.train] == [s for s, _ in noisy.train] and clean.test == noisy.test
    wrong = sum(a != b for (_, a), (_, b) in zip(clean.train, noisy.train, strict=True))
    assert abs(wrong / 1000 - noise) < 6 * (noise * (1 - noise) / 1000) ** 0.5 + 1e-9


def test_embedded_is_balanced_varied_and_long_tailed() -> None:
    corpus = data.load(None)
    assert (len(corpus.train), len(corpus.test)) == (12_000, 2_000)
    assert 0.47 < sum(label for _, label in corpus.train) / 12_000 < 0.53
    lengths = sorted(len(sentence.split()) for sentence, _ in corpus.train)
    assert lengths[600] <= 3 and lengths[11_900] >= 30
    sentences = Counter(sentence for sentence, _ in corpus.train)
    assert sum(n - 1 for n in sentences.values()) > 1000  # easy ones come back
    clean = reviews.embedded(noise=0).train
    words = Counter(word for sentence in {s for s, _ in clean} for word in sentence.lower().split())
    assert sum(n <= 5 for n in words.values()) > 100  # and some words hardly ever


def test_negation_is_in_the_grammar() -> None:
    labels = {s.lower().rstrip(".!"): y for s, y in reviews.embedded(noise=0, n_train=50_000, n_test=0).train}
    known = {"far from dull": 1, "not without charm": 1, "hardly charming": 0, "no wit, no charm and no excuses": 0}
    assert {s: labels[s] for s in known} == known


# ---- files

sentences = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), min_size=1).map(
    str.strip
)
rows = st.lists(st.tuples(sentences.filter(bool), st.integers(0, 1)), min_size=1, max_size=12)
headers = st.sampled_from([None, ("sentence", "label"), ("label", "sentence"), ("index", "text", "label", "source")])


@given(rows, headers, st.sampled_from(["\n", "\r\n", " \n", "\n\n \n"]), st.booleans(), st.booleans())
@settings(deadline=None)
def test_tsv_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[reviews.Row],
    header: tuple[str, ...] | None,
    end: str,
    last: bool,
    bom: bool,
) -> None:
    names = header or ("sentence", "label")
    cells = [{"sentence": s, "text": s, "label": str(y), "index": "7", "source": "0"} for s, y in rows]
    lines = ["\t".join(header)] if header else []
    lines += ["\t".join(cell[name] for name in names) for cell in cells]
    path = tmp_path_factory.getbasetemp() / "rows.tsv"
    path.write_text(end.join(lines) + end * last, encoding="utf-8-sig" if bom else "utf-8", newline="")
    assert data.read(path) == rows


@given(rows, seeds)
@settings(deadline=None)
def test_split_is_a_partition_and_keeps_repeats_together(rows: list[reviews.Row], seed: int) -> None:
    if len({s for s, _ in rows}) < 2:
        with pytest.raises(ValueError, match=r"here: one sentence cannot be split into train and test rows: add more"):
            data.split(rows, seed, "here")
        return
    train, test = data.split(rows, seed, "here")
    assert (train, test) == data.split(rows, seed, "here")
    assert train and test and Counter(train + test) == Counter(rows)
    assert not {s for s, _ in train} & {s for s, _ in test}


BAD = {
    "good\t1\nfine\tpositive": r"reviews.tsv:2: label must be 0 or 1, got 'positive': write 0",
    "review\tsentiment\ngood\t1": r"reviews.tsv:1: label must be 0 or 1, got 'sentiment': write 0 .*a header must name",
    "sentence\tlabel\ngood\t2": r"reviews.tsv:2: label must be 0 or 1, got '2'",
    "good\t1\n\n\t0": r"reviews.tsv:3: the sentence is empty: fill it in or remove the row",
    "good\t1\nfine": r"reviews.tsv:2: want 2 columns \(sentence, label\), got 1: add the label",
    "good\t1\nfi\tne\t1": r"reviews.tsv:2: want 2 columns \(sentence, label\), got 3: is there a tab in the sentence",
    "good\t1\nfine\t": r"reviews.tsv:2: label must be 0 or 1, got ''",
    "index\tsentence\n0\tgood": r"reviews.tsv:1: no label column among \['index', 'sentence'\]: add it, or leave",
    "index\tlabel\n0\t1": r"reviews.tsv:1: no sentence column among",
    "": r"reviews.tsv: no rows: want lines of sentence<TAB>label",
    "sentence\tlabel\n \n": r"reviews.tsv: no rows",
    "good\t1\n": r"reviews.tsv: one sentence cannot be split",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_files_are_named_with_line_and_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "reviews.tsv").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]):
        data.load(str(tmp_path / "reviews.tsv"))


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "reviews.tsv").write_bytes("clich\xe9\t0\nfine\t1".encode("latin-1"))
    with pytest.raises(ValueError, match=r"reviews.tsv: not UTF-8 at byte 5: save the file as UTF-8"):
        data.load(str(tmp_path / "reviews.tsv"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no train\.tsv in this folder: add one, or name a single \.tsv file"):
        data.load(str(tmp_path))
    (tmp_path / "train.tsv").write_text("".join(f"film {i}\t{i % 2}\n" for i in range(40)))
    alone = data.load(str(tmp_path), seed=1)
    assert (len(alone.train), len(alone.test)) == (36, 4) and alone.name == tmp_path.name and not alone.synthetic
    assert alone == data.load(str(tmp_path), seed=1) != data.load(str(tmp_path), seed=2)
    assert alone[1:] == data.load(str(tmp_path / "train.tsv"), seed=1)[1:]
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ndev\t1\n")
    (tmp_path / "test.tsv").write_text("label\ttext\n0\ttest")
    joined = data.load(str(tmp_path))
    assert len(joined.train) == 40 and joined.test == [("dev", 1), ("test", 0)]
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\ttest")
    with pytest.raises(ValueError, match=r"test.tsv:1: no label column among .*: add it, or leave the file out"):
        data.load(str(tmp_path))


@pytest.mark.parametrize("source", ["nowhere.tsv", "./nowhere", "data/nowhere", "C:\\nowhere"])
def test_a_missing_path_is_called_a_path(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="no such file or folder: check the path"):
        data.load(source)


# ---- the hub, played by a stand-in


def stand_in(monkeypatch: pytest.MonkeyPatch, found: object) -> list[str]:
    asked: list[str] = []

    def load_dataset(name: str) -> object:
        asked.append(name)
        if isinstance(found, Exception):
            raise found
        return found

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = {"idx": 0, "sentence": "good ", "label": 1}, {"idx": 1, "sentence": "bad", "label": 0}
    withheld = {"idx": 0, "sentence": "who knows", "label": -1}
    asked = stand_in(monkeypatch, {"train": [good, bad], "validation": [bad], "test": [withheld]})
    assert data.load("sst2") == reviews.Corpus("sst2", [("good", 1), ("bad", 0)], [("bad", 0)], False)
    assert asked == ["stanfordnlp/sst2"]
    stand_in(monkeypatch, {"train": [{"text": "good", "label": 1}], "test": [{"text": "bad", "label": 0}]})
    assert data.load("reviews").test == [("bad", 0)]
    stand_in(monkeypatch, {"train": [good, bad]})
    assert len(data.load("reviews").test) == 1


@pytest.mark.parametrize(
    "found, words",
    [
        (OSError("offline\nsecond line"), r"nope: no file or folder, and the hub gave none: .*\(OSError: offline\)$"),
        ({"test": []}, r"nope: no train split among \['test'\]: save the rows"),
        ({"train": []}, r"nope/train: no rows: "),
        ({"train": [{"text": "x", "label": -1}]}, r"nope/train:0: label must be 0 or 1, got -1"),
        ({"train": [{"text": "x", "label": True}]}, r"nope/train:0: label must be 0 or 1, got True"),
        ({"train": [{"text": " ", "label": 1}]}, r"nope/train:0: the sentence is empty"),
        ({"train": [{"review": "x", "label": 1}]}, r"nope/train: want columns sentence and label, got"),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, found: object, words: str) -> None:
    stand_in(monkeypatch, found)
    with pytest.raises(ValueError, match=words):
        data.load("nope")


def test_without_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="sst2 is no file or folder; to fetch it from the hub: pip install datasets"):
        data.load("sst2")


# ---- batches


def tokenize(texts: list[str]) -> list[list[int]]:
    return [[len(word) for word in text.split()] for text in texts]


def dataset(n: int = 50, pad_id: int = 0) -> data.Sentences:
    return data.Sentences([("a bc " * (i % 7 + 1), i % 2) for i in range(n)], tokenize, pad_id=pad_id)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(0, 3))
@settings(deadline=None)
def test_collate_pads_right_to_the_longest(tokens: list[list[int]], pad_id: int) -> None:
    items = [{"input_ids": t, "label": i % 2, "id": 10 + i} for i, t in enumerate(tokens)]
    batch = data.collate(items, pad_id=pad_id)
    shape = (len(tokens), max(map(len, tokens)))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == shape
    assert {v.dtype for v in batch.values()} == {torch.int64}
    for i, t in enumerate(tokens):
        assert batch["input_ids"][i].tolist() == t + [pad_id] * (shape[1] - len(t))
        assert batch["attention_mask"][i].tolist() == [1] * len(t) + [0] * (shape[1] - len(t))
    assert batch["labels"].tolist() == [i % 2 for i in range(len(tokens))]
    assert batch["id"].tolist() == [10 + i for i in range(len(tokens))]


def ids(batches: object) -> list[int]:
    return [i for batch in batches for i in batch["id"].tolist()]  # type: ignore[attr-defined]


def test_loader_order_is_a_function_of_seed_and_epoch() -> None:
    one, two, other = (data.loader(dataset(), 8, seed=seed) for seed in (3, 3, 4))
    ids(two), ids(two)  # what was read before does not matter
    torch.manual_seed(0)
    before = torch.get_rng_state()
    orders = []
    for epoch in range(3):
        for loader in (one, two, other):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        orders.append(ids(one))
        assert ids(two) == orders[-1] != ids(other) and sorted(orders[-1]) == list(range(50))
    assert torch.equal(torch.get_rng_state(), before)
    assert len({tuple(order) for order in orders}) == 3


def test_loader_options() -> None:
    assert ids(data.loader(dataset(), 8, seed=0, shuffle=False)) == list(range(50))
    assert len(data.loader(dataset(), 8, seed=0)) == 7 and len(data.loader(dataset(), 8, seed=0, drop_last=True)) == 6
    for batch in data.loader(dataset(pad_id=5), 8, seed=0):
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 5).all()


def test_eval_batches_hold_every_row_once_shortest_first() -> None:
    batches = list(data.eval_batches(dataset(pad_id=5), 8))
    assert sorted(ids(batches)) == list(range(50))
    lengths = [n for batch in batches for n in batch["attention_mask"].sum(1).tolist()]
    assert lengths == sorted(lengths)
    assert all((batch["input_ids"][batch["attention_mask"] == 0] == 5).all() for batch in batches)


# ---- the real thing, where it is


@pytest.mark.parametrize("folder, sizes", [("sst2", (6920, 872 + 1821)), ("glue-sst2", (67_349, 872))])
def test_real_sst2(folder: str, sizes: tuple[int, int]) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no {folder} beside the repository")
    corpus = data.load(str(SHARED / folder))
    assert (len(corpus.train), len(corpus.test)) == sizes and not corpus.synthetic and corpus.name == folder
