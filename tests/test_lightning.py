"""The door to Lightning, against the real library: what its Trainer does is what the plain loop does."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import puresift as ps
from puresift.twins import Twin
from tests import laws
from tests.strategies import data, net

lightning = pytest.importorskip("lightning.pytorch")
door = pytest.importorskip("puresift.integrations.lightning")

BATCH = 8
# Lightning's own warnings, which no Trainer flag turns off; each is about the machine or the small problem.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The 'train_dataloader' does not have many workers",  # workers would cost more than the run
        "The 'val_dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",  # every run of a test saves into its own tmp_path
        "You defined a `validation_step` but have no `val_dataloader`",  # tests without validation
        "`isinstance.treespec, LeafSpec.` is deprecated",  # Lightning's combined loader on newer torch
    )
]


def per_sample(model, batch):
    x, y, *_ = batch.values() if isinstance(batch, dict) else batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


class Module(lightning.LightningModule):
    """The small classifier, with BatchNorm and dropout, and a note of what it trained on."""

    def __init__(self, *, weights=None, schedule=None, estimate=False, ignores=False):
        super().__init__()
        self.net, self.mode, self.schedule = net(), weights, schedule
        self.estimate, self.ignores, self.automatic_optimization = estimate, ignores, True
        self.ids, self.rates, self.steps, self.validated = [], [], 0, []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        weights = torch.ones(())
        if self.mode is True:
            batch, weights = batch
        elif self.mode:
            weights = batch[self.mode]
        self.ids.append((batch["id"] if isinstance(batch, dict) else batch[2]).tolist())
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        torch.manual_seed(len(self.ids))  # dropout as in the plain loop, wherever the run began
        losses = per_sample(self, batch)
        return losses.mean() if self.ignores else (weights * losses).mean()

    def validation_step(self, batch, batch_idx):
        self.validated.append(len(self.ids))

    def configure_optimizers(self):
        if self.estimate:
            _ = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        if self.schedule is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Pools(torch.utils.data.IterableDataset):
    """The same pools from a loader without a length."""

    def __init__(self, inner):
        self.inner = inner

    def set_epoch(self, epoch):
        self.inner.sampler.set_epoch(epoch)

    def __iter__(self):
        return iter(self.inner)


def pools(*, kind="list", rows=72, size=12):
    """Pools of (x, y, id), their order a function of seed and epoch."""
    dataset = torch.utils.data.TensorDataset(*data(rows).tensors, torch.arange(rows))
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=1, rank=0, seed=1)

    def collate(items):
        return dict(zip(("x", "y", "id"), torch.utils.data.default_collate(items), strict=True))

    loader = torch.utils.data.DataLoader(dataset, size, sampler=sampler, collate_fn=collate if kind == "dict" else None)
    return torch.utils.data.DataLoader(Pools(loader), batch_size=None) if kind == "unsized" else loader


def sifting(module, rule=None, **settings):
    rule = ps.importance(keep=0.6) if rule is None else rule
    return door.SiftingCallback(ps.batched(module, per_sample), rule, batch_size=BATCH, key=ps.key(3), **settings)


def trainer(*callbacks, **flags):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saves = any(isinstance(callback, lightning.callbacks.ModelCheckpoint) for callback in callbacks)
    flags = {"accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": saves, **quiet, **flags}
    return lightning.Trainer(callbacks=list(callbacks), **flags)


def plain(loader, *, accumulate=1, epochs=2, rule=None, sized=True, limit=None):
    """The same problem in a loop of one's own: epochs end with the batch that takes in a pass's last pool."""
    module = Module()
    rule = ps.importance(keep=0.6) if rule is None else rule
    sifter = ps.sifter(ps.batched(module, per_sample), rule, batch_size=BATCH)
    stream = ps.sift(
        sifter, sifter.init(ps.key(3), ps.peek(loader)), ps.live(module), ps.epochs(loader, 9), skip=0
    )
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    ids, infos, ends, micro, length = [], [], [], 0, len(pools())
    for batch, weights, state, info in stream:
        micro += 1
        ids.append((batch["id"] if isinstance(batch, dict) else batch[2]).tolist())
        infos.append(info)
        torch.manual_seed(len(ids))
        ((weights * per_sample(module, batch)).mean() / accumulate).backward()
        read = int(state.step) if sized else int(state.step) - 1
        last = read >= (len(ends) + 1) * length and not bool(ps.full(state.buffer))
        if limit is not None:
            last = micro == limit
        if micro % accumulate == 0 or last:
            optimizer.step()
            optimizer.zero_grad()
        if last:
            ends.append(len(ids))
            micro = 0
        if len(ends) == epochs:
            break
    return SimpleNamespace(ids=ids, module=module, ends=ends, infos=infos)


def same(module, loop):
    assert module.ids == loop.ids
    assert laws.equal(dict(module.state_dict()), dict(loop.module.state_dict()))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("kind", "weights"), [("dict", "w"), ("list", True), ("unsized", True)])
def test_it_trains_as_the_plain_loop_does(kind, weights, accumulate):
    loop = plain(pools(kind=kind), accumulate=accumulate, sized=kind != "unsized")
    module = Module(weights=weights)
    callback = sifting(module, weights=weights)
    run = trainer(callback, accumulate_grad_batches=accumulate)
    run.fit(module, callback.wrap(pools(kind=kind)))
    same(module, loop)
    begins = [0, *loop.ends]
    batches = [end - begin for begin, end in zip(begins, loop.ends, strict=False)]
    assert run.global_step == sum(-(-n // accumulate) for n in batches)
    assert accumulate == 1 or any(n % accumulate for n in batches), "a group that is not full is part of the test"
