"""Whole runs of scripts: the processes they start, what they get wrong, and how long their trainers train."""

import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import puresift as ps
from puresift.integrations.smart_sifting.__main__ import main
from puresift.integrations.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from puresift.integrations.smart_sifting.integrations.trainer import enable_sifting
from tests.integrations.test_smart_sifting_rule import GUESSING, Given, config

CHILDREN = """
import multiprocessing, sys
from smart_sifting.sift_config.sift_configs import SiftingBaseConfig


class Rows:
    def __len__(self):
        return 2

    def __getitem__(self, row):
        from smart_sifting.data_model.list_batch import ListBatch
        return len(ListBatch([row]).inputs), multiprocessing.current_process().name != "MainProcess"


if __name__ == "__main__":
    from torch.utils.data import DataLoader
    for method in sys.argv[1:]:
        loader = DataLoader(Rows(), 2, num_workers=1, multiprocessing_context=method)
        print(method, [part.tolist() for batch in loader for part in batch], flush=True)
"""


def test_spawned_processes_know_the_names_too(capfd, tmp_path):
    """They are handed this process's path; the environment that a new interpreter reads does not reach a forkserver."""
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    before = list(sys.path)
    assert main([str(script), "spawn"]) == 0
    assert capfd.readouterr().out.splitlines() == ["spawn [[1, 1], [True, True]]"]
    assert sys.path == before


@pytest.mark.slow
def test_the_forkserver_knows_the_names_too(capfd, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    assert main([str(script), "forkserver"]) == 0
    assert capfd.readouterr().out.splitlines() == ["forkserver [[1, 1], [True, True]]"]


def test_a_loss_of_a_wrong_shape_gets_one_line(capsys, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from smart_sifting.dataloader.sift_dataloader import SiftingDataloader\n"
        "class Mean:\n"
        "    def loss(self, model, transformed_batch, original_batch=None):\n"
        "        return model(original_batch).mean()\n"
        "base = {'sift_config': {'sift_delay': 0}}\n"
        "given = {'beta_value': 1, 'loss_history_length': 8, 'loss_based_sift_config': base}\n"
        "loader = SiftingDataloader(given, torch.zeros(8, 1).split(4), model=torch.nn.Linear(1, 1), loss_impl=Mean())\n"
        "list(loader)\n"
    )
    assert main([str(script)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("puresift: script.py:9: SiftError: ") and 'reduction="none"' in line


# The Hugging Face Trainer


class Rows(torch.utils.data.Dataset):
    """Token ids of any length, as a tokenizer gives them."""

    def __init__(self, rows=40, longest=1):
        self.rows, self.longest = rows, longest

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        length = 1 + row % self.longest
        return {"input_ids": [1 + row % 8] * length, "attention_mask": [1] * length, "labels": row % 2}


class Entropy:
    def loss(self, model, transformed_batch, original_batch=None):
        return nn.functional.cross_entropy(model(**original_batch).logits, original_batch["labels"], reduction="none")


def trainer_of(folder, data=None, **arguments):
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=64
    )
    usual = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "seed": 0}
    args = transformers.TrainingArguments(folder, per_device_train_batch_size=4, **usual | arguments)
    model = transformers.BertForSequenceClassification(bert)
    trainer = transformers.Trainer(model, args, train_dataset=Rows() if data is None else data)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


@pytest.mark.parametrize(("epochs", "steps"), [(1.5, 15), (0.25, 3)])
def test_a_part_of_an_epoch_is_a_part(tmp_path, epochs, steps):
    trainer = trainer_of(tmp_path, num_train_epochs=epochs, max_steps=-1)
    enable_sifting(trainer, config(delay=1000), loss=Entropy(), set_epochs=True)
    trainer.train()
    assert trainer.state.global_step == trainer.args.max_steps == steps  # nothing was sifted yet
    assert trainer.state.log_history[-1]["epoch"] == epochs


@pytest.mark.filterwarnings(GUESSING)
def test_a_part_of_an_epoch_is_a_part_of_the_candidates(tmp_path):
    trainer = trainer_of(tmp_path, num_train_epochs=1.5, max_steps=-1)
    enable_sifting(trainer, config(), loss=Entropy(), set_epochs=True)
    trainer.train()
    loader = trainer.callback_handler.train_dataloader
    assert loader.meter.read()["seen"] == 60
    assert trainer.state.global_step == int(loader.meter.read()["kept"]) // 4 < 15


def test_a_part_of_what_has_no_length_is_refused(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return map(Rows().__getitem__, range(40))

    trainer = trainer_of(tmp_path, Stream(), num_train_epochs=1.5, max_steps=5)
    enable_sifting(trainer, config(), loss=Entropy(), set_epochs=True)
    with pytest.raises(ps.SiftError, match=r"num_train_epochs=1\.5 ends within a pass over a loader whose length"):
        trainer.train()


# Lightning

pytorch_lightning = [
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:.*trainer.estimated_stepping_batches is:UserWarning",
    GUESSING,
]


def fitted(loader_kind, **settings):
    """The loader, the batches of each epoch, and how many validations there were."""
    pl = pytest.importorskip("pytorch_lightning")

    class Linear(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.epochs, self.validations = nn.Linear(1, 1), [], 0

        def on_train_epoch_start(self):
            self.epochs.append(0)

        def training_step(self, batch, index):
            self.epochs[-1] += 1
            return self.net(batch).square().mean()

        def validation_step(self, batch, index):
            self.validations += index == 0

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model = Linear()
    loader = SiftingDataloader(config(**loader_kind), DataLoader(torch.rand(64, 1), 4), model=model, loss_impl=Given())
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **dict.fromkeys(quiet, False) | settings)
    trainer.fit(model, loader, DataLoader(torch.zeros(1, 1)))
    return loader, model


@pytest.mark.filterwarnings(*pytorch_lightning)
def test_a_share_of_the_training_batches_is_one_of_the_candidates():
    loader, model = fitted({"delay": 99}, limit_train_batches=0.5, max_epochs=3)
    assert model.epochs == [8, 8, 8]
    assert loader.meter.read()["seen"] == 3 * 32


@pytest.mark.filterwarnings(*pytorch_lightning)
@pytest.mark.parametrize(("settings", "validations"), [({}, 4), ({"limit_train_batches": 0.5}, 4)])
def test_a_share_of_the_validation_interval_counts_the_batches_that_are_expected(settings, validations):
    _, model = fitted({}, val_check_interval=0.25, max_epochs=1, **settings)
    assert abs(model.validations - validations) <= 1
