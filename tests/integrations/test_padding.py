"""Batches padded to their own longest row, the default of tokenizers: every door takes them as they are."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import puresift as ps
from puresift.integrations.smart_sifting.integrations.trainer import enable_sifting
from tests.doors import in_order
from tests.integrations.test_smart_sifting_rule import GUESSING, config
from tests.integrations.test_smart_sifting_runs import Entropy, Rows, trainer_of

transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
lightning = pytest.importorskip("lightning.pytorch")
from puresift.integrations import huggingface  # noqa: E402
from puresift.integrations.accelerate import sifting  # noqa: E402
from puresift.integrations.lightning import SiftingCallback, refuse  # noqa: E402

PAD = 7  # a token of its own, so that a wrong padding shows


@pytest.fixture(scope="module")
def collate():
    from tokenizers import Tokenizer, models

    inner = Tokenizer(models.WordLevel({str(n): n for n in range(9)}, unk_token="0"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=str(PAD))
    return transformers.DataCollatorWithPadding(tokenizer)


def checked(batch, widths):
    """Rows as the tokenizer padded them, cut to the longest of this batch."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    widths.append(ids.shape[1])
    assert bool((ids[mask == 0] == PAD).all())
    assert int(mask.sum(1).max()) == ids.shape[1]


def loss_of(widths):
    def loss(model, batch):
        if model.training:
            checked(batch, widths)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return cross_entropy(logits, batch["labels"], reduction="none")

    return loss


DATA = Rows(44, longest=39)


def trainer(folder, collate, **arguments):
    one = in_order(trainer_of(folder, DATA, **{"max_steps": 9, **arguments}))
    one.data_collator = collate
    return one


def test_the_trainers_dynamic_padding_is_sifted(tmp_path, collate):
    widths = []
    one = huggingface.sift(trainer(tmp_path, collate), ps.relative(keep=0.5), loss=loss_of(widths))
    one.train()
    assert len(widths) == 9 and len(set(widths)) > 3
    assert "input_ids" in one.callback_handler.train_dataloader.loader._ragged.pads


def test_a_run_of_it_resumes(tmp_path, collate):
    saves = {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    whole, again = ([], [])
    runs = [trainer(tmp_path, collate, **saves) for _ in range(2)]
    runs[1].model.load_state_dict(runs[0].model.state_dict())
    for run, widths in zip(runs, (whole, again), strict=True):
        huggingface.sift(run, ps.relative(keep=0.5), loss=loss_of(widths))
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again == whole[3:]
    for one, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings(GUESSING)
def test_enable_sifting_takes_it_too(tmp_path, collate):
    widths = []

    class Seen(transformers.BertForSequenceClassification):
        def forward(self, input_ids, attention_mask=None, labels=None, **others):  # the Trainer drops what is not named
            if self.training:
                checked({"input_ids": input_ids, "attention_mask": attention_mask}, widths)
            return super().forward(input_ids, attention_mask, labels=labels, **others)

    one = trainer(tmp_path, collate)
    one.model.__class__ = Seen
    enable_sifting(one, config(), loss=Entropy())
    one.train()
    assert len(widths) == 9 and len(set(widths)) > 3


def net():
    torch.manual_seed(0)
    return torch.nn.EmbeddingBag(9, 2)


def bag(model, batch):
    """Per-sample loss of a bag of words; padding counts for nothing."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    logits = torch.nn.functional.embedding_bag(ids, model.weight, per_sample_weights=mask.float(), mode="sum")
    return cross_entropy(logits, batch["labels"], reduction="none")


def test_accelerates_loaders_are_padded_too(collate):
    accelerator, widths = accelerate.Accelerator(cpu=True), []
    model, prepared = accelerator.prepare(net(), DataLoader(DATA, 4, collate_fn=collate))
    score, rule = ps.batched(model, bag), ps.relative(keep=0.5)
    for batch in sifting(accelerator, prepared, score, rule, params=ps.live(model)):
        checked(batch, widths)
    assert len(set(widths)) > 2


def test_lightnings_loaders_are_padded_too(collate):
    widths = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def training_step(self, batch, batch_idx):
            checked(batch, widths)
            return bag(self.net, batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Module()
    callback = SiftingCallback(ps.batched(module, lambda m, batch: bag(m.net, batch)), ps.relative(keep=0.5))
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[callback], **dict.fromkeys(quiet, False))
    trainer.fit(module, callback.wrap(DataLoader(DATA, 4, collate_fn=collate)))
    assert len(set(widths)) > 2


def test_lightnings_shares_of_an_epoch_are_refused_in_words():
    module = lightning.LightningModule()
    module.training_step = lambda batch, batch_idx: None
    for name, value in {"limit_train_batches": 0.5, "val_check_interval": 0.25}.items():
        callback = SiftingCallback(None, ps.uniform(keep=0.5))
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = lightning.Trainer(accelerator="cpu", **dict.fromkeys(quiet, False), **{name: value})
        with pytest.raises(ps.SiftError, match=f"{name}={value} is a share of an epoch.*{name}=n"):
            callback.setup(trainer, module, "fit")


def test_ranks_of_lightning_which_save_together_declare_their_lengths():
    ranks = SimpleNamespace(world_size=2)
    with pytest.raises(ps.SiftError, match=r"pad='auto' .* declare the lengths"):
        refuse.ragged(ranks, "auto")
    refuse.ragged(ranks, {"input_ids": ps.Pad(0, 64)})
    refuse.ragged(SimpleNamespace(world_size=1), "auto")


@pytest.mark.parametrize("kind", ["function", "class"])
def test_the_class_draws_as_the_function_does(tmp_path, kind, collate):
    prioritizer = ps.prioritizer(ps.importance(keep=0.5, floor=0.1), size=len(DATA), batch_size=4)
    plain = trainer(tmp_path, collate)
    if kind == "class":
        model = plain.model
        args = {"args": plain.args, "train_dataset": DATA, "data_collator": collate, "prioritizer": prioritizer}
        plain = huggingface.SiftingTrainer(model, prefetch=50, **args)
        plain.remove_callback(transformers.PrinterCallback)
    else:
        huggingface.sift(plain, prioritizer=prioritizer, prefetch=50)
    plain.train()
    sampler = plain.callback_handler.train_dataloader.batch_sampler.sampler
    assert isinstance(sampler, ps.PrioritizedSampler) and plain.state.global_step == 9
    assert sampler.position == 9 and "sift/keep" not in plain.state.log_history[-1]


def test_the_class_takes_a_rule_or_a_prioritizer(tmp_path):
    plain = trainer_of(tmp_path, DATA, max_steps=2)
    prioritizer = ps.prioritizer(ps.importance(keep=0.5), size=len(DATA), batch_size=4)
    for both in ({}, {"rule": ps.relative(keep=0.5), "prioritizer": prioritizer}):
        with pytest.raises(ps.SiftError, match="pass either a rule"):
            huggingface.SiftingTrainer(plain.model, plain.args, train_dataset=DATA, **both)
    with pytest.raises(ps.SiftError, match="a prioritizer scores nothing"):
        huggingface.SiftingTrainer(
            plain.model, plain.args, train_dataset=DATA, prioritizer=prioritizer, governor=ps.governor()
        )
