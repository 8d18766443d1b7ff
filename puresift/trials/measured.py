"""What `advise` measures on the throwaway copy: concentration, costs, padding, memory, what a shorter run costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from puresift import trees
from puresift.rules.mixing import by_error, by_root
from puresift.rules.weighing import importance
from puresift.scores.cheap import autocast, truncated
from puresift.scores.losses import batched
from puresift.scores.model import live
from puresift.trials.facts import CUT, Interval, Memory, Mode, Padding
from puresift.trials.memory import fitting, peak
from puresift.trials.pilots import Throwaway, Watch, norms, run
from puresift.trials.speed import rank_correlation
from puresift.types import Batch, Losses, Pad, Rule, ScoreFn

Length = Callable[[Batch], Tensor]
_DRAWS = 400  # of a bootstrap
_ROUNDS = 7
_WINDOW = 8  # batches that `bucket=` sorts by length


def bootstrap(function: Callable[..., Tensor], *columns: Tensor) -> Interval:
    """A statistic of rows, and the 2.5th and 97.5th percentile of its bootstrap over them."""
    columns = tuple(column.double().cpu() for column in columns)
    size, dice = len(columns[0]), torch.Generator().manual_seed(0)
    draws = torch.randint(size, (_DRAWS, size), generator=dice)
    several = function(*(column[draws] for column in columns)).nan_to_num(1.0)
    low, high = several.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Interval(float(function(*(column[None] for column in columns)).nan_to_num(1.0)), low, high)


def concentration(sizes: Tensor) -> Tensor:
    """B / ESS, B sum(n^2) / sum(n)^2, over the last dimension."""
    return sizes.square().mean(-1) / sizes.mean(-1).square()


def worth(sizes: Tensor, probs: Tensor) -> Tensor:
    """How many rows drawn alike have as little noise as one drawn with probabilities p, weighted by 1 / p.

    mean(n^2) / (mean(p) mean(n^2 / p)),  which is B / ESS where p is proportional to the norms n
    """
    return sizes.square().mean(-1) / (probs.mean(-1) * (sizes.square() / probs).mean(-1))


def gradients(
    throwaway: Throwaway, batches: list[Batch], watch: Watch, over: float
) -> tuple[list[Batch], Losses, Tensor, bool]:
    """Batches, the losses and gradient norms of their rows, and whether those are of a head: until the time is over."""
    found = []
    for batch in batches:
        found.append(norms(throwaway.model, throwaway.loss, batch))
        if watch.over(over):
            break
    losses, sizes, exact = zip(*found, strict=True)
    return batches[: len(found)], torch.cat(losses), torch.cat(sizes), all(exact)


def live_odds(losses: Losses) -> Tensor:
    """The probabilities that `ps.auto` would give."""
    rule = by_error(importance(0.5, floor=0.3, history=max(1024, len(losses))))
    return rule.select(rule.init(), losses)[1].probs


def table_odds(losses: Losses, sizes: Tensor, floor: float) -> tuple[str, Tensor]:
    """The rule for a table of losses, as code, that follows the gradient better; and its probabilities."""
    rules: dict[str, Callable[[Rule], Rule]] = {"by_root": by_root, "by_error": by_error}
    odds = {}
    for name, shown in rules.items():
        rule = shown(importance(0.05, floor=floor, bias=0.0))
        odds[name] = rule.select(rule.init(), losses)[1].probs
    best = max(odds, key=lambda name: float(worth(sizes.double(), odds[name].double())))
    return f"ps.{best}(ps.importance(keep=0.05, floor={floor:g}, bias=0.0))", odds[best]


def modes(
    throwaway: Throwaway,
    train: list[Batch],
    seen: list[Batch],
    sizes: Tensor,
    loading: Callable[[float], float],
    watch: Watch,
    over: float,
    pad: Mapping[str, Pad] | None,
    length: Length | None,
) -> tuple[tuple[Mode, ...], float]:
    """Ways of scoring, with what a second of `ps.auto` by each is worth, and seconds of a training step.

        worth of a second = (1 + l) k w / (l + phi + k),  l the wait for a row, k the share kept

    The odds are those of the mode's own losses, and w is by the true gradient: what a cheap score gets wrong makes it
    worth less. They take turns with training, round by round, so that a busy neighbour disturbs all alike.
    """
    scores = _scores(throwaway, seen, pad, length)
    params = live(throwaway.model)
    middle = (watch() / watch.seconds + over) / 2  # half of what is left is for timing
    parts: dict[str, list[Losses]] = {name: [] for name in scores}
    for batch in seen:
        for name, (_, score) in scores.items():
            parts[name].append(score(params, batch).float().cpu())
        if watch.over(middle):
            break
    losses = {name: torch.cat(part) for name, part in parts.items()}
    sizes = sizes[: len(losses["as trained"])]
    phis, steps = {name: list[float]() for name in scores}, list[float]()
    for number in range(_ROUNDS + 1):
        batch = train[number % len(train)]
        steps.append(_seconds(watch, partial(throwaway.step, batch)))
        for name, (_, score) in scores.items():
            phis[name].append(_seconds(watch, partial(score, params, batch)) / steps[-1])
        if watch.over(over):
            break
    warm = slice(min(1, len(steps) - 1), None)
    step, plain, found = median(steps[warm]), next(iter(losses.values())), []
    for name, (code, _) in scores.items():
        phi, odds, wait = median(phis[name][warm]), live_odds(losses[name]), loading(step)
        keep = float(odds.mean())
        second = keep * (1 + wait) / (wait + phi + keep)
        value = Interval(*(second * part for part in bootstrap(worth, sizes, odds)))
        found.append(Mode(name, code, phi, rank_correlation(plain, losses[name]), keep, value))
    return tuple(found), step


def _scores(
    throwaway: Throwaway, batches: list[Batch], pad: Mapping[str, Pad] | None, length: Length | None
) -> dict[str, tuple[str, ScoreFn]]:
    plain = batched(throwaway.model, throwaway.loss)
    code, half = "ps.batched(model, loss)", autocast(plain)
    scores: dict[str, tuple[str, ScoreFn]] = {"as trained": (code, plain)}
    scores["bfloat16"] = (f"ps.autocast({code})", half)
    if pad and length is not None:
        width = 8 * -(-int(torch.cat([length(batch) for batch in batches]).float().mean().ceil()) // 8)
        if width < max(_width(batch, pad) for batch in batches):
            for name, (says, score) in list(scores.items()):
                scores[f"{name}, {width} tokens"] = (
                    f"ps.truncated({says}, {width}, pad=pad)",
                    truncated(score, width, pad=pad),
                )
    return scores


def _seconds(watch: Watch, call: Callable[[], Any]) -> float:
    start = watch()
    call()
    return max(watch() - start, 1e-9)


def padding(batches: list[Batch], pad: Mapping[str, Pad] | None, length: Length | None) -> Padding | None:
    """The share of padding as batches come, cut to their longest row, and with rows of like length together."""
    if length is None or not pad:
        return None
    lengths = [length(batch).cpu() for batch in batches]
    tokens, rows = sum(int(part.sum()) for part in lengths), len(lengths[0])
    now = sum(_width(batch, pad) * len(part) for batch, part in zip(batches, lengths, strict=True))
    trimmed = sum(int(part.max()) * len(part) for part in lengths)
    near = [torch.cat(lengths[at : at + _WINDOW]).sort().values for at in range(0, len(lengths), _WINDOW)]
    bucketed = sum(int(part.max()) * len(part) for window in near for part in window.split(rows))
    return Padding(1 - tokens / now, 1 - tokens / trimmed, 1 - tokens / bucketed)


def _width(batch: Batch, pad: Mapping[str, Pad]) -> int:
    return max(leaf.shape[1] for name, leaf in trees.named(batch) if name in pad)


def memory(throwaway: Throwaway, score: ScoreFn, pool: Batch, device: torch.device) -> Memory | None:
    """On a device; on a CPU memory is seldom what is short."""
    if device.type != "cuda":
        return None
    need = peak(partial(throwaway.step, pool), device)
    return Memory(need, fitting(score, live(throwaway.model), pool, budget=need))


def shortening(
    fresh: Callable[[], Throwaway], train: list[Batch], judged: list[Batch], steps: int, step: float, watch: Watch
) -> tuple[Interval | None, float]:
    """How much higher the loss of some rows is where a run is cut, as a share; and how long it was, in whole ones.

    Both runs decay their rates to zero within their own steps. The longest that fits is run, at least a quarter.
    """
    left = watch.seconds - watch()
    affordable = int(0.8 * left / (1 + CUT) / step)
    length = min(steps, affordable)
    if not train or not judged or length < max(steps / 4, 20):
        return None, 0.0
    ends = []
    for count in (length, max(round(CUT * length), 1)):
        throwaway = fresh()
        if run(throwaway, train, count, watch, 1.0) < count:
            return None, 0.0
        ends.append(torch.cat([throwaway.losses(batch).cpu() for batch in judged]))
    whole, cut = ends
    if not bool(torch.cat(ends).isfinite().all()):
        return None, 0.0
    return bootstrap(lambda whole, cut: cut.mean(-1) / whole.mean(-1) - 1, whole, cut), length / steps
