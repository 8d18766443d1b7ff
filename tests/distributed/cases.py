"""What ranks do in the tests of this folder: functions of (rank, ranks), run by `worlds.launch`."""

import time
import warnings

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import puresift as ps
from tests.distributed.worlds import ended
from tests.strategies import cross_entropy, net

ROWS, POOLS = 24, 5  # in a global pool, and pools in a pass
RULES = {
    "relative": lambda: ps.relative(keep=0.5, history=64),
    "weighted": lambda: ps.importance(keep=0.4, floor=0.2),
    "grouped": lambda: ps.by_group(ps.relative(keep=0.5, history=64), groups=3),
    "delayed": lambda: ps.delay(ps.threshold(quantile=0.6, history=64), steps=2),
    "held": lambda: ps.hold(ps.relative(keep=0.5, history=64), keep=0.25),
}
COLUMNS = {"group": lambda batch: batch["id"] % 3, "id": lambda batch: batch["id"]}


def global_pools(pools=POOLS, rows=ROWS):
    """Pools of rows with a loss each, an image of small integers and an id."""
    ids = torch.arange(pools * rows)
    rank = ((ids * 7919) % 1009).float()
    pictures = (ids[:, None] * torch.arange(1, 5) % 256).to(torch.uint8)
    return [
        {"x": rank[part], "id": ids[part], "picture": pictures[part], "mark": ids[part] % 2 == 0}
        for part in ids.split(rows)
    ]


def shares(pools, rank, world):
    """This rank's part of each pool."""
    return [{name: leaf.chunk(world)[rank] for name, leaf in pool.items()} for pool in pools]


def score(params, batch):
    return batch["x"]


def whole(batch, weights):
    """A batch whose leaves still belong together."""
    ids = batch["id"]
    assert torch.equal(batch["picture"], (ids[:, None] * torch.arange(1, 5) % 256).to(torch.uint8))
    assert torch.equal(batch["mark"], ids % 2 == 0) and len(ids) == len(weights)
    return [[number, weight] for number, weight in zip(ids.tolist(), weights.tolist(), strict=True)]


def decisions(rank, world, rule="relative", draw="bernoulli", batch=8):
    """A stream of global decisions: the batches, which rows of each pool were kept, and how many moved."""
    pools = shares(global_pools(), rank, world)
    sifter = ps.sifter(
        score,
        RULES[rule](),
        batch_size=batch // world,
        draw=getattr(ps, draw),
        columns=COLUMNS,
        ranks="global",
    )
    state = sifter.init(ps.key(3), pools[0])
    stream = ps.sift(sifter, state, {}, ps.epochs(pools, 2))
    batches, kept, middle = [], [], None
    for sifted in stream:
        batches.append(whole(sifted.batch, sifted.weights))
        kept += sifted.info.extra["id"][sifted.info.mask].tolist()
        if len(batches) == 3:
            middle = ps.state_dict(sifted.state)
    again = ps.sift(sifter, ps.load_state_dict(state, middle), {}, ps.epochs(pools, 2))
    rest = [whole(sifted.batch, sifted.weights) for sifted in again]
    return {"batches": batches, "kept": kept, "resumed": rest == batches[3:], "held": int(stream.state.buffer.fill[0])}


def training(rank, world, batch=12):
    """DDP on globally decided batches: the weights in the end."""
    model = net(norm=False)
    model[2].p = 0.0  # dropout draws apart on each rank
    if world > 1:
        model = DistributedDataParallel(model)
    x = torch.randn(5 * ROWS, 4, generator=torch.Generator().manual_seed(1))
    pools = list(zip(x.split(ROWS), (x.sum(1) > 0).long().split(ROWS), strict=True))
    pools = [tuple(leaf.chunk(world)[rank] for leaf in pool) for pool in pools]
    loader = ps.SiftingDataLoader(
        pools,
        ps.batched(model, cross_entropy),
        ps.importance(keep=0.5),
        params=ps.live(model),
        batch_size=batch // world,
        weights=True,
        ranks="global",
    )
    optimizer, steps = torch.optim.SGD(model.parameters(), lr=0.1), 0
    while loader.epoch < 3:
        for rows, weights in loader:
            optimizer.zero_grad()
            (weights * cross_entropy(model, rows)).mean().backward()
            optimizer.step()
            steps += 1
    return {"steps": steps, "weights": [p.flatten().tolist() for p in ps.live(model)().values()]}


def unequal(rank, world, lengths=(3, 5), empty=None):
    """Global decisions where ranks have other numbers of pools, two passes by one state."""
    own = [
        {name: leaf + (1000 * rank if name == "id" else 0) for name, leaf in pool.items() if name in ("x", "id")}
        for pool in global_pools(max(lengths), 8)
    ][: lengths[rank]]
    like = {"x": torch.zeros(8), "id": torch.zeros(8, dtype=torch.int64)}
    sifter = ps.sifter(score, ps.relative(keep=0.5, history=64), batch_size=4, ranks="global", columns=COLUMNS)
    state, passes, kept = sifter.init(ps.key(0), like), [], []
    for _ in range(2):
        stream = ps.sift(sifter, state, {}, own)
        passes.append([])
        for sifted in stream:
            passes[-1] += sifted.batch["id"].tolist()
            kept += sifted.info.extra["id"][sifted.info.mask].tolist()
        kept += stream.info.extra["id"][stream.info.mask].tolist()
        state = stream.state
    left = [batch["id"].tolist() for batch, _ in sifter.flush(state)[1]]
    return {"passes": passes, "kept": kept, "left": sum(left, []), "step": int(state.step)}


def _loader(rank, lengths, rule=None, key=None, pools=None, scoring=score, **settings):
    own = shares(global_pools(max(lengths)), 0, 1) if pools is None else pools
    own = [{name: leaf + 10_000 * rank * (name == "id") for name, leaf in pool.items()} for pool in own][
        : lengths[rank]
    ]
    settings = {"in_step": True, "batch_size": 8, **settings}
    loader = ps.SiftingDataLoader(
        own, scoring, rule or ps.relative(keep=0.5, history=64), params={}, key=key, **settings
    )
    return loader, own


def behind(rank, world, lengths=(3, 6)):
    """Passes in step over unequal shares: what is left of one comes first in the next, also after a resume."""
    loader, _ = _loader(rank, lengths)
    seen, counts, epochs, middle, flats = [], [], [], None, []
    for turn in range(4):
        loader.set_epoch(turn)
        counts.append(0)
        for batch in loader:
            counts[-1] += 1
            seen.append(batch["id"].tolist())
            if turn == 1 and counts[-1] == 1:
                middle, place = loader.state_dict(), len(seen)
        epochs.append(loader.epoch)
        flats.append((loader.state_dict(), len(seen)))
    resumed = []
    for flat, at in [(middle, place), *flats[:3]]:
        again, _ = _loader(rank, lengths)
        again.load_state_dict(flat)
        rest = []
        while again.epoch < 4:
            rest += [batch["id"].tolist() for batch in again]
        resumed.append(rest == seen[at:])
    return {
        "counts": counts,
        "epochs": epochs,
        "resumed": resumed,
        "seen": seen,
        "saved": "loader/behind" in flats[0][0],
    }


def quiet(rank, world, pools=6, drop_last=True, rows=96):
    """A rule of constant counts by default: how often the ranks talk, and what they are told."""
    data = torch.utils.data.TensorDataset(torch.arange(float(rows)) + 1000 * rank)
    share = torch.utils.data.DistributedSampler(data, num_replicas=1, rank=0, shuffle=False)  # it is this rank's own
    source = torch.utils.data.DataLoader(data, 16, sampler=share, drop_last=drop_last)
    rule = ps.hold(ps.relative(keep=0.5, history=64), keep=0.25)
    talks, real = [0], dist.all_gather

    def counting(*arguments, **options):
        talks[0] += 1
        return real(*arguments, **options)

    dist.all_gather = counting
    try:
        answers = []
        for draw in (ps.systematic, ps.bernoulli):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loader = ps.SiftingDataLoader(source, lambda p, b: b[0], rule, params={}, batch_size=8, draw=draw)
                by_pass = []
                for _ in range(2):
                    talks[0], batches = 0, 0
                    for _ in loader:
                        batches += 1
                    by_pass.append([batches, talks[0]])
            answers.append([by_pass, [str(one.message) for one in caught]])
    finally:
        dist.all_gather = real
    return answers


def warned(rank, world):
    """What `ps.sift` says of rules on several ranks."""
    answers = []
    pool = torch.arange(16.0)
    for rule, settings in (
        (ps.relative(keep=0.5), {}),
        (ps.hold(ps.relative(keep=0.5), keep=0.5), {}),
        (ps.hold(ps.relative(keep=0.5), keep=0.5), {"draw": ps.systematic}),
    ):
        sifter = ps.sifter(lambda params, batch: batch, rule, batch_size=4, **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ps.sift(sifter, sifter.init(ps.key(0), pool), {}, [pool])
        answers.append([str(one.message) for one in caught])
    return answers


def failing(rank, world, where="loader", mode="in_step", on=1, at=2):
    """A rank that fails in its loader or its score, and when each of them heard of it."""
    scored = [0]

    def scoring(params, batch):
        scored[0] += 1
        if where == "score" and rank == on and scored[0] > at:
            raise ValueError("no such loss")
        return batch["x"]

    class Pools:
        def __iter__(self):
            for place, pool in enumerate(shares(global_pools(9), 0, 1)):
                if where == "loader" and rank == on and place == at:
                    raise OSError("no such file")
                if where == "empty" and rank == on:
                    return
                yield pool

    settings = {"ranks": "global"} if mode == "global" else {"in_step": True}
    loader = ps.SiftingDataLoader(Pools(), scoring, ps.relative(keep=0.5), params={}, batch_size=4, **settings)
    begun, got = time.monotonic(), []
    _, error = ended(lambda: [got.append(1) for _ in loader])
    return [len(got), error, time.monotonic() - begun]


def other(rank, world, what="rule", mode="in_step"):
    """Rank 1 is built otherwise than rank 0."""
    odd = rank == 1
    keep = 0.25 if odd and what == "rule" else 0.5
    settings = {"ranks": "global"} if mode == "global" else {}
    settings["batch_size"] = 4 if odd and what == "batch size" else 8
    settings["draw"] = ps.systematic if odd and what == "draw" else ps.bernoulli
    settings["key"] = ps.key(5 if odd and what == "key" else 4)
    if odd and what == "columns":
        settings["columns"] = COLUMNS
    if odd and what == "nonfinite":
        settings["nonfinite"] = "drop"
    pools = shares(global_pools(3), 0, 1)
    if odd and what == "type":
        pools = [{**pool, "picture": pool["picture"].int()} for pool in pools]
    if odd and what == "shape":
        pools = [{**pool, "picture": pool["picture"][:, :3]} for pool in pools]
    if odd and what == "leaf":
        pools = [{**pool, "more": pool["x"]} for pool in pools]
    if odd and what == "pool":
        pools = [{name: leaf[:10] for name, leaf in pool.items()} for pool in pools]
    loader, _ = _loader(
        0, (3, 3), ps.relative(keep=keep, history=64), pools=pools, **{"in_step": mode == "in_step", **settings}
    )
    got = []
    _, error = ended(lambda: [got.append(1) for _ in loader])
    return [len(got), error]


def apart(rank, world):
    """States that do not belong together, infinite losses, objects, governors and ragged rows, in global mode."""
    pool = shares(global_pools(1), rank, world)[0]

    def begun(change=lambda state: state, pool=pool, scoring=score, key=0, **settings):
        sifter = ps.sifter(scoring, ps.relative(keep=0.5, history=64), batch_size=4, ranks="global", **settings)
        state = change(sifter.init(ps.key(key), pool))
        return ended(lambda: [0 for _ in ps.sift(sifter, state, {}, [pool], skip=0)])[1]

    ragged = {"pad": "auto", "ranks": "global"}
    return {
        "step": begun(lambda state: state._replace(step=state.step + rank)),
        "key": begun(key=rank),
        "objects": begun(pool={**pool, "name": ["a"] * len(pool["id"])}),
        "infinite": begun(scoring=lambda params, batch: batch["x"] / (0.0 if rank == world - 1 else 1.0)),
        "rows": begun(
            lambda state: state._replace(buffer=state.buffer._replace(fill=torch.tensor([9 * (1 - rank), 4, 0])))
        ),
        "ragged": ended(lambda: ps.SiftingDataLoader([pool], score, ps.top(keep=0.5), params={}, **ragged))[1],
    }
