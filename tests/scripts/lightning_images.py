"""A Lightning module that classifies small images, with a data module, checkpoints and validation within an epoch."""

import argparse
import os
import time

import lightning.pytorch as pl
import torch
from common import report
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def images(count, seed):
    """Noise with a bar: across or upright; some bars are faint."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(count, 1, 12, 12, generator=g), torch.randint(0, 2, (count,), generator=g)
    places, bright = torch.randint(0, 12, (count,), generator=g), 0.3 + torch.rand(count, generator=g)
    for row in range(count):
        bar = x[row, 0, places[row]] if y[row] else x[row, 0, :, places[row]]
        bar += bright[row]
    return TensorDataset(x, y)


class Bars(pl.LightningDataModule):
    def setup(self, stage):
        self.train, self.val = images(512, 0), images(128, 1)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=64)


class LitClassifier(pl.LightningModule):
    def __init__(self, lr=5e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(16 * 16, 2),
        )  # fmt: skip
        self.checks = []

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            self.checks.append(self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def number(text):
    return float(text) if "." in text else int(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--default_root_dir", default="out")
    parser.add_argument("--max_epochs", type=int, default=4)
    parser.add_argument("--val_check_interval", type=number, default=1.0)
    parser.add_argument("--accumulate_grad_batches", type=int, default=1)
    parser.add_argument("--ckpt_path")
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()
    pl.seed_everything(0, verbose=False)

    model, datamodule = LitClassifier(), Bars()
    saver = ModelCheckpoint(
        os.path.join(args.default_root_dir, "steps"), filename="{step}", every_n_train_steps=5, save_top_k=-1
    )
    callbacks = [saver]
    if args.sift:
        import puresift as ps
        from puresift.integrations.lightning import SiftingCallback

        def row_losses(model, batch):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

        sifting = SiftingCallback(ps.batched(model, row_losses), ps.hold(ps.relative(keep=0.5), keep=0.5))
        callbacks.append(sifting)
        datamodule = sifting.wrap(datamodule)
    trainer = pl.Trainer(
        max_epochs=args.max_epochs,
        val_check_interval=args.val_check_interval,
        accumulate_grad_batches=args.accumulate_grad_batches,
        callbacks=callbacks,
        accelerator="cpu",
        default_root_dir=args.default_root_dir,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.time()
    trainer.fit(model, datamodule=datamodule, ckpt_path=args.ckpt_path, weights_only=True)
    seconds = time.time() - start
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    report(model, numbers, seconds=seconds, steps=trainer.global_step, checks=model.checks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
