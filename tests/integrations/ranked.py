"""Loops of accelerate's on two ranks, around a plain `ps.SiftingDataLoader`: cases for `tests.distributed.worlds`."""

import os
import warnings

import torch

import puresift as ps
from tests import doors
from tests.distributed.worlds import ended


def accelerated(rank, world, **settings):
    """An accelerator in the process group that is there."""
    from accelerate import Accelerator

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # which nobody opens
    return Accelerator(cpu=True, **settings)


def loop(rank, world, keep=0.5, accumulate=3):
    """Three passes around a prepared loader, with a rule whose counts differ; when each rank takes its steps."""
    accelerator = accelerated(rank, world, gradient_accumulation_steps=accumulate)
    pools = torch.utils.data.DataLoader(doors.Rows(180), doors.POOL, shuffle=True)
    model, optimizer, pools = accelerator.prepare(*doors.start(), pools)
    score = ps.batched(accelerator.unwrap_model(model), doors.loss)
    params = ps.live(accelerator.unwrap_model(model))
    loader = ps.SiftingDataLoader(pools, score, ps.relative(keep=keep), params=params, batch_size=doors.BATCH)
    steps, rows, sizes = [], [], []
    while loader.epoch < 3:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(doors.loss(model, batch).mean())
                optimizer.step()
                optimizer.zero_grad()
            steps.append(accelerator.sync_gradients)
            rows.append(batch["id"].tolist())
            sizes.append(len(accelerator.gather_for_metrics(batch["id"])))
    weights = [p.double().sum().item() for p in model.parameters()]
    return {"steps": steps, "rows": rows, "sizes": sizes, "weights": weights}


def late(rank, world):
    """A loader that is sifted before it is prepared, in words; and one that says it is a share already."""
    from torch.utils.data import DataLoader, DistributedSampler

    def sifted(source):
        made = ps.SiftingDataLoader(source, None, ps.hold(ps.uniform(keep=0.5), 0.5), params={}, draw=ps.systematic)
        return len(list(accelerator.prepare(made)))

    accelerator, rows = accelerated(rank, world), doors.Rows(64)
    share = DistributedSampler(rows, num_replicas=1, rank=0)
    return [ended(lambda: sifted(DataLoader(rows, 8))), ended(lambda: sifted(DataLoader(rows, 8, sampler=share)))]


def same(rank, world):
    """What is said of each kind of loader on several ranks, by the loader and by the stream."""
    from torch.utils.data import DataLoader, DistributedSampler, Sampler

    class Own(Sampler):
        def __iter__(self):
            return iter(range(rank, 64, world))

        def __len__(self):
            return 64 // world

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.arange(8.0))

    rows = torch.arange(64.0)
    rule = ps.hold(ps.uniform(keep=0.5), 0.5)
    sources = {
        "in order": DataLoader(rows, 8),
        "shuffled": DataLoader(rows, 8, shuffle=True),
        "distributed": DataLoader(rows, 8, sampler=DistributedSampler(rows)),
        "own sampler": DataLoader(rows, 8, sampler=Own()),
        "own share": DataLoader(rows, 8, sampler=DistributedSampler(rows, num_replicas=1, rank=0)),
        "stream": DataLoader(Stream(), 8),
        "list": [rows],
    }
    said = {}
    for name, source in sources.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loader = ps.SiftingDataLoader(source, None, rule, params={}, batch_size=4, draw=ps.systematic)
            for _ in range(2):
                list(loader)
            by_loader = [words for one in caught if "same rows" in (words := str(one.message))]
            sifter = ps.sifter(None, rule, batch_size=4, draw=ps.systematic)
            caught.clear()
            for pools in (source, ps.epochs(source, 2)):
                ps.sift(sifter, sifter.init(ps.key(0), rows[:8]), {}, pools, skip=0)
            said[name] = [by_loader, [words for one in caught if "same rows" in (words := str(one.message))]]
    return said
