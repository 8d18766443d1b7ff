"""Lightning on drawn batches: what its Trainer does is what the plain loop does, from any checkpoint on."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import puresift as ps
from tests import laws
from tests.doors import safely
from tests.ranks import launch
from tests.strategies import data, net

lightning = pytest.importorskip("lightning.pytorch")
door = pytest.importorskip("puresift.integrations.lightning")

ROWS, BATCH, WHOLE = 44, 8, 6  # an epoch ends inside a group of four batches
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def prioritizer(**changes):
    rule = ps.importance(keep=0.4, floor=0.2)  # its weights are not 1
    return ps.prioritizer(rule, **{"size": ROWS, "batch_size": BATCH, "every": 4, "end": 0.0, **changes})


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows=ROWS):
        self.inner = TensorDataset(*data(rows).tensors, torch.arange(rows))

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, row):
        return self.inner[row]


def loader(rows=ROWS, size=BATCH, workers=0):
    return DataLoader(Rows(rows), size, num_workers=workers)


def per_sample(model, batch):
    torch.manual_seed(int(batch[2].sum()))  # dropout as in the plain loop, wherever the run began
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Module(lightning.LightningModule):
    """A small classifier with BatchNorm and dropout, and a note of what it trained on."""

    def __init__(self, drawing=None, seed=0):
        super().__init__()
        self.net, self.ids, self.drawing = net(seed=seed), [], drawing
        self.end = lambda losses: self.drawing.mean(losses)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.ids.append(batch[2].tolist())
        return self.end(per_sample(self, batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.05)


def fit(*, folder=None, path=None, accumulate=1, workers=0, drawer=None, source=None, change=None, **flags):
    drawing = door.DrawingCallback(drawer or prioritizer(), seed=3)
    module = Module(drawing, seed=5 if path else 0)
    if change:
        change(module)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saver = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    callbacks = [drawing, saver] if folder else [drawing]
    run = lightning.Trainer(
        callbacks=callbacks,
        **{"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": bool(folder), **quiet, **flags},
        accumulate_grad_batches=accumulate,
    )
    source = drawing.wrap(loader(workers=workers)) if source is None else source(drawing)
    run.fit(module, source, ckpt_path=path, **safely(run.fit))
    return SimpleNamespace(module=module, run=run, sampler=drawing.sampler)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_it_trains_as_the_plain_loop_does(accumulate):
    door_run, module = fit(accumulate=accumulate), Module()
    sampler, optimizer, rows = (
        ps.PrioritizedSampler(prioritizer(), seed=3),
        torch.optim.Adam(module.parameters(), 0.05),
        Rows(),
    )
    for _ in range(2):
        for place, ids in enumerate(sampler, 1):
            batch = torch.utils.data.default_collate([rows[id] for id in ids])
            losses, weights = per_sample(module, batch), sampler.weights(ids)
            sampler.observe(ids, losses)
            module.ids.append(ids)
            ((weights * losses).mean() / accumulate).backward()
            if place % accumulate == 0 or place == WHOLE:
                optimizer.step()
                optimizer.zero_grad()
    assert door_run.module.ids == module.ids and len(module.ids) == 2 * WHOLE
    assert laws.equal(dict(door_run.module.state_dict()), dict(module.state_dict()))
    assert laws.equal(door_run.sampler.state_dict(), sampler.state_dict())
    assert door_run.run.global_step == 2 * -(-WHOLE // accumulate)


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (4, 0), (1, 2)])
def test_a_checkpoint_of_any_step_goes_on_to_the_bit(tmp_path, accumulate, workers):
    settings = {"accumulate": accumulate, "workers": workers}
    whole = fit(folder=tmp_path, **settings)
    saved = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.split("step=")[1]))
    assert len(saved) == whole.run.global_step
    for path in saved[:-1:3] if workers else saved[:-1]:
        again = fit(path=path, folder=tmp_path / "again", **settings)
        assert again.run.global_step == whole.run.global_step, path
        assert again.module.ids == whole.module.ids[-len(again.module.ids) :], path
        assert laws.equal(dict(again.module.state_dict()), dict(whole.module.state_dict())), path
        assert laws.equal(again.sampler.state_dict(), whole.sampler.state_dict()), path


class DataModule(lightning.LightningDataModule):
    def train_dataloader(self):
        return loader()


def test_a_data_module_is_wrapped_in_a_copy():
    one = fit()
    other = fit(source=lambda drawing: drawing.wrap(DataModule()), reload_dataloaders_every_n_epochs=1)
    assert laws.equal(dict(one.module.state_dict()), dict(other.module.state_dict()))
    assert type(DataModule().train_dataloader()) is DataLoader


def wrapped(**changes):
    return {"source": lambda drawing: drawing.wrap(loader(**changes))}


def forgets(module):
    module.end = lambda losses: losses.mean()


def twice(module):
    module.end = lambda losses: module.drawing.mean(losses) + module.drawing.mean(losses)


def reduces(module):
    module.end = lambda losses: module.drawing.mean(losses.mean())


ERRORS = {
    "another dataset": (wrapped(rows=40), "is for 44 samples, and the dataset has 40"),
    "another batch size": (wrapped(size=4), "the loader has batch_size=4, and the prioritizer gives each rank 8"),
    "no loader": ({"source": lambda drawing: drawing.wrap([1])}, "wrap takes the plain DataLoader.*not a list"),
    "not wrapped": ({"source": lambda drawing: loader()}, r"give fit\(\) what drawing.wrap\(loader\) returns"),
    "another budget": ({"drawer": prioritizer(steps=20)}, "plans steps=20, and this Trainer takes 12 batches"),
    "a part of an epoch": ({"limit_train_batches": 3}, "leave overfit_batches and limit_train_batches out"),
    "no losses": ({"change": forgets}, r"no losses came back.*the mean\(losses\)"),
    "losses twice": ({"change": twice}, r"the losses of a training batch, once; elsewhere use losses.mean\(\)"),
    "a scalar": ({"change": reduces}, r"one loss an id, got losses \[\]"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_cure(name):
    settings, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        fit(**settings)


def test_a_budget_ends_training():
    assert fit(drawer=prioritizer(steps=9, end=0.2), max_steps=9).run.global_step == 9


def test_two_ranks_share_drawn_batches_and_resume():
    one, other = launch("lightning_drawing")["lightning_drawing"]
    assert one["weights"] == other["weights"] and one["table"] == other["table"]
    assert one["resumed"] and other["resumed"]
    assert not any(set(ours) & set(theirs) for ours, theirs in zip(one["ids"][:2], other["ids"][:2], strict=True))
