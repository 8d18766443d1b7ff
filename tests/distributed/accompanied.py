"""Cases for processes of their own: ranks that score a sharded model, each another number of pools."""

import functools
import random

import torch
from torch import nn

import puresift as ps
from tests.distributed.sharded import loss, net, pool, shard
from tests.distributed.worlds import ended

RULES = {
    "varying": lambda: ps.relative(keep=0.5),
    "delayed": lambda: ps.delay(ps.relative(keep=0.5), 40),  # in rows, of which the ranks see other numbers
    "held": lambda: ps.hold(ps.relative(keep=0.5), keep=0.5),
}
SIZES = {"even": ([16] * 5, [16] * 5), "uneven": ([16] * 5, [16, 12, 9, 16, 16, 7, 3, 16]), "none": ([16] * 4, [16])}
SCORES = {"batched": lambda score: score, "chunked": lambda score: ps.chunked(score, 5)}


class Turns:
    """A governor whose ranks do not agree: each hands other pools through."""

    def __init__(self, rank):
        self.rank, self.count = rank, 0

    def init(self):
        return ps.governor().init()

    def decide(self, state, reading):
        self.count += 1
        return state, (self.count + self.rank) % 3 > 0


class Failing:
    """Pools, of which one cannot be read."""

    def __init__(self, pools, at):
        self.pools, self.at = pools, at

    def __iter__(self):
        for place, one in enumerate(self.pools):
            if place == self.at:
                raise OSError("no such file")
            yield one


def pools(rank, sizes):
    return [pool(100 * rank + place, rows) for place, rows in enumerate(SIZES[sizes][rank])]


def train(wrapped, batches, limit=None):
    """The rows that were trained on, as they came."""
    optimizer, seen = torch.optim.AdamW(wrapped.parameters(), 0.02), []
    for batch, weights in batches:
        (weights * loss(wrapped, batch)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(batch[0].sum().item())
        if len(seen) == limit:
            break
    return seen


def whole(model, spread):
    values = [tensor.full_tensor() if spread else tensor for tensor in model.parameters()]
    return torch.cat([value.detach().flatten() for value in values])


def both(run):
    """The run on a sharded model, and under DDP: their rows, and the largest difference of their weights."""
    found = []
    for spread in (True, False):
        model = net().eval()  # no dropout: it would differ
        wrapped = shard(model, 2) if spread else nn.parallel.DistributedDataParallel(model)
        found.append((run(wrapped), whole(model, spread)))
    (ours, weights), (theirs, others) = found
    near = [abs(a - b) < 1e-4 for a, b in zip(ours, theirs, strict=True)]
    return [len(ours), len(near) == sum(near), float((weights - others).abs().max())]


def trained(rank, world, *, rule, sizes, score="batched", governed=False, passes=2, fails=None, **settings):
    """Passes of a loader."""
    given = pools(rank, sizes)

    def run(wrapped):
        scored = SCORES[score](ps.batched(wrapped, loss))
        loader = ps.SiftingDataLoader(
            given if rank or fails is None else Failing(given, fails),
            scored,
            RULES[rule](),
            params=ps.live(wrapped),
            batch_size=8,
            key=ps.key(3),
            weights=True,
            governor=Turns(rank) if governed else None,
            draw=ps.systematic,
            **settings,
        )
        return [row for _ in range(passes) for row in train(wrapped, loader)]

    if fails is None:
        return both(run)
    return ended(lambda: run(shard(net(), 2)))[1]


def endless(rank, world, *, rule, sizes, limit=9):
    """Passes of a loader without end, of which each rank takes as many batches."""

    def run(wrapped):
        score = ps.batched(wrapped, loss)
        loader = ps.SiftingDataLoader(
            pools(rank, sizes), score, RULES[rule](), params=ps.live(wrapped), batch_size=8, in_step=False, weights=True
        )
        loader.endless = True

        def batches():
            while True:
                yield from loader

        return train(wrapped, batches(), limit)

    return both(run)


def any_of(rank, world, *, seed, count):
    """Settings by chance: those under which the ranks did not train as often, and on the rows, that DDP's do."""
    dice, wrong, steps = random.Random(seed), [], 0
    for number in range(count):
        sizes = [[16, *(dice.randint(1, 16) for _ in range(dice.randint(0, 6)))] for _ in range(world)]
        SIZES["any"] = sizes
        settings = {"rule": dice.choice(sorted(RULES)), "sizes": "any"}
        mode = dice.choice(["in step", "global", "without end"])
        if mode == "without end":
            run = functools.partial(endless, limit=dice.randint(1, 12))
        else:
            settings |= {"ranks": "global"} if mode == "global" else {"in_step": True, "governed": dice.random() < 0.5}
            run = functools.partial(trained, score=dice.choice(sorted(SCORES)), passes=dice.randint(1, 3))
        found, error = ended(functools.partial(run, rank, world, **settings))
        if error is not None:  # too few rows for a batch, which all ranks hear of
            found = [0, any(words in error[1] for words in ("before one batch was full", "gave no batch")), 0.0]
        steps += found[0]
        if not found[1] or found[2] > 1e-3:
            wrong.append([number, mode, settings, sizes, found])
    return [steps, wrong]


def streamed(rank, world, *, rule, sizes, **settings):
    """A stream of one's own."""

    def run(wrapped):
        sifter = ps.sifter(ps.batched(wrapped, loss), RULES[rule](), batch_size=8, draw=ps.systematic, **settings)
        given = pools(rank, sizes)
        key = ps.key(3) if settings else ps.distributed.rank_key(ps.key(3))
        state = sifter.init(key, pool(0, 16))
        stream = ps.sift(sifter, state, ps.live(wrapped), given)
        return train(wrapped, ((batch, weights) for batch, weights, *_ in stream))

    return ended(lambda: both(run))


def waiting(rank, world):
    """A state in which batches wait on one rank, which has scored nothing, while the other has to score."""
    model = shard(net().eval(), 2)
    score = ps.batched(model, loss)
    given = [pool(100 * rank + place, 32 if rank else 8) for place in range(4)]
    settings = {"params": ps.live(model), "batch_size": 4, "in_step": True, "weights": True}
    first = ps.SiftingDataLoader(given, score, ps.top(keep=0.5), **settings)
    next(iter(first))
    flat = first.state_dict()
    again = ps.SiftingDataLoader(given, score, ps.top(keep=0.5), **settings)
    again.load_state_dict(flat)
    return ended(lambda: train(model, again))


def alone(rank, world, *, rule, in_step, governed=False):
    """What refuses a loader whose ranks would go each alone."""
    model = shard(net(), 2)
    loader = ps.SiftingDataLoader(
        pools(rank, "even"),
        ps.batched(model, loss),
        RULES[rule](),
        params=ps.live(model),
        batch_size=8,
        in_step=in_step,
        draw=ps.systematic,
        governor=ps.governor() if governed else None,
    )
    return ended(lambda: len(list(loader)))


def gathered_root(rank, world):
    """A model whose only group stands gathered, after a forward: its parameters look like those of any other."""
    from torch.distributed.fsdp import fully_shard

    bare, model, given = net().eval(), net().eval(), [pool(rank)]
    score = ps.batched(model, loss)
    fully_shard(model)
    found = []
    for rule in ("held", "varying"):
        with torch.no_grad():
            model(pool(0)[0])
        kinds = sorted({type(tensor).__name__ for tensor in model.parameters()})
        sifter = ps.sifter(score, RULES[rule](), batch_size=8, draw=ps.systematic)
        stream = ps.sift(sifter, sifter.init(ps.key(0), given[0]), ps.live(model), given)
        found.append([kinds, *ended(lambda stream=stream: next(stream).info.losses.tolist())])
    (kinds, losses, _), (_, none, error) = found
    worst = (torch.tensor(losses) - loss(bare, given[0])).abs().max()
    return [kinds, float(worst), none, error]
