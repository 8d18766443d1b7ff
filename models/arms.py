"""What is trained on and how: the candidates of each arm, one step of training, and the sifter composed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from models import bert, data
from models.options import Options


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


class Step(NamedTuple):
    """One batch to train on, and the place in the candidates right after it."""

    batch: dict[str, Tensor]
    weights: Tensor | None  # None: the plain mean
    pool: int  # candidates read, in pools
    progress: float  # of the budget, counted in pools: the only number known in advance
    state: ps.SiftState | None
    info: ps.Info | None


def plain(candidates: ps.epochs, read: int, budget: int, device: torch.device) -> Iterator[Step]:
    """The pools themselves, from number `read` on."""
    for pool, batch in enumerate(candidates.after(read), read + 1):
        if pool > budget:
            return
        yield Step({name: leaf.to(device) for name, leaf in batch.items()}, None, pool, pool / budget, None, None)


def sifted(stream: ps.Stream, sifter: ps.Sifter, budget: int) -> Iterator[Step]:
    """What the sifter keeps of them, to the last row."""
    for batch, weights, state, info in stream:
        yield Step(batch, weights, int(state.step), ps.progress(state, budget), state, info)
    # Less than a batch is left. The learning rate is almost zero, so this hardly trains, but it keeps the counts exact:
    # every kept row is trained on once.
    state, rest = sifter.flush(stream.state)
    for place, (batch, weights) in enumerate(rest):
        info = None if place else stream.info  # of the pools after the last full batch
        yield Step(batch, weights, int(state.step), ps.progress(state, budget), state, info)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], weights: Tensor | None, dtype: str
) -> float:
    """One step of training; returns its loss."""
    with torch.autocast(batch["labels"].device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        losses = bert.loss(model, batch)
    loss = losses.mean() if weights is None else (weights * losses).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    value = loss.item()
    if value - value != 0:
        raise ValueError("the training loss is NaN or infinite: lower --lr")
    return value


def adamw(model: nn.Module, o: Options) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), o.lr)


def loader(job: Job) -> Any:
    return data.loader(job.train, job.options.batch_size, seed=job.options.seed)


def scorer(job: Job, model: nn.Module, dtype: str) -> Any:
    """The loss in its own precision, in pieces sorted by length: half of a random pool is padding."""
    score = ps.autocast(ps.batched(model, bert.loss), getattr(torch, dtype))
    return ps.chunked(score, max(job.options.batch_size // 2, 1), length=length, pad=pads(job))


def compose(job: Job, score: Any) -> tuple[ps.Sifter, ps.Governor | None]:
    """Without a score, a random share. Rows wait padded to one length and leave cut to the longest of their batch."""
    o = job.options
    columns = {"id": lambda batch: batch["id"], "label": lambda batch: batch["labels"]}
    shape: Any = {"batch_size": o.batch_size, "pad": pads(job), "length": length, "columns": columns}
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
