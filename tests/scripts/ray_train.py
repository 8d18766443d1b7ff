"""Ray Train: a TorchTrainer with two workers, each of which sifts its own shard; DDP, checkpoints, and resuming."""

import argparse
import json
import os
import tempfile

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=generator)
    return TensorDataset(x, (x[:, :4].sum(1) > x[:, 4:].prod(1)).long())


def losses(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def train_loop_per_worker(config):
    import puresift as ps

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank = ray.train.get_context().get_world_rank()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pools = ray.train.torch.prepare_data_loader(DataLoader(rows(config["rows"], seed=1), batch_size=32, shuffle=True))
    if config["sift"]:
        rule = ps.hold(ps.relative(keep=0.5), keep=0.5)
        loader = ps.SiftingDataLoader(
            pools, ps.batched(model, losses), rule, params=ps.live(model), batch_size=16, draw=ps.systematic
        )
    else:
        loader = pools
    step, epoch, meter = 0, 0, ps.Meter()
    checkpoint = ray.train.get_checkpoint()  # of a worker that died in this run
    if checkpoint is None and config["resume_from"]:
        checkpoint = Checkpoint(config["resume_from"])
    if checkpoint:
        with checkpoint.as_directory() as folder:
            saved = torch.load(os.path.join(folder, f"rank{rank}.pt"), weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        step, epoch = saved["step"], saved["epoch"]
        if config["sift"]:
            loader.load_state_dict(saved["loader"])

    def save(metrics):
        """What Ray keeps: metrics count only beside a checkpoint, to which each rank adds a file of its own."""
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "epoch": epoch}
        saved |= {"rng": torch.get_rng_state(), "loader": loader.state_dict() if config["sift"] else None}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(saved, os.path.join(folder, f"rank{rank}.pt"))
            total = sum(float(tensor.double().sum()) for tensor in saved["model"].values())
            ray.train.report({"step": step, "weights": total, **metrics}, checkpoint=Checkpoint.from_directory(folder))

    model.train()
    while epoch < config["epochs"]:
        if not config["sift"]:
            pools.sampler.set_epoch(epoch)
        for batch in loader:
            loss = losses(model, batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if config["sift"]:
                meter.update(loader.info)
            if step == config["stop_at"]:
                return save({})
        epoch += 1

    model.eval()
    x, y = rows(512, seed=2).tensors
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    save({"eval_accuracy": accuracy, **({"sift/keep": meter.read()["keep"]} if config["sift"] else {})})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--stop_at", type=int, help="save and stop here; --resume_from goes on")
    parser.add_argument("--resume_from", help="the folder of a checkpoint")
    parser.add_argument("--sift", action="store_true")
    args = parser.parse_args()

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    config = {"epochs": args.epochs, "rows": args.rows, "stop_at": args.stop_at, "sift": args.sift}
    config["resume_from"] = args.resume_from and os.path.abspath(args.resume_from)
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
        run_config=RunConfig(storage_path=os.path.abspath(args.output_dir)),
    )
    result = trainer.fit()
    ray.shutdown()
    print(json.dumps({**result.metrics, "checkpoint": result.checkpoint.path}))
