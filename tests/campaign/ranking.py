"""One random configuration of several ranks: what it is, and what a rank of it does."""

import random
import time

import torch
import torch.distributed as dist

import puresift as ps

RULES = {
    "relative": lambda keep: ps.relative(keep=keep, history=128),
    "top": lambda keep: ps.top(keep=keep),
    "importance": lambda keep: ps.importance(keep=keep, floor=0.2),
    "held": lambda keep: ps.hold(ps.relative(keep=0.5, history=128), keep=keep),
    "delayed": lambda keep: ps.delay(ps.threshold(quantile=1 - keep, history=128), steps=2),
    "uniform": lambda keep: ps.uniform(keep=keep),
}


def configuration(seed):
    """A configuration, drawn from the seed alone."""
    draw = random.Random(seed)
    world, mode = draw.choice([2, 2, 3, 4]), draw.choice(["in_step", "in_step", "global", "global", "default"])
    found = {
        "mode": mode,
        "world": world,
        "rule": draw.choice(sorted(RULES)) if mode != "default" else draw.choice(["held", "top", "uniform"]),
        "keep": draw.choice([0.25, 0.5, 0.75]),
        "draw": draw.choice(["bernoulli", "systematic"]) if mode != "default" else "systematic",
        "rows": draw.choice([4, 8, 12]),
        "batch": draw.choice([2, 3, 8]),
        "lengths": [draw.choice([3, 4, 5, 7]) for _ in range(world)],  # pools of each rank
        "short": [draw.choice([0, 0, 1, 3]) for _ in range(world)],  # rows that the last pool of each lacks
        "drop_last": draw.random() < 0.3,
        "accumulation": draw.choice([1, 1, 3]),
        "passes": draw.choice([1, 2, 3]),
        "fails": None,
    }
    if draw.random() < 0.4:  # equal shares, as of a DistributedSampler
        found["lengths"] = [found["lengths"][0]] * world
    if draw.random() < 0.3:
        found["short"] = [0] * world
    if mode == "in_step" and draw.random() < 0.08:
        found["lengths"][draw.randrange(world)] = 0
    if mode != "default" and draw.random() < 0.5:
        found["fails"] = {
            "rank": draw.randrange(world),
            "where": draw.choice(["loader", "score"]),
            "at": draw.randrange(8),
        }
    return found


class Pools(torch.utils.data.Dataset):
    """A rank's rows: numbered, with a loss by number; reading one may fail."""

    def __init__(self, rank, rows, fails):
        self.rank, self.rows, self.fails, self.read = rank, rows, fails, 0

    def __len__(self):
        return self.rows

    def __getitems__(self, places):
        if self.fails is not None and self.fails == self.read:
            raise OSError("no such file")
        self.read += 1
        return [{"id": 10_000 * self.rank + place, "x": float(place * 7919 % 1009)} for place in places]


def case(rank, world, seed):
    """What this rank sees of configuration `seed`."""
    it = configuration(seed)
    fails = it["fails"] if it["fails"] and it["fails"]["rank"] == rank else None
    scored = [0]

    def score(params, batch):
        if fails and fails["where"] == "score" and scored[0] == fails["at"]:
            raise ValueError("no such loss")
        scored[0] += 1
        return batch["x"].float()

    rows = max(it["lengths"][rank] * it["rows"] - it["short"][rank] % it["rows"], 0)
    data = Pools(rank, rows, fails["at"] if fails and fails["where"] == "loader" else None)
    pools = torch.utils.data.DataLoader(data, it["rows"], drop_last=it["drop_last"]) if rows else []
    rule = RULES[it["rule"]](it["keep"])
    settings = {"draw": getattr(ps, it["draw"]), "columns": {"id": lambda batch: batch["id"]}}
    settings["in_step"] = True if it["mode"] == "in_step" else None
    if it["mode"] == "global":
        settings["ranks"] = "global"
    loader = ps.SiftingDataLoader(
        pools,
        None if it["rule"] == "uniform" else score,
        rule,
        params={},
        batch_size=it["batch"],
        weights=True,
        **settings,
    )
    counts, out, kept, error, steps = [], [], [], None, 0

    def note():
        if loader.info is not None:
            kept.extend(loader.info.extra["id"][loader.info.mask].tolist())

    try:
        for turn in range(it["passes"]):
            loader.set_epoch(turn)
            counts.append(0)
            for batch, _ in loader:
                counts[-1] += 1
                steps += 1
                out += batch["id"].tolist()
                note()
                if steps % it["accumulation"] == 0:  # as DDP does: a rank alone would wait here
                    total = torch.ones(1)
                    dist.all_reduce(total)
                    assert int(total) == world
            note()
    except Exception as raised:
        error = [type(raised).__name__, str(raised)]
    ended, held = time.time(), []
    if error is None:
        if loader._pace.stopped:
            for info in (*loader._passed, loader._stream.info):
                kept += info.extra["id"][info.mask].tolist()
        held = [number for batch, _ in loader.flush() for number in batch["id"].tolist()]
    return {"counts": counts, "out": out, "kept": kept, "held": held, "error": error, "ended": ended}
