"""What several of these scripts need: words instead of a download, and a last line for whoever runs them."""

import json
import os
import random

import torch

GOOD = ["good", "great", "fine", "warm", "bright", "lovely", "clever", "funny"]
BAD = ["bad", "poor", "dull", "cold", "grey", "ugly", "stupid", "boring"]
OTHER = [f"word{n}" for n in range(60)]


def sentences(count, seed=0):
    """Sentences of different lengths, and whether they praise; one in eight has no word that tells."""
    draw = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        label = draw.randrange(2)
        words = draw.choices(OTHER, k=draw.randrange(3, 30))
        if draw.random() > 0.125:
            words.insert(draw.randrange(len(words)), draw.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def tokenizer_in(folder):
    """A folder with a small tokenizer, for AutoTokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[MASK]", **special)
    os.makedirs(folder, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


def report(model, *metrics, **more):
    """The last line: numbers by name, with a checksum of the weights."""
    numbers = {name: value for one in metrics for name, value in one.items()} | more
    total = sum(float(tensor.double().sum()) for tensor in model.state_dict().values() if torch.is_tensor(tensor))
    print(json.dumps({**numbers, "weights": total}))
