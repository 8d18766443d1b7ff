"""Cases for processes of their own: a model that fully_shard spread over the ranks."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import puresift as ps


def net(seed: int = 0) -> nn.Module:
    """Two blocks that are sharded apart, dropout, and a root with parameters of its own."""
    torch.manual_seed(seed)
    block = lambda: nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.5))  # noqa: E731
    return nn.Sequential(nn.Linear(8, 16), block(), block(), nn.LayerNorm(16), nn.Linear(16, 3))


def shard(model: nn.Module, world: int, **settings) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    for block in (model[1], model[2]):
        fully_shard(block, mesh=mesh, **settings)
    return fully_shard(model, mesh=mesh, **settings)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")


def pool(number: int, rows: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(number)
    return torch.randn(rows, 8, generator=dice), torch.randint(0, 3, (rows,), generator=dice)


SCORES = {
    "batched": lambda model: ps.batched(model, loss),
    "chunked": lambda model: ps.chunked(ps.batched(model, loss), 5),
    "el2n": lambda model: ps.el2n(model, lambda model, batch: (model(batch[0]), batch[1])),
    "margin": lambda model: ps.margin(model, lambda model, batch: (model(batch[0]), batch[1])),
}


def scores(rank: int, world: int):
    """The largest difference to the scores of the whole model, over training steps, and what scoring left behind."""
    whole, model = net(), net()
    early = SCORES["batched"](model)  # made before the model is sharded
    model = shard(model, world)
    ours = {name: make(model) for name, make in SCORES.items()} | {"batched": early}
    theirs = {name: make(whole) for name, make in SCORES.items()}
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in (model, whole)]
    model[2].eval()  # a mode of its own, which has to come back
    whole[2].eval()
    worst, kept, random = 0.0, True, torch.get_rng_state()
    for step in range(3):
        batch = pool(step + 10 * rank)
        before = dict(model.named_parameters())
        for name in SCORES:
            answer = ours[name](ps.live(model)(), batch)
            worst = max(worst, float((answer - theirs[name](ps.live(whole)(), batch)).abs().max()))
        now = dict(model.named_parameters())
        kept = kept and all(now[name] is before[name] and before[name].grad is None for name in before)
        kept = kept and [module.training for module in model.modules()] == [m.training for m in whole.modules()]
        assert torch.equal(torch.get_rng_state(), random)
        for part in (model[1], model[2], whole[1], whole[2]):
            part[2].p = 0.0
        shared = pool(step)
        for part, optimizer in zip((model, whole), optimizers, strict=True):
            loss(part, shared).mean().backward()
            ps.batched(part, loss)(ps.live(part)(), batch)  # between backward and step, where a gathered root is stale
            optimizer.step()
            optimizer.zero_grad()
        for part in (model[1], model[2], whole[1], whole[2]):
            part[2].p = 0.5
        random = torch.get_rng_state()
    return [worst, kept]


def halves(rank: int, world: int):
    """Under a mixed precision policy losses are those of bfloat16."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    whole, model, seen = net(), shard(net(), world, mp_policy=policy, reshard_after_forward=False), []

    def noted(model, batch):
        outputs = model(batch[0])
        seen.append(str(outputs.dtype))
        return F.cross_entropy(outputs.float(), batch[1], reduction="none")

    answer = ps.batched(model, noted)(ps.live(model)(), pool(rank))
    expected = ps.batched(whole, loss)(ps.live(whole)(), pool(rank))
    return [seen, float((answer - expected).abs().max())]


def trained(rank: int, world: int):
    """Weights after sifted training: sharded, and under DDP."""
    found = []
    for kind in ("sharded", "ddp"):
        model = net().eval() if kind == "ddp" else shard(net().eval(), world)  # no dropout: it would differ
        wrapped = nn.parallel.DistributedDataParallel(model) if kind == "ddp" else model
        sifter = ps.sifter(
            ps.batched(wrapped, loss), ps.hold(ps.relative(keep=0.5), keep=0.5), batch_size=8, draw=ps.systematic
        )
        pools = [pool(step + 100 * rank) for step in range(8)]
        state = sifter.init(ps.distributed.rank_key(ps.key(3)), pools[0])
        optimizer, steps = torch.optim.AdamW(wrapped.parameters(), 0.02), 0
        for batch, weights, *_ in ps.sift(sifter, state, ps.live(wrapped), pools):
            (weights * loss(wrapped, batch)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        values = [tensor.full_tensor() if kind == "sharded" else tensor for tensor in model.parameters()]
        found.append((steps, torch.cat([value.detach().flatten() for value in values])))
    (steps, ours), (others, theirs) = found
    return [steps, others, float((ours - theirs).abs().max())]


def refused(rank: int, world: int):
    """The words that end what cannot be done."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model, batch = shard(net(), world), pool(0)
    score = ps.batched(model, loss)
    zero = net()
    zero[0].weight.ds_id = 0
    split = parallelize_module(net(), init_device_mesh("cpu", (world,)), {"4": ColwiseParallel()})
    attempts = {
        "other parameters": lambda: score(dict(net().named_parameters()), batch),
        "some parameters": lambda: score({"0.weight": model[0].weight}, batch),
        "compiled": lambda: ps.compiled(score, backend="eager"),
        "per_sample": lambda: ps.per_sample(model, loss),
        "grad_norm": lambda: ps.grad_norm(model, loss),
        "old": lambda: ps.batched(FullyShardedDataParallel(net(), device_id=torch.device("cpu")), loss),
        "zero": lambda: ps.batched(zero, loss),
        "split": lambda: ps.batched(split, loss),
    }
    words = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            words[name] = "none"
        except ps.SiftError as error:
            words[name] = str(error)
    dist.barrier()
    return words
