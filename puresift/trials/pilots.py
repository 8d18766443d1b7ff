"""The pilot of `advise`: a throwaway copy of model and optimizer, trained for a while on what a loader gives."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puresift import trees
from puresift.errors import SiftError
from puresift.scores.copies import HOOKS, SURROUNDINGS, unwrap
from puresift.scores.losses import Loss
from puresift.scores.model import per_row
from puresift.types import Batch, Losses

WARM_UP = 0.06  # of a schedule
_MOST = 440  # batches of the pilot, a tenth of which are held out
_MIDDLE = 512  # rows whose gradients are measured in the middle of it
_BYTES = 2**29  # of batches that are kept


class Watch:
    """Seconds since it was made, of so many."""

    def __init__(self, seconds: float, device: torch.device):
        self.seconds, self._device, self._began = seconds, device, time.perf_counter()

    def __call__(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._began

    def over(self, share: float = 1.0) -> bool:
        """Whether that share of the time has passed."""
        return self() >= share * self.seconds


class Throwaway:
    """A deep copy of a model and its optimizer that shares no tensor with them; it is trained and dropped.

    The rates are the optimizer's own, or those that a schedule has set aside while it warms up.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Loss):
        self.loss = loss
        self.model, copied = _copied(unwrap(model), optimizer)
        learnt = [p for p in self.model.parameters() if p.requires_grad]
        if not learnt:
            raise SiftError("no parameter of the model requires a gradient, so nothing is trained; unfreeze some")
        self.optimizer = copied if copied is not None else torch.optim.AdamW(learnt, 1e-3)
        ours = set(map(id, learnt))
        if not any(id(p) in ours for group in self.optimizer.param_groups for p in group["params"]):
            raise SiftError("the optimizer holds none of the model's parameters; make it of model.parameters()")
        self.rates = [float(group.get("initial_lr", group["lr"])) for group in self.optimizer.param_groups]

    def step(self, batch: Batch, rate: float = 1.0) -> Losses:
        """One step of training, with rates that are so much of the peak."""
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = torch.full_like(group["lr"], peak * rate) if isinstance(group["lr"], Tensor) else peak * rate
        self.optimizer.zero_grad()
        losses = per_row(self.loss(self.model, batch), trees.batch_size(trees.plain(batch)))
        losses.mean().backward()
        try:
            self.optimizer.step()
        except TypeError as error:  # a closure, as L-BFGS takes it
            raise SiftError(f"the optimizer cannot take a step by itself ({error}); leave optimizer= out") from error
        return losses.detach()

    def losses(self, batch: Batch) -> Losses:
        """As evaluation sees them."""
        with evaluated(self.model), torch.no_grad():
            return per_row(self.loss(self.model, batch), trees.batch_size(trees.plain(batch))).float()


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """In eval mode for the length of a block; each module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def norms(model: nn.Module, loss: Loss, batch: Batch) -> tuple[Losses, Tensor, bool]:
    """Losses and, as a proxy of each row's gradient norm, that of the last linear layer's weights; whether it is one.

        || d loss_i / d W || = || sum_t g_t a_t^T ||,  a the layer's inputs, g the gradient at its outputs

    One forward and the first step of a backward. Without such a layer the proxy is 1 - exp(-loss), the probability
    of being wrong.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        seen.append((given[0], made))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    rows = trees.batch_size(trees.plain(batch))
    try:
        with evaluated(model), torch.enable_grad():
            losses = per_row(loss(model, batch), rows)
            usable = bool(seen) and seen[-1][1].requires_grad and seen[-1][1].shape[0] % rows == 0
            slope = torch.autograd.grad(losses.sum(), seen[-1][1], allow_unused=True)[0] if usable else None
    finally:
        for hook in hooks:
            hook.remove()
    losses = losses.detach().float()
    if slope is None:
        return losses.cpu(), 1 - torch.exp(-losses.clamp(min=0)).cpu(), False
    given, slopes = (part.detach().float().reshape(rows, -1, part.shape[-1]) for part in (seen[-1][0], slope))
    squares = ((slopes @ slopes.mT) * (given @ given.mT)).sum((1, 2))
    return losses.cpu(), squares.clamp(min=0).sqrt().cpu(), True


def schedule(done: float) -> float:
    """Linear up over the warm-up, linear down to zero: the share of the peak rate when that much of a run is done."""
    return max(min(done / WARM_UP, (1 - done) / (1 - WARM_UP)), 0.0)


def run(
    throwaway: Throwaway,
    batches: list[Batch],
    steps: int,
    watch: Watch,
    over: float,
    rate: Callable[[float], float] = schedule,
) -> int:
    """Train for so many steps on shuffled passes over the batches, or until the watch is over; the steps taken."""
    generator, order = torch.Generator().manual_seed(0), list[int]()
    for step in range(steps):
        if step and watch.over(over):
            return step
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        throwaway.step(batches[order.pop()], rate((step + 0.5) / steps))
    return steps


class Piloted(NamedTuple):
    """What a pilot leaves, besides the copy that it trained."""

    train: list[Batch]  # trained on
    held: list[Batch]  # a tenth, held out
    steps: int
    wait: float  # seconds that a batch is waited for
    middle: Tensor  # gradient norms of rows that were new in the middle of it


def pilot(throwaway: Throwaway, loader: Any, batches: int, again: bool, watch: Watch, over: float) -> Piloted:
    """Train on at most one pass.

    Where samples come many times the rest of the pass is read too, untrained, for the runs that follow.
    """
    train, held, waits, middle = list[Batch](), list[Batch](), list[float](), list[Tensor]()
    steps, room, planned, pools = 0, _BYTES, min(batches, _MOST), iter(loader)
    while True:
        began = watch()
        batch = next(pools, None)
        if batch is None:
            break
        waits.append(watch() - began)
        batch, number = trees.plain(batch), len(waits)
        half = (number > planned / 2 or watch.over(over / 2)) and not (middle and watch.over(over))
        if number <= planned and (half or batches == 1) and sum(map(len, middle)) < _MIDDLE:
            middle.append(norms(throwaway.model, throwaway.loss, batch)[1])
        if number % 10 == 0:
            held.append(batch)
        else:
            train.append(batch)
            if number <= planned:
                _finite(throwaway.step(batch, min((steps + 1) / (WARM_UP * planned), 1.0)), steps)
                steps += 1
        room -= sum(leaf.nbytes for leaf in trees.leaves(batch) if isinstance(leaf, Tensor))
        late = watch.over(over) and steps >= 1
        if late or room < 0 or (number >= planned and not again):
            break
    if not held and len(train) > 1:
        held.append(train.pop())
    return Piloted(train, held, steps, sorted(waits)[len(waits) // 2], torch.cat(middle) if middle else torch.ones(1))


def _finite(losses: Tensor, step: int) -> None:
    if not bool(losses.isfinite().all()):
        raise SiftError(
            f"the loss is NaN or infinite in step {step + 1} of the pilot; lower the learning rate, or look at "
            "that batch"
        )


def _copied(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> tuple[nn.Module, torch.optim.Optimizer | None]:
    memo: dict[int, Any] = {}
    for module in model.modules():  # hooks may write elsewhere, and a trainer holds the world
        memo |= {id(getattr(module, hooks)): type(getattr(module, hooks))() for hooks in HOOKS}
        memo |= {id(vars(module)[name]): None for name in SURROUNDINGS if vars(module).get(name) is not None}
    try:
        return copy.deepcopy((model, optimizer), memo)
    except (RuntimeError, TypeError) as error:
        raise SiftError(
            f"the model or its optimizer cannot be copied for the pilot ({error}); a module that caches a computed "
            "tensor is the usual cause: clear the cache first, or compute it in forward"
        ) from error
