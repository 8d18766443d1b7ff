"""Cases for two processes: a Lightning Trainer whose model is sharded by fully_shard."""

import os
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

import puresift as ps
from puresift.integrations.lightning import SiftingCallback
from tests.distributed.worlds import ended

STEPS = 7
RULES = {
    "varying": lambda: ps.relative(keep=0.5),
    "held": lambda: ps.hold(ps.relative(keep=0.5), keep=0.5),
}


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")


class Module(pl.LightningModule):
    """A small classifier, made when the mesh of ranks is there."""

    def __init__(self, late=False):
        super().__init__()
        self.late, self.seen = late, []
        self.net = nn.Identity() if late else self.made()

    def made(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 3))

    def configure_model(self):
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if self.late and isinstance(self.net, nn.Identity):
            self.net = self.made()
        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not isinstance(self.net, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            fully_shard(self.net[1], mesh=mesh)
            fully_shard(self.net, mesh=mesh)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        batch, weights = batch
        self.seen.append(batch[0].sum().item())
        return (weights * loss(self, batch)).mean()

    def validation_step(self, batch, batch_idx):
        loss(self, batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.02)


def loader(rank, world, batch=16, rows=200):
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=dice)
    dataset = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    sampler = torch.utils.data.DistributedSampler(dataset, world, rank, seed=1)
    return torch.utils.data.DataLoader(dataset, batch, sampler=sampler)


def sifting(module, rule):
    settings = {"batch_size": 8, "key": ps.key(3), "weights": True}
    return SiftingCallback(ps.batched(module, loss), RULES[rule](), draw=ps.systematic, **settings)


def fit(rank, world, strategy, *, rule="varying", late=False, accumulate=1, steps=STEPS, path=None, callbacks=()):
    """The module after training."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    warnings.filterwarnings("ignore", "The '(train|val)_dataloader' does not have many workers")
    module = Module(late)
    callback = sifting(module, rule)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        callbacks=[callback, *callbacks],
        enable_checkpointing=bool(callbacks),
        limit_train_batches=4,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        **quiet,
    )
    trainer.fit(module, callback.wrap(loader(rank, world)), loader(rank, world), ckpt_path=path)
    return module


def weights(module):
    values = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in module.parameters()]
    return torch.cat([value.detach().flatten() for value in values])


def spread(world, **settings):
    return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1, **settings)


def trained(rank, world, **settings):
    """Steps, whether the rows were those that DDP trained on, and the largest difference of the weights."""
    ours = fit(rank, world, spread(world), **settings)
    theirs = fit(rank, world, DDPStrategy(), **settings)
    kinds = {type(tensor).__name__ for tensor in ours.parameters()}
    near = [abs(a - b) < 1e-4 for a, b in zip(ours.seen, theirs.seen, strict=True)]
    return [len(ours.seen), all(near), float((weights(ours) - weights(theirs)).abs().max()), sorted(kinds)]


def resumed(rank, world, *, whole):
    """Whether a run that goes on from a checkpoint trains on the same rows, to the same weights."""
    folder = [tempfile.mkdtemp() if rank == 0 else ""]
    dist.broadcast_object_list(folder)
    saver = ModelCheckpoint(folder[0], every_n_train_steps=1, save_top_k=-1, filename="{step}")
    settings = {"save_distributed_checkpoint": not whole}
    straight = fit(rank, world, spread(world, **settings), callbacks=[saver])
    found = []
    for step in (3, 4):  # 4 is the end of an epoch
        path = Path(folder[0]) / f"step={step}.ckpt"
        again = fit(rank, world, spread(world, **settings), path=str(path))
        found.append(
            [path.is_dir(), again.seen == straight.seen[step:], torch.equal(weights(again), weights(straight))]
        )
    return found


def refused(rank, world):
    """The words that end what cannot be sifted."""
    found = {"tensor parallel": ended(lambda: fit(rank, world, ModelParallelStrategy(1, world)))[1]}
    module = Module()
    for kind in (FSDPStrategy, DeepSpeedStrategy):
        fake = SimpleNamespace(strategy=kind.__new__(kind), overfit_batches=0, world_size=world, limit_train_batches=4)
        found[kind.__name__] = ended(lambda fake=fake: sifting(module, "held").setup(fake, module, "fit"))[1]
    return found
