"""TRL's SFTTrainer: every cell of the table "works with" in integrations/README.md."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import puresift as ps

trl = pytest.importorskip("trl", reason='trl is missing; pip install "puresift[trl]"')
transformers = pytest.importorskip("transformers")
from puresift.integrations import huggingface  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
WORKS = {
    "language modeling": {},
    "prompt-completion": {"kind": "prompt"},
    "completion_only_loss=False": {"kind": "prompt", "completion_only_loss": False},
    "assistant_only_loss": {"kind": "messages", "assistant_only_loss": True},
    'packing_strategy="wrapped"': {"packing": True, "packing_strategy": "wrapped"},
    "gradient_accumulation_steps": {"kind": "prompt", "gradient_accumulation_steps": 2},
    'loss_type="dft"': {"kind": "prompt", "loss_type": "dft"},
    "pad_to_multiple_of": {"pad_to_multiple_of": 8},
    "gradient_checkpointing=False": {"gradient_checkpointing": False},
    "max_length=None": {"max_length": None},
    "bf16": {"bf16": True},
    "peft_config": {"peft_config": True},
    "IterableDataset": {"stream": True},
}
REFUSED = {
    "packing": ({"packing": True}, r'SFTConfig\(packing_strategy="wrapped"\)'),
    "padding_free": ({"padding_free": True, "max_length": None}, r"SFTConfig\(padding_free=False\)"),
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1}, "leave it out"),
    "compute_loss_func": ({"compute_loss_func": lambda *args, **kwargs: None}, r"pass loss\(model, batch\)"),
    "a mixture of experts": ({"moe": True}, r"SFTConfig\(router_aux_loss_coef=0.0\)"),
    "images": ({"images": True}, "without a dimension of rows"),
}
FOLDER = ROOT / "tests" / "scripts"


@pytest.fixture
def build(monkeypatch, tmp_path):
    """The trainer of tests/scripts/sft.py, with some more options."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "common", raising=False)
    spec = importlib.util.spec_from_file_location("sft", FOLDER / "sft.py")
    sft = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sft)
    numbers = iter(range(9))

    def build(peft_config=False, stream=False, images=False, moe=False, **options):
        inner, more = sft.SFTTrainer, {}
        if "compute_loss_func" in options:
            more["compute_loss_func"] = options.pop("compute_loss_func")
        if peft_config:
            peft = pytest.importorskip("peft")
            more["peft_config"] = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")

        def made(model, **given):
            given["train_dataset"] = given["train_dataset"].to_iterable_dataset() if stream else given["train_dataset"]
            return inner(model, **given, **more)

        monkeypatch.setattr(sft, "SFTTrainer", made)
        trainer = sft.build(str(tmp_path / f"{next(numbers)}"), **options)
        monkeypatch.setattr(sft, "SFTTrainer", inner)
        trainer._is_vision_dataset |= images
        trainer.aux_loss_enabled |= moe
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer

    return build


def weights(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("option", WORKS)
def test_keeping_everything_trains_as_the_plain_trainer(build, option):
    """So the loss is TRL's own: its tokens, its mask, its averages over a batch and over accumulated ones."""
    plain, sifted = build(**WORKS[option]), build(**WORKS[option])
    began = weights(plain)
    plain.train()
    huggingface.sift(sifted, ps.uniform(keep=1.0)).train()
    one, other = weights(plain), weights(sifted)
    assert any(not torch.equal(one[name], began[name]) for name in one)
    for name, tensor in one.items():
        assert torch.allclose(other[name], tensor, rtol=1e-3, atol=2e-2 if option == "bf16" else 1e-6), name
    assert [row["loss"] for row in sifted.state.log_history if "loss" in row] == pytest.approx(
        [row["loss"] for row in plain.state.log_history if "loss" in row], abs=2e-2 if option == "bf16" else 1e-5
    )


@pytest.mark.parametrize("option", WORKS)
def test_what_a_rule_keeps_are_the_rows_of_the_largest_loss(build, option):
    """By the losses of the model's logits: those of the tokens that TRL gives a label."""
    trainer = huggingface.sift(build(steps=1, **WORKS[option]), ps.top(keep=0.5))
    passes = trainer.get_train_dataloader()
    pool = ps.peek(passes.loader.loader)
    with torch.no_grad():
        inner = trainer.model.eval()
        logits = inner(input_ids=pool["input_ids"], attention_mask=pool["attention_mask"]).logits[:, :-1].float()
    trainer.model.train()
    labels = pool["labels"][:, 1:]
    counted = labels != -100
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    if "dft" in option:
        losses = losses * (-losses).exp()
    expected = (losses * counted).sum(1) / counted.sum(1)
    batch = next(iter(passes))
    close = {"rtol": 0, "atol": 3e-2 if option == "bf16" else 1e-5}
    assert torch.allclose(passes.loader.info.losses[: len(expected)], expected, **close)
    largest = pool["input_ids"][expected.argsort(descending=True)[: len(expected) // 2]]
    kept = batch["input_ids"][: len(largest)]
    width = min(kept.shape[1], largest.shape[1])
    if option != "bf16":
        assert sorted(kept[:, :width].tolist()) == sorted(largest[:, :width].tolist())


@pytest.mark.parametrize("option", REFUSED)
def test_what_has_no_rows_is_refused_before_training(build, option):
    options, words = REFUSED[option]
    trainer = build(**options)
    with pytest.raises(ps.SiftError, match=words):
        huggingface.sift(trainer, ps.relative(keep=0.5))
    assert type(trainer) is trl.SFTTrainer, "it is left as it was"


def test_it_resumes_and_evaluates(build):
    settings = {"kind": "prompt", "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
    whole, again = (huggingface.sift(build(**settings), ps.relative(keep=0.5)) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    one, other = weights(whole), weights(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    last = [row for row in whole.state.log_history if "eval_mean_token_accuracy" in row]
    assert len(last) == 2 and 0.2 < whole.state.log_history[-1]["sift/keep"] < 0.9


def test_other_trainers_of_trl_are_refused_in_words(build):
    trainer = build()

    class Other(type(trainer)):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, inputs, *args, **kwargs) * 2

    trainer.__class__ = Other
    with pytest.raises(ps.SiftError, match="Other overrides compute_loss"):
        huggingface.sift(trainer, ps.relative(keep=0.5))


def test_the_table_has_these_rows():
    text = (ROOT / "puresift" / "integrations" / "README.md").read_text()
    rows = re.findall(r"^\| `?(.+?)`? \| (works|refused)", text, re.MULTILINE)
    assert dict(rows) == {**dict.fromkeys(WORKS, "works"), **dict.fromkeys(REFUSED, "refused")}
