"""Several processes as one run, under torchrun: rank 0 alone reads and writes its files, and all of them decide alike.

In a single process nothing here has any effect.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

import puresift as ps
from models import bert
from puresift import trees
from puresift.distributed import place
from puresift.infos import join

T = TypeVar("T")
SPREAD = 0x9E3779B97F4A7C15  # odd, so that ranks have seeds far apart
# How gloo and NCCL tell that the process at the other end is gone.
GONE = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe|failed while making the next batch", re.IGNORECASE)


class Heard(ValueError):
    """An error of another rank, which tells it."""


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the ranks that torchrun has started, if it has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    store, rank, world = next(rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(world):
        # The store outlives a restart, with the addresses of processes that are gone. On several machines the agents
        # count restarts apart, so there torch's own ways have to do.
        store = dist.PrefixStore(f"start {restarts()[0]}", store)
    # For numbers and files; gradients on GPUs go by NCCL.
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    yield
    dist.destroy_process_group()  # not after an error: others may be gone


def restarts() -> tuple[int, int]:
    """How often torchrun has started this run anew, and how often it may."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(count), int(most)


def first(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank.

    Raises:
        Heard: it raised an error; on rank 0 it is the error itself.
    """
    rank, ranks = place()
    if ranks == 1:
        return make()
    told: list[Any] = [None, None]
    raised: BaseException | None = None
    if rank == 0:
        try:
            told[0] = make()
        except SystemExit as error:
            raised, told[1] = error, error.code
        except Exception as error:
            raised, told[1] = error, "error"
    dist.broadcast_object_list(told)
    if raised is not None:
        raise raised
    if told[1] == "error":
        raise Heard
    if told[1] is not None:
        raise SystemExit(told[1])
    return told[0]  # type: ignore[no-any-return]


def every(make: Callable[[], T]) -> T:
    """What each rank makes for itself, if all of them can.

    Raises:
        Heard: another rank could not; the first of those tells why.
    """
    made: list[T] = []
    raised: Exception | None = None
    try:
        made.append(make())
    except (ValueError, OSError) as error:
        raised = error
    failed = [rank for rank, well in enumerate(each(raised is None)) if not well]
    if raised is not None and failed[0] == place()[0]:
        raise raised
    if failed:
        raise Heard
    return made[0]


def same(value: T) -> T:
    """The value of rank 0."""
    return first(lambda: value)


def each(value: T) -> list[T]:
    """The values of all ranks, by rank."""
    _, ranks = place()
    values: list[Any] = [value] * ranks
    if ranks > 1:
        dist.all_gather_object(values, value)
    return values


def collected(value: T) -> list[T]:
    """The values of all ranks, on rank 0; on the others none."""
    rank, ranks = place()
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.gather_object(value, values if rank == 0 else None)
    return values if rank == 0 else []


def device(name: str) -> torch.device:
    """The device of this rank: of several GPUs, its own."""
    if name == "cuda" and place()[1] > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def seed(number: int) -> int:
    """A seed of this rank's own, by which dropout differs from rank to rank."""
    return (number + place()[0] * SPREAD) % 2**64


def spread(model: nn.Module, batch: dict[str, Tensor]) -> nn.Module:
    """The model as all ranks train it; the first step of a run, and of one that goes on, is then like any other.

    DDP sorts its buckets anew after the first backward pass it sees, and with three ranks or more, sums depend on
    where in a bucket a number is.
    """
    if place()[1] == 1:
        return model
    where = next(model.parameters()).device
    group = dist.new_group(backend="nccl") if where.type == "cuda" else None
    with_others = DistributedDataParallel(model, process_group=group)
    row = {name: leaf[:1].to(where) for name, leaf in batch.items()}
    bert.loss(with_others, row).sum().backward()
    model.zero_grad()
    return with_others


def evaluate(model: nn.Module, batches: list[dict[str, Tensor]]) -> float:
    """Accuracy over the batches, each of which one rank looks at."""
    rank, ranks = place()
    if ranks == 1:
        return bert.evaluate(model, batches)
    mine = batches[rank::ranks]
    rows = sum(len(batch["labels"]) for batch in mine)
    right = round(bert.evaluate(model, mine) * rows) if mine else 0
    found = each((right, rows))
    return sum(right for right, _ in found) / sum(rows for _, rows in found)


def met(stop: Any, tally: Any, own: Any, loss: float, info: ps.Info | None) -> tuple[float, ps.Info | None]:
    """Meet after a step: the loss and the info of all ranks; `stop` and `tally` hear what the others have.

    Args:
        stop: which is told the signal of any rank.
        tally: to which the scoring since the last meeting is added: rows of all ranks, seconds of this one.
        own: what this rank has scored meanwhile; it is emptied.
        loss: this rank's.
        info: this rank's.
    """
    host = None if info is None else trees.to(info, torch.device("cpu"))
    every = each((stop.signal, own.scored, loss, host)) if place()[1] > 1 else [(stop.signal, own.scored, loss, info)]
    stop.told = max(signal for signal, *_ in every)
    tally.scored += sum(scored for _, scored, *_ in every)
    tally.score_seconds += own.score_seconds
    own.scored, own.score_seconds = 0, 0.0
    return sum(loss for *_, loss, _ in every) / len(every), joined_info([info for *_, info in every])


def joined_info(infos: list[ps.Info | None]) -> ps.Info | None:
    """The infos of all ranks on the same pools as one: rows beside each other, counts of a pool added up."""
    known = [info for info in infos if info is not None]
    if len(known) < 2:
        return known[0] if known else None
    parts = [info._replace(extra={k: v for k, v in info.extra.items() if k != "nonfinite"}) for info in known]
    rows = join(parts)
    bad = [info.extra["nonfinite"] for info in known if "nonfinite" in info.extra]
    return rows._replace(extra=rows.extra | ({"nonfinite": torch.stack(bad).sum(0)} if len(bad) == len(known) else {}))


def name() -> str:
    """This rank, before what it says of itself; nothing for rank 0."""
    rank, _ = place()
    return f"rank {rank}: " if rank else ""


def parted(error: RuntimeError) -> bool:
    """Whether an error only says that another rank has failed or is gone."""
    return place()[1] > 1 and bool(GONE.search(str(error)))


def leave(main: Callable[[], int]) -> NoReturn:
    """End with what `main` returns; on several ranks at once, because threads of gloo may abort an orderly end."""
    try:
        code: Any = main()
    except SystemExit as stop:
        code = stop.code
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
