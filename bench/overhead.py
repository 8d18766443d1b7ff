"""What sifting costs outside the model: everything but its forward and backward, against one MiniLM training step.

The model's own work is taken out, not subtracted: the sifted model holds MiniLM's parameters and computes nothing, so
that what is left is reading the live parameters, binding them, ranking, drawing, refilling and taking.

    python -m bench.overhead
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import BertConfig, BertForSequenceClassification

import puresift as ps
from bench.measure import interleaved, ratio, save, spread

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


class Idle(nn.Module):
    """Holds a model and computes nothing with it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return ids[:, 0].float()


class Reads(TorchFunctionMode):
    """Counts what would wait for a device."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if getattr(function, "__name__", "") in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
            self.count += 1
        return function(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pool", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(0)

    model = BertForSequenceClassification(BertConfig(num_labels=2, **MINILM))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    shape = args.pool, args.length
    batch = {
        "input_ids": torch.randint(30_000, shape),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "labels": torch.randint(2, (args.pool,)),
    }

    def train() -> None:
        optimizer.zero_grad()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        F.cross_entropy(logits, batch["labels"]).backward()
        optimizer.step()

    idle = Idle(model)
    score = ps.batched(idle, lambda model, batch: model(batch["input_ids"]))
    sifter = ps.sifter(score, ps.relative(keep=0.5), batch_size=args.pool)
    live = ps.live(idle)
    start = sifter.init(ps.key(0), batch)
    pools = 50

    def sift() -> None:
        for _ in ps.sift(sifter, start, live, [batch] * pools):
            pass

    params = live()
    _state, info = sifter.step(start, params, batch)
    rule = ps.relative(keep=0.5)
    losses, ruled = info.losses, rule.init()
    mask = info.mask
    kept = ps.Kept(batch, info.odds.weights, mask)
    parts = {
        "read live parameters": live,
        "score (binding alone)": lambda: score(params, batch),
        "select": lambda: rule.select(ruled, losses),
        "draw": lambda: ps.bernoulli(ps.keys.fold_in(start.key, start.step), info.odds.probs),
        "refill": lambda: ps.refill(start.buffer, kept),
        "step": lambda: sifter.step(start, params, batch),
    }

    def repeated(part):  # type: ignore[no-untyped-def]
        return lambda: [part() for _ in range(pools)]

    times = interleaved(
        {"train": train, "sift": sift, **{name: repeated(part) for name, part in parts.items()}}, rounds=args.rounds
    )
    with Reads() as reads:
        stream = ps.sift(sifter, start, live, [batch] * pools)
        for _ in stream:
            pass
    share = ratio([seconds / pools for seconds in times["sift"]], times["train"])
    milliseconds = {name: spread([1e3 * s / (1 if name == "train" else pools) for s in times[name]]) for name in times}
    print(f"{'milliseconds a pool of ' + str(args.pool):32} {'median':>9} {'quartiles':>19}")
    for name, row in milliseconds.items():
        label = {"train": "one training step, float32", "sift": "the whole stream, idle model"}.get(name, f"  {name}")
        print(f"{label:32} {row['median']:9.3f} {row['low']:9.3f} {row['high']:9.3f}")
    print(f"outside the model: {share['median']:.2%} [{share['low']:.2%} - {share['high']:.2%}] of a training step")
    per_pool = (reads.count - 4) / pools  # four as a stream begins: its place, twice, a full buffer, the first wants
    print(f"host synchronisations a pool: {per_pool:g}")
    result = {"milliseconds": milliseconds, "share_of_step": share, "synchronisations_a_pool": per_pool}
    save("overhead", result, seed=0, rounds=args.rounds, shape=shape, keep=0.5, model=MINILM)


if __name__ == "__main__":
    main()
