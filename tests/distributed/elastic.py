"""Cases for processes of their own: a global stream that is saved on some ranks and goes on, on others."""

import torch

import puresift as ps
from puresift import distributed

POOL, POOLS = 96, 12  # rows of a global pool and of a global batch


def pool(number: int, rank: int, world: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(POOL).view(world, -1)[rank] + POOL * number
    return {"id": ids, "x": (ids * 2654435761 % 1009).float()}


def sifter(world: int) -> ps.Sifter:
    rule = ps.unbiased(ps.relative(keep=0.4, history=200))
    return ps.sifter(lambda params, batch: batch["x"], rule, batch_size=POOL // world, ranks="global")


def part(rank: int, world: int, folder: str, first: int, last: int, wait: bool = True):
    """Ids and weights of the global batches of some pools, this rank's share; the state is saved after them."""
    made = sifter(world)
    state = made.init(ps.key(5), pool(0, rank, world))
    if first:
        state = distributed.load_state(folder, state, shared=True)
    pools = [pool(number, rank, world) for number in range(first, last)]
    stream = ps.sift(made, state, {}, pools, skip=0)
    batches = [[batch["id"].tolist(), weights.tolist()] for batch, weights, *_ in stream]
    saving = distributed.save_state(folder, stream.state, wait=wait)
    if saving is not None:
        saving.result()
    return batches


def own(rank: int, world: int, folder: str, pools: int):
    """Where each rank decides by itself: ids that waited in the folder, ids kept since, and the pools read."""
    made = ps.sifter(lambda params, batch: batch["x"], ps.relative(keep=0.4, history=200), batch_size=20)
    largest = {name: leaf.repeat(8) for name, leaf in pool(0, 0, 1).items()}
    state, kept = made.init(distributed.rank_key(ps.key(5)), largest), []
    waiting = []
    if not pools:
        state = distributed.load_state(folder, state)
        waiting = sum((batch["id"].tolist() for batch, _ in made.flush(state)[1]), [])
    for number in range(pools):
        batch = pool(number, rank, world)
        state, info = made.step(state, {}, batch)
        kept += batch["id"][info.mask].tolist()
    if pools:
        distributed.save_state(folder, state)
    return [waiting, kept, int(state.step)]
