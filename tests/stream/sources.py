"""Streams of 96 rows, or without end, that tell their own position; READ counts the rows that they read."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate, get_worker_info

READ = torch.zeros(4, dtype=torch.int64).share_memory_()  # one slot a worker
ROWS, POOL = 96, 16


class Rows(IterableDataset):
    """The numbers from 0 to `rows`, a worker's share of them; it stands where it was last asked for a row."""

    def __init__(self, rows=ROWS, wide=1):
        self.rows, self.wide, self.place, self.start = rows, wide, 0, 0

    def __iter__(self):
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        self.place, self.start = self.start, 0
        while self.rows is None or self.place * workers + number < self.rows:
            row = self.place * workers + number
            self.place += 1
            READ[number] += 1
            yield torch.full((self.wide,), float(row % 2**20))

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, flat):
        self.start = self.place = flat["place"]


class Pools:
    """Whole pools of rows, with no DataLoader around."""

    def __init__(self, rows=ROWS):
        self.rows = Rows(rows)
        self.state_dict, self.load_state_dict = self.rows.state_dict, self.rows.load_state_dict

    def __iter__(self):
        rows = iter(self.rows)
        while pool := [row for _, row in zip(range(POOL), rows, strict=False)]:
            yield torch.stack(pool)


def hugging():
    datasets = pytest.importorskip("datasets")

    def rows(shard):
        for row in range(shard[0], ROWS, 2):
            READ[0] += 1
            yield {"x": float(row)}

    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"shard": [0, 1]}).with_format("torch")


def x(rows):
    return torch.stack([row["x"] for row in rows])[:, None]


def pools(rows):
    """Pools that Hugging Face's own `batch` makes."""
    return rows.with_format(None).batch(POOL).with_format("torch")


def stateful(source, collate=None, size=POOL, **settings):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    return loaders.StatefulDataLoader(source, size, collate_fn=collate, **settings)


def nodes(workers):
    of = pytest.importorskip("torchdata.nodes")

    def row(number):
        READ[0] += 1
        return torch.full((1,), float(number))

    rows = of.SamplerWrapper(SequentialSampler(range(ROWS)))
    rows = of.ParallelMapper(rows, row, num_workers=workers, method="thread") if workers else of.Mapper(rows, row)
    return of.Loader(of.Prefetcher(of.Mapper(of.Batcher(rows, POOL), default_collate), 2))


def shuffled(**settings):
    return stateful(torch.arange(float(ROWS))[:, None], shuffle=True, **settings)


TELLING = {
    "own pools": Pools,
    "own pools without end": lambda: Pools(None),
    "own rows": lambda: DataLoader(Rows(), POOL),
    "own rows, stateful": lambda: stateful(Rows()),
    "own rows, stateful, 2 workers": lambda: stateful(Rows(), num_workers=2),
    "own rows without end, stateful, 2 workers": lambda: stateful(Rows(None), num_workers=2),
    "shuffled, stateful": lambda: shuffled(),
    "shuffled, stateful, 2 workers": lambda: shuffled(num_workers=2),
    "hugging face": lambda: DataLoader(hugging(), POOL, collate_fn=x),
    "hugging face, batches": lambda: pools(hugging()),
    "hugging face without end": lambda: DataLoader(hugging().repeat(None), POOL, collate_fn=x),
    "hugging face, stateful": lambda: stateful(hugging(), x),
    "hugging face, stateful, 2 workers": lambda: stateful(hugging(), x, num_workers=2),
    "nodes": lambda: nodes(0),
    "nodes, 2 threads": lambda: nodes(2),
}
SLOW = ["shuffled, stateful, 2 workers", "hugging face, stateful, 2 workers", "own rows, 2 workers"]
COUNTED = {  # without a position that holds all that they read
    "own rows, 2 workers": lambda: DataLoader(Rows(), POOL, num_workers=2),
    "hugging face, a shuffle buffer": lambda: DataLoader(hugging().shuffle(1, buffer_size=20), POOL, collate_fn=x),
    "hugging face, a shuffle buffer, batches": lambda: pools(hugging().shuffle(1, buffer_size=20)),
    "hugging face, a shuffle buffer, stateful": lambda: stateful(hugging().shuffle(1, buffer_size=20), x),
}


def left(*sifting):
    """Let go of workers in order: those that are only found as garbage end five seconds late."""
    for one in sifting:
        one.flush()
        if getattr(one.loader, "_iterator", None) is not None:
            one.loader._iterator = None
