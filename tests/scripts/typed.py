"""A user's loop with a type on everything: what `mypy --strict` says of it, it says of puresift's own types."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import puresift as ps

Pairs = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Pairs) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def half() -> ps.Rule:
    """A rule of one's own."""

    def select(state: Tensor, losses: Tensor, **columns: Tensor) -> tuple[Tensor, ps.Odds]:
        probs = (losses >= losses.median()).float()
        return state + 1, ps.Odds(probs, torch.ones_like(probs))

    return ps.Rule(lambda: torch.tensor(0), select, lambda state: torch.tensor(True))


def main() -> int:
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    loader = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=64)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rule: ps.Rule = ps.floor(half(), 0.1)
    sifter: ps.Sifter = ps.sifter(ps.batched(model, loss), rule, batch_size=32)
    state: ps.SiftState = sifter.init(ps.key(0), ps.peek(loader))
    stream: ps.Stream = ps.sift(sifter, state, ps.live(model), loader)
    try:
        for batch, weights, _, info in stream:
            mean: Tensor = (weights * loss(model, batch)).mean()
            optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call, unused-ignore]  # torch's own
            optimizer.step()
            print(ps.summarize(info)["keep"])
    except ps.SiftError as error:
        print(error)
    return int(stream.state.step)


if __name__ == "__main__":
    print(main())
