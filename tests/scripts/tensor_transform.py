"""A script in the published API's style: Lightning under DDP, rows as tensors."""

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from smart_sifting.data_model.data_model_interface import SiftingBatch, SiftingBatchTransform
from smart_sifting.data_model.tensor_batch import TensorBatch
from smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from smart_sifting.loss.abstract_sift_loss_module import Loss
from smart_sifting.metrics.lightning import TrainingMetricsRecorder
from smart_sifting.sift_config.sift_configs import LossConfig, RelativeProbabilisticSiftConfig, SiftingBaseConfig
from torch.utils.data import DataLoader, TensorDataset


class TensorTransform(SiftingBatchTransform):
    def transform(self, batch: Any) -> TensorBatch:
        return TensorBatch(torch.cat(batch[:2], 1), batch[-1])

    def reverse_transform(self, tensor_batch: TensorBatch) -> Any:
        inputs = tensor_batch.inputs
        return [inputs[:, :2], inputs[:, 2:], tensor_batch.labels]


class PairLoss(Loss):
    def __init__(self):
        self.cross_entropy = torch.nn.CrossEntropyLoss(reduction="none")

    def loss(self, model: torch.nn.Module, transformed_batch: SiftingBatch, original_batch: Any = None) -> torch.Tensor:
        device = next(model.parameters()).device
        batch = [tensor.to(device) for tensor in original_batch]
        return self.cross_entropy(model(batch), batch[2])


class Data(pl.LightningDataModule):
    def __init__(self, model: torch.nn.Module, transform: bool):
        super().__init__()
        self.model, self.transform = model, transform

    def setup(self, stage: str) -> None:
        x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        self.train = TensorDataset(x[:, :2], x[:, 2:], (x.sum(1) > 0).long())

    def train_dataloader(self) -> Any:
        config = RelativeProbabilisticSiftConfig(
            beta_value=1,
            loss_history_length=64,
            loss_based_sift_config=LossConfig(sift_config=SiftingBaseConfig(sift_delay=0)),
        )
        return SiftingDataloader(
            sift_config=config,
            orig_dataloader=DataLoader(self.train, 16, shuffle=True),
            batch_transforms=TensorTransform() if self.transform else None,
            loss_impl=PairLoss(),
            model=self.model,
        )

    def val_dataloader(self) -> Any:
        return DataLoader(self.train, 64)


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        self.cross_entropy = torch.nn.CrossEntropyLoss()

    def forward(self, batch: Any) -> torch.Tensor:
        return self.net(torch.cat(batch[:2], 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.cross_entropy(self(batch), batch[2])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", (self(batch).argmax(1) == batch[2]).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, (steps - step) / max(1, steps)))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--transform", action="store_true")
    parser.add_argument("--folder", default=".")
    args = parser.parse_args()
    pl.seed_everything(7)

    model, recorder = Model(), TrainingMetricsRecorder()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=args.devices,
        strategy=args.strategy,
        gradient_clip_val=1,
        callbacks=[recorder],
        default_root_dir=args.folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data(model, args.transform))
    rank = dist.get_rank() if dist.is_initialized() else 0
    same = [torch.zeros(1) for _ in range(args.devices)]
    total = sum(parameter.detach().sum() for parameter in model.parameters()).reshape(1)
    if args.devices > 1:
        dist.all_gather(same, total)
        assert torch.equal(*same), "the ranks' models differ"
    if rank == 0:
        seen, kept = (sum(epoch[f"sift/{name}"] for epoch in recorder.metrics) for name in ("seen", "kept"))
        accuracy = float(trainer.callback_metrics["val_acc"])
        print(f"steps {trainer.global_step} seen {seen:.0f} kept {kept / seen:.2f} accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
