"""What is trained on and how: the candidates of each arm, one step of training, and the sifter composed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from models import bert, data, ranks
from models.options import Options
from puresift.distributed import place

WINDOW = 2  # batches that are sorted by length once more: rows that are kept come from several pools


class Job(NamedTuple):
    """Data and settings that all arms share."""

    options: Options
    folder: Path
    model: nn.Module  # as built; every arm trains a copy
    pad_id: int
    train: data.Sentences
    rows: list[data.Row]  # the sentences, for reports
    glance: list[dict[str, Tensor]]
    test: list[dict[str, Tensor]]
    mark: str = ""  # of these options and data, by which a checkpoint is told from another run's
    turns: dict[str, Any] | None = None  # what a sifted pass costs, as measured in turns


class Step(NamedTuple):
    """One batch to train on, and the place in the candidates right after it."""

    batch: dict[str, Tensor]  # on several ranks, this one's part of it
    weights: Tensor | None  # None: the plain mean
    rows: int  # of the batch, on all ranks
    pool: int  # candidates read, in pools
    progress: float  # of the budget, counted in pools: the only number known in advance
    state: ps.SiftState | None
    info: ps.Info | None


def plain(job: Job, candidates: ps.epochs, read: int, budget: int, device: torch.device) -> Iterator[Step]:
    """The pools themselves, from number `read` on."""
    rows, size = len(job.train), job.options.batch_size
    for pool, batch in enumerate(candidates.after(read), read + 1):
        if pool > budget:
            return
        own = {name: leaf.to(device) for name, leaf in batch.items()}
        full = min(size, rows - (pool - 1) % -(-rows // size) * size)
        yield Step(own, None, full, pool, pool / budget, None, None)


def sifted(stream: ps.Stream, sifter: ps.Sifter, budget: int, spare: dict[str, Tensor]) -> Iterator[Step]:
    """What the sifter keeps of them, to the last row; `spare` is any row, for a rank that has none left at the end."""
    for batch, weights, state, info in stream:
        rows = len(weights) * place()[1]
        yield Step(batch, weights, rows, int(state.step), ps.progress(state, budget), state, info)
    # Less than a batch is left. The learning rate is almost zero, so this hardly trains, but it keeps the counts exact:
    # every kept row is trained on once.
    state, rest = sifter.flush(stream.state)
    left = ranks.each([len(weights) for _, weights in rest])
    for turn in range(max(map(len, left))):
        info = None if turn else stream.info  # of the pools after the last full batch
        rows = sum(parts[turn] for parts in left if turn < len(parts))
        batch, weights = rest[turn] if turn < len(rest) else (spare, torch.zeros(1, device=spare["labels"].device))
        yield Step(batch, weights, rows, int(state.step), ps.progress(state, budget), state, info)


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    weights: Tensor | None,
    dtype: str,
    share: float = 1.0,
) -> float:
    """One step of training; returns its loss. `share` is this rank's of a batch, in units of an even one."""
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        losses = bert.loss(model, batch)
    loss = losses.mean() if weights is None else (weights * losses).mean()
    loss = loss if share == 1.0 else share * loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value = loss.item()
    if value - value != 0:
        raise ValueError("the training loss is NaN or infinite: lower --lr")
    return value


def adamw(model: nn.Module, o: Options) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), o.lr)


def loader(job: Job, alike: bool | None = None) -> Any:
    """The pools of an epoch; `alike` in place of the option that sorts them by length."""
    o = job.options
    return data.loader(job.train, o.batch_size, seed=o.seed, share=place(), alike=o.bucket if alike is None else alike)


def rows(job: Job) -> int:
    """Of a pool, and of a batch, on one rank."""
    return job.options.batch_size // place()[1]


def scorer(job: Job, model: nn.Module, dtype: str) -> Any:
    """The loss in its own precision, of the first tokens or in pieces of like length: pools are mostly padding."""
    score = ps.autocast(ps.batched(model, bert.loss), getattr(torch, dtype))
    if job.options.score_tokens:
        return ps.truncated(score, job.options.score_tokens, pad=pads(job))
    return ps.chunked(score, max(rows(job) // 2, 1), length=length, pad=pads(job))


def compose(job: Job, score: Any) -> tuple[ps.Sifter, ps.Governor | None]:
    """Without a score, a random share. Rows wait padded to one length and leave cut to the longest of their batch.

    Several ranks decide as one, so that what is kept does not hang on how many there are.
    """
    o = job.options
    columns = {"id": lambda batch: batch["id"], "label": lambda batch: batch["labels"]}
    shape: Any = {"batch_size": rows(job), "pad": pads(job), "length": length, "columns": columns}
    shape |= {"ranks": "global"} if place()[1] > 1 else {}
    shape |= {"bucket": length, "window": WINDOW} if o.bucket else {}
    if score is None:
        return ps.sifter(None, ps.uniform(keep=o.keep), **shape), None
    if o.sift == "auto":
        return ps.auto(score, keep=o.keep, history=o.history, **shape)
    return ps.sifter(score, ps.delay(o.rule(), o.delay) if o.delay else o.rule(), **shape), None


def pads(job: Job) -> dict[str, ps.Pad]:
    longest = job.options.max_length
    return {"input_ids": ps.Pad(job.pad_id, longest), "attention_mask": ps.Pad(0, longest)}


def length(batch: dict[str, Tensor]) -> Tensor:
    return batch["attention_mask"].sum(1)
