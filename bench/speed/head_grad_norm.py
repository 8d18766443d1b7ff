"""What the closed-form gradient norm of the head costs above the loss score, on MiniLM.

    python -m bench head_grad_norm [--rounds 15] [--rows 64] [--length 32] [--threads 1]

The two scores take turns, and the order flips each round, so that drift of the machine falls on both. The answer is the
median of the rounds' ratios, with quartiles; beside it the largest relative error against autograd, row by row.
"""

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import puresift as ps
from bench.measure import bars, figure, save, spread
from models import bert


def outputs(model: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    features = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    return model.classifier(features), batch["labels"], features


def pool(rows: int, length: int, vocabulary: int) -> dict[str, Tensor]:
    noise = ps.keys.uniform(ps.key(0), rows * length).reshape(rows, length)
    return {
        "input_ids": (noise * vocabulary).long(),
        "attention_mask": torch.ones(rows, length, dtype=torch.int64),
        "labels": (ps.keys.uniform(ps.key(1), rows) * 2).long(),
    }


def oracle(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The norm of each row's gradient in the head's weight and bias, by autograd in double precision."""
    with torch.no_grad():
        features = outputs(model, batch)[2].double()
    weight, bias = (p.detach().double().requires_grad_() for p in (model.classifier.weight, model.classifier.bias))
    losses = F.cross_entropy(F.linear(features, weight, bias), batch["labels"], reduction="none")
    rows = [torch.autograd.grad(loss, (weight, bias), retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in rows])


def seconds(score: Any, params: dict[str, Tensor], batch: dict[str, Tensor]) -> float:
    start = time.perf_counter()
    score(params, batch)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = bert.build("minilm", [], seed=0, max_length=64).model
    batch, params = pool(args.rows, args.length, model.config.vocab_size), ps.live(model)()
    found: dict[str, Any] = {}
    for name, cast in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        loss = ps.autocast(ps.batched(model, bert.loss), cast)
        head = ps.autocast(ps.head_grad_norm(model, outputs), cast)
        if name == "float32":
            exact = oracle(model.eval(), batch)
            print(
                f"largest relative error against autograd: {float((head(params, batch) / exact - 1).abs().max()):.1e}"
            )
        for score in (loss, head):  # warm-up
            seconds(score, params, batch)
        rounds = []
        for turn in range(args.rounds):
            order = (loss, head) if turn % 2 else (head, loss)
            took = {score: seconds(score, params, batch) for score in order}
            rounds.append((took[loss], took[head]))
        low, middle, high = statistics.quantiles([dear / plain for plain, dear in rounds], n=4)
        found[name] = {
            "ratio": spread([dear / plain for plain, dear in rounds]),
            "loss_milliseconds": spread([plain * 1e3 for plain, _ in rounds]),
            "head_grad_norm_milliseconds": spread([dear * 1e3 for _, dear in rounds]),
        }
        plain, dear = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
        print(
            f"{name}: loss {plain:.1f} ms, head_grad_norm {dear:.1f} ms; ratio {middle:.3f}, quartiles {low:.3f} to "
            f"{high:.3f} ({args.rounds} rounds of {args.rows}x{args.length}, {args.threads} threads, "
            f"torch {torch.__version__})"
        )
    path = save("head_grad_norm", {"scores": found}, seed=0, rounds=args.rounds, shape=(args.rows, args.length))
    figure(path, (5.5,), lambda axes: draw(axes, found))


def draw(axes: Any, found: dict[str, Any]) -> None:
    groups = {name: [row[f"{name}_milliseconds"] for row in found.values()] for name in ("loss", "head_grad_norm")}
    bars(axes, list(found), groups)
    axes.set(ylabel="time to score a pool [ms]", title="The head's gradient norm beside the loss, MiniLM")


if __name__ == "__main__":
    main()
