"""What a remembered score costs: phi, the time to score a row over the time to train on one, on MiniLM and SST-2.

    python -m bench remembered [--data FOLDER] [--rows 192] [--every 3] [--keep 0.5] [--threads 1]

A first epoch trains on everything, whose losses fill the table for free; then come two times `every` epochs of sifting.
Every pool is also scored live, off the clock of the run, so that both prices are taken on the same rows in the same
second, and the two rankings can be compared. The bar, over any `every` epochs:

    phi(remembered) <= phi(live) * (1 - keep) / every + .005
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import puresift as ps
from bench.measure import COLOURS, bars, figure, save, spread
from models import bert, data
from puresift.trials import rank_correlation

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(SST2) if SST2.is_dir() else None)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpus = data.load(args.data)
    model, tokenize, pad_id, _ = bert.build("minilm", [], seed=0, max_length=64)
    dataset = data.Sentences(corpus.train[: args.rows], tokenize, pad_id=pad_id)
    loader = data.loader(dataset, 64, seed=0, drop_last=True)  # its batches carry ids
    optimizer = torch.optim.AdamW(model.parameters(), 3e-5)
    length = lambda batch: batch["attention_mask"].sum(1)  # noqa: E731
    pads = {"input_ids": ps.Pad(pad_id, 64), "attention_mask": ps.Pad(0, 64)}
    live = ps.batched(model, bert.loss)

    scored: list[int] = []  # rows that went through the model, a call

    def counted(params: Any, batch: Any) -> torch.Tensor:
        scored.append(len(batch["labels"]))
        return live(params, batch)

    memory = ps.remembered(counted, len(dataset), every=args.every)
    pools: list[tuple[int, int, float, float, float]] = []  # rows, rows scored, seconds, seconds live, agreement

    def apply(state: Any, params: Any, batch: Any) -> Any:
        begin = time.perf_counter()
        fresh = live(params, batch)
        middle, before = time.perf_counter(), len(scored)
        state, losses = memory.apply(state, params, batch)  # look-ups and all
        end = time.perf_counter()
        rows = len(losses)
        pools.append((rows, sum(scored[before:]), end - middle, middle - begin, rank_correlation(fresh, losses)))
        return state, losses

    rule = ps.delay(ps.relative(keep=args.keep, history=256), steps=len(loader))
    score = ps.Score(memory.init, apply, memory.observe)
    sifter = ps.sifter(score, rule, batch_size=32, pad=pads, length=length)
    epochs = ps.epochs(loader, 1 + 2 * args.every)
    stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(loader)), ps.live(model), epochs)
    steps: list[float] = []  # seconds a row
    for batch, weights, _, _ in stream:
        begin = time.perf_counter()
        optimizer.zero_grad()
        losses = bert.loss(model, batch)
        (weights * losses).mean().backward()
        optimizer.step()
        steps.append((time.perf_counter() - begin) / len(weights))
        stream.observe(losses)

    trained = statistics.mean(steps[1:])
    print(
        f"{corpus.name}: {len(dataset)} rows, every={args.every}, keep={args.keep}, {args.threads} threads, torch "
        f"{torch.__version__}; a row trained: {trained * 1e3:.2f} ms"
    )
    span = args.every * len(loader)
    found: list[dict[str, Any]] = []
    for at in range(0, len(pools), span):
        rows, again, seconds, whole, _ = (sum(column) for column in zip(*pools[at : at + span], strict=True))
        agreement = statistics.median(pool[-1] for pool in pools[at : at + span])
        phi, remembered = whole / rows / trained, seconds / rows / trained
        bar = phi * (1 - args.keep) / args.every + 0.005
        first = 2 + at // len(loader)
        part = pools[at : at + span]
        found.append(
            {
                "epochs": [first, first + args.every - 1],
                "rescored": again / rows,
                "bar": bar,
                "live": spread([live / count / trained for count, _, _, live, _ in part]),
                "remembered": spread([took / count / trained for count, _, took, _, _ in part]),
                "mean": {"live": phi, "remembered": remembered},
                "rank_correlation": spread([one[-1] for one in part]),
            }
        )
        print(
            f"epochs {first} to {first + args.every - 1}: scored {again / rows:.3f} of the rows, live phi {phi:.3f}, "
            f"remembered {remembered:.4f}, bar {bar:.4f}: {'met' if remembered <= bar else 'MISSED'}; "
            f"rank correlation with live losses {agreement:.2f}"
        )
    settings = {"rows": len(dataset), "every": args.every, "keep": args.keep, "data": corpus.name}
    path = save("remembered", {"spans": found, "seconds_a_row_trained": trained}, seed=0, **settings)
    figure(path, (5,), lambda axes: draw(axes, found))


def draw(axes: Any, found: list[dict[str, Any]]) -> None:
    """Means, as the bar is one; a pool by itself is re-scored in part or not at all."""
    groups = {name: [spread([row["mean"][name]]) for row in found] for name in ("live", "remembered")}
    bars(axes, ["epochs {} to {}".format(*row["epochs"]) for row in found], groups)
    for place, row in enumerate(found):
        axes.hlines(row["bar"], place - 0.4, place + 0.4, color=COLOURS["floor"], label="" if place else "the bar")
    axes.set(ylabel="phi", title="Remembered scores, MiniLM")


if __name__ == "__main__":
    main()
