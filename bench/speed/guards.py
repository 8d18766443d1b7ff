"""What the guards cost: a check of MiniLM's score, and a replay of 64 settings over 100,000 losses.

python -m bench guards
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import puresift as ps
from bench.measure import interleaved, save, spread
from bench.speed.overhead import MINILM


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits, batch["labels"], reduction="none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2, **MINILM))
    ids = torch.randint(30_000, (64, 32))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}
    score, params = ps.autocast(ps.batched(model, loss)), ps.live(model)
    losses, keeps = ps.keys.uniform(ps.key(5), 100_000), torch.linspace(0.02, 0.98, 64)
    times = interleaved(
        {
            "check": lambda: ps.check(score, params, batch),
            "replay": lambda: ps.replay(lambda keep: ps.relative(keep, history=1000), keeps, losses),
        },
        rounds=args.rounds,
        warmup=1,
    )
    seconds = {name: spread(values) for name, values in times.items()}
    for name, row in seconds.items():
        print(f"{name:8}{row['median']:8.2f} s ({row['low']:.2f} to {row['high']:.2f}), one thread")
    save("guards", {"seconds": seconds}, seed=0, rounds=args.rounds, model=MINILM)


if __name__ == "__main__":
    main()
