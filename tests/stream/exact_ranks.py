"""Cases for two processes: DDP over a batch a pool, against DDP over the pools themselves."""

import torch
from torch.nn.parallel import DistributedDataParallel

import puresift as ps
from tests.stream import test_leaving as small

LIVE = [[3, 0, 16, 0, 7, 1], [0, 9, 2, 0, 16, 5]]  # rows with a gradient in each pool, by rank


def trained(rank, world, name):
    """How far apart both runs end, how far they went, and the rows of each step."""
    data, ends, rows = small.pools(LIVE[rank], seed=rank), [], []
    for sifted in (False, True):
        model = DistributedDataParallel(small.net())
        optimizer = small.OPTIMIZERS[name](model.parameters())
        began = flat(model)
        for epoch in range(3):
            if not sifted:
                for pool in data:
                    small.steps(model, optimizer, pool)
                continue
            sifter = small.build()
            state = sifter.init(ps.key(epoch), data[0])
            for batch, weights, _state, _info in ps.sift(sifter, state, {}, ps.epochs(data, 1), refill=False):
                small.steps(model, optimizer, batch, weights)
                rows.append(len(weights))
        ends.append(flat(model))
    plain, other = ends
    return {
        "error": float((other - plain).abs().max()),
        "moved": float((plain - began).abs().max()),
        "weights": float(other.sum()),
        "rows": rows,
    }


def objects(rank, world):
    """What is said of rows that are Python objects."""
    pool = {"name": ["a", "b"], "keep": torch.zeros(2)}
    sifter = ps.sifter(lambda params, batch: batch["keep"], ps.nonzero(), batch_size=2)
    try:
        ps.sift(sifter, sifter.init(ps.key(0), pool), {}, ps.epochs([pool], 1), refill=False)
    except ps.SiftError as error:
        return str(error)


def flat(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])
