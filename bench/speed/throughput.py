"""Candidates a second end to end, against the floor phi + k: every keep, two precisions, with and without bucketing.

    python -m bench throughput [--data FOLDER] [--seconds 270] [--threads N]

MiniLM (the minilm extra) on SST-2's or the generated reviews' real lengths, padded to the longest row of each batch, in
batches of 32. Arms: plain and sifted at four keeps, each training in float32 and in bfloat16; scores are bfloat16.
Bucketed arms train on batches of like length, sorted within windows of 8 batches: plain sorts what it reads, the sifter
what it keeps (`bucket=`), and it scores pools of 128 rows in chunks of like length; the others read pools of 32.

Arms take turns in short blocks on one model at a learning rate of 0, which costs what any other does and leaves the
model to the others as it was. A block ends when 2 batches were trained on, 8 (a window) when bucketed. Right after a
sifted block its floor is timed on the same rows: the score alone on its pools, the training step alone on its batches.

    cost   seconds a candidate, over the plain arm's of that round; k: the share kept in that block
    phi    the score alone, in the same unit
    floor  (score alone + steps alone), which is phi + k with the kept rows' own lengths

`cost / (phi + k)` compares with rows of the plain arm's average length; `cost / floor` with the very rows. Where kept
rows are longer than others, as hard sentences are, the first is above the second. Rates are those at the planned keep.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import puresift as ps
from bench.loops import Batch, Fresh, Trainer
from bench.measure import COLOURS, Spread, bytes_of, clock, device, figure, line, save, spread
from models import bert, data
from puresift.trials import peak

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"
KEEPS, BATCH, WINDOW, POOL, LONGEST, ENDLESS = (0.25, 0.33, 0.5, 0.67), 32, 8, 128, 64, 1_000_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOST = 9  # rounds


def length(batch: Batch) -> Tensor:
    return batch["attention_mask"].sum(1)


class Recorded:
    """Pools for ever, and those read since the last look."""

    def __init__(self, pools: list[Batch]):
        self.pools, self.seen = pools, list[Batch]()

    def __iter__(self) -> Iterator[Batch]:
        for pool in self.pools:
            self.seen.append(pool)
            yield pool

    def __len__(self) -> int:
        return len(self.pools)


class Arm(NamedTuple):
    dtype: str
    bucketed: bool
    keep: float  # 1: plain

    @property
    def steps(self) -> int:
        return WINDOW if self.bucketed else 2


def collated(dataset: data.Sentences, seed: int, size: int, *, bucketed: bool) -> list[Batch]:
    """The rows in one order, in batches padded to their longest row; bucketed, sorted within windows."""
    order = random.Random(seed).sample(range(len(dataset)), len(dataset))
    if bucketed:
        windows = [order[at : at + WINDOW * BATCH] for at in range(0, len(order), WINDOW * BATCH)]
        order = [row for window in windows for row in sorted(window, key=lambda row: len(dataset.tokens[row]))]
    cuts = [order[at : at + size] for at in range(0, len(order) - size + 1, size)]
    batches = (data.collate([dataset[row] for row in cut], pad_id=dataset.pad_id) for cut in cuts)
    return [{name: leaf.to(device()) for name, leaf in batch.items()} for batch in batches]


def sifting(model: nn.Module, pools: Iterable[Batch], first: Batch, keep: float, pad_id: int, *, bucketed: bool) -> Any:
    """The score, and a stream over the pools for ever."""
    pads = {"input_ids": ps.Pad(pad_id, LONGEST), "attention_mask": ps.Pad(0, LONGEST)}
    score = ps.autocast(ps.batched(model, bert.loss))
    if bucketed:
        score = ps.chunked(score, BATCH, length=length, pad=pads)
    # Systematic draws keep the planned count of every pool, give or take one, so that blocks are alike.
    more: dict[str, Any] = {"bucket": length, "window": WINDOW} if bucketed else {"length": length}
    rule = ps.relative(keep=keep, history=1_024)
    sifter = ps.sifter(score, rule, batch_size=BATCH, draw=ps.systematic, pad=pads, **more)
    stream = ps.sift(sifter, sifter.init(ps.key(0), first), ps.live(model), ps.epochs(pools, ENDLESS), skip=0)
    return score, stream


def measure(
    model: nn.Module, train: dict[str, Trainer], dataset: data.Sentences, seed: int, seconds: float, least: int
) -> dict[Arm, dict[str, list[float]]]:
    """Seconds and counts of each arm in each round."""
    live = ps.live(model)
    plain = {bucketed: collated(dataset, seed, BATCH, bucketed=bucketed) for bucketed in (False, True)}
    pools = {False: plain[False], True: collated(dataset, seed, POOL, bucketed=False)}
    places = {(dtype, bucketed): 0 for dtype in DTYPES for bucketed in (False, True)}
    arms = [Arm(dtype, bucketed, keep) for bucketed in (False, True) for dtype in DTYPES for keep in (1.0, *KEEPS)]
    sources = {arm: Recorded(pools[arm.bucketed]) for arm in arms}
    streams = {
        arm: sifting(model, sources[arm], pools[arm.bucketed][0], arm.keep, dataset.pad_id, bucketed=arm.bucketed)
        for arm in arms
        if arm.keep < 1
    }
    found: dict[Arm, dict[str, list[float]]] = {
        arm: {name: [] for name in ("cost", "phi", "floor", "k", "rate", "seconds")} for arm in arms
    }

    def plain_block(arm: Arm) -> float:
        """Seconds a row of the next window of batches."""
        batches, at = plain[arm.bucketed], places[arm.dtype, arm.bucketed]
        count = WINDOW if arm.bucketed else 4
        chosen = [batches[(at + step) % len(batches)] for step in range(count)]
        places[arm.dtype, arm.bucketed] = (at + count) % len(batches)
        begun = clock()
        for batch in chosen:
            train[arm.dtype](batch)
        return (clock() - begun) / (count * BATCH)

    def sifted_block(arm: Arm) -> tuple[float, float, float, float]:
        """Seconds a candidate of all, of the score alone, of the steps alone; the share kept."""
        score, stream = streams[arm]
        taken: list[tuple[Batch, Tensor]] = []
        sources[arm].seen.clear()
        begun = clock()
        for _ in range(arm.steps):
            batch, weights, _, _ = next(stream)
            train[arm.dtype](batch, weights)
            taken.append((batch, weights))
        whole = clock() - begun
        candidates = sum(len(pool["labels"]) for pool in sources[arm].seen)
        params = live()
        begun = clock()
        for pool in sources[arm].seen:
            score(params, pool)
        middle = clock()
        for batch, _ in taken:
            train[arm.dtype](batch)
        end = clock()
        parts = whole, middle - begun, end - middle, len(taken) * BATCH
        return tuple(part / candidates for part in parts)  # type: ignore[return-value]

    for dtype in DTYPES:  # first calls
        train[dtype](plain[False][0])
    streams[arms[1]][0](live(), plain[False][0])
    begun = time.perf_counter()
    for number in range(MOST):
        unit = 0.0
        for arm in arms:
            if arm.keep == 1:
                unit = plain_block(arm)
                row = {"cost": 1.0, "phi": 0.0, "floor": 1.0, "k": 1.0, "rate": 1 / unit, "seconds": unit}
            else:
                whole, alone, steps, kept = sifted_block(arm)
                cost = whole / unit
                row = {"cost": cost, "phi": alone / unit, "floor": (alone + steps) / unit, "k": kept}
                row |= {"rate": 1 / (whole + (arm.keep - kept) * unit), "seconds": whole}
            for name, value in row.items():
                found[arm][name].append(value)
        spent = time.perf_counter() - begun
        if number + 1 >= least and spent * (number + 2) / (number + 1) > seconds:
            break
    return found


def summary(found: dict[Arm, dict[str, list[float]]]) -> list[dict[str, Any]]:
    table = []
    for arm, series in found.items():
        unbucketed = found[arm._replace(bucketed=False)]
        same = found[arm._replace(keep=1.0)]
        row: dict[str, Any] = {**arm._asdict(), **{name: spread(values) for name, values in series.items()}}
        row["at_plan"] = divided(same["rate"], series["rate"])  # the cost with exactly the planned keep
        row["over_floor"] = divided(series["cost"], series["floor"])
        row["over_phi_plus_k"] = divided(
            series["cost"], [p + k for p, k in zip(series["phi"], series["k"], strict=True)]
        )
        row["over_unbucketed"] = divided(series["rate"], unbucketed["rate"])
        table.append(row)
    return table


def pooled(found: dict[Arm, dict[str, list[float]]], name: str, unit: str) -> Spread:
    """The ratio over all sifted blocks together, with a 95 % interval of its median, by bootstrap."""
    dice = random.Random(0)
    ratios = [
        one / other
        for arm, series in found.items()
        if arm.keep < 1
        for one, other in zip(series[name], series[unit], strict=True)
    ]
    medians = sorted(statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(2_000))
    return {**spread(ratios), "interval_low": medians[50], "interval_high": medians[-50]}


def divided(ones: list[float], others: list[float]) -> Spread:
    return spread([one / other for one, other in zip(ones, others, strict=True)])


def memory(model: nn.Module, train: Trainer, dataset: data.Sentences, seed: int) -> dict[str, float]:
    """Peak megabytes of a plain and a sifted run, on rows padded to the full length so that both train on one shape."""
    pools = collated(dataset, seed, BATCH, bucketed=False)[:8]
    pads = {"input_ids": ps.Pad(dataset.pad_id, LONGEST), "attention_mask": ps.Pad(0, LONGEST)}
    wide = Fresh({name: widened(leaf, pads.get(name)) for name, leaf in pool.items()} for pool in pools)

    def plain() -> None:
        for batch in itertools.islice(wide, 2):
            train(batch)

    def sifted() -> None:
        rule = ps.relative(keep=0.5, history=1_024)
        sifter = ps.sifter(ps.autocast(ps.batched(model, bert.loss)), rule, batch_size=BATCH)
        stream = ps.sift(sifter, sifter.init(ps.key(0), wide[0]), ps.live(model), ps.epochs(wide, ENDLESS))
        for batch, weights, _, _ in itertools.islice(stream, 2):
            train(batch, weights)

    most = {}
    for name, run in (("plain", plain), ("sifted", sifted)):
        train.fresh()  # each makes its gradients and its optimizer's state itself
        most[name] = peak(run, device()) / 1e6
    buffer = bytes_of(ps.empty(wide[0], batch_size=BATCH)) / 1e6
    return {**most, "buffer": buffer, "plain_plus_three_buffers": most["plain"] + 3 * buffer}


def widened(leaf: Tensor, pad: ps.Pad | None) -> Tensor:
    return nn.functional.pad(leaf, (0, pad.length - leaf.shape[1]), value=pad.value) if pad else leaf


def show(table: list[dict[str, Any]]) -> None:
    print(
        f"{'training':9} {'bucket':>6} {'keep':>5} {'cand./s':>8} {'cost':>6} {'quartiles':>15} {'k':>5} {'phi':>5} "
        f"{'cost/(phi+k)':>12} {'cost/floor':>10} {'at plan':>8} {'x unbucketed':>12}"
    )
    for row in table:
        name = "plain" if row["keep"] == 1 else f"{row['keep']:g}"
        cost, middle = row["cost"], {key: row[key]["median"] for key in row if isinstance(row[key], dict)}
        print(
            f"{row['dtype']:9} {'yes' if row['bucketed'] else 'no':>6} {name:>5} {middle['rate']:8.1f} "
            f"{cost['median']:6.3f} [{cost['low']:6.3f} {cost['high']:6.3f}] {middle['k']:5.3f} {middle['phi']:5.3f} "
            f"{middle['over_phi_plus_k']:12.3f} {middle['over_floor']:10.3f} {middle['at_plan']:8.3f} "
            f"{middle['over_unbucketed']:12.2f}"
        )


def draw(table: list[dict[str, Any]], cost: Any, rate: Any) -> None:
    shades = {"float32": COLOURS["ours"], "bfloat16": COLOURS["wrapper"]}
    for dtype, shade in shades.items():
        for bucketed in (False, True):
            rows = [row for row in table if (row["dtype"], row["bucketed"]) == (dtype, bucketed)]
            sifted = [row for row in rows if row["keep"] < 1]
            keeps = [row["keep"] for row in sifted]
            name = f"{dtype}, bucketed" if bucketed else dtype
            line(rate, keeps, [row["rate"] for row in sifted], name, shade, "s--" if bucketed else "o-")
            plain = next(row["rate"]["median"] for row in rows if row["keep"] == 1)
            rate.plot(1.0, plain, "s" if bucketed else "o", color=shade, mfc="white" if bucketed else shade)
            if not bucketed:
                line(cost, keeps, [row["at_plan"] for row in sifted], f"measured, trains in {dtype}", shade, "o")
                floor = [row["keep"] + row["phi"]["median"] for row in sifted]
                cost.plot(keeps, floor, ":", color=shade, label=f"phi + k, {dtype}")
    cost.axhline(1, color=COLOURS["plain"], linewidth=1)
    cost.annotate("plain", (KEEPS[0], 1), xytext=(0, 4), textcoords="offset points", color=COLOURS["plain"])
    cost.set(xlabel="keep", ylabel="cost a candidate, in plain ones", title="Cost against the floor", ylim=(0, None))
    rate.set(xlabel="keep (1: plain)", ylabel="candidates a second", title="Throughput", ylim=(0, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(SST2) if SST2.is_dir() else None, help="a folder or TSV file of reviews")
    parser.add_argument("--seconds", type=float, default=270, help="for the rounds, whose number adapts")
    parser.add_argument("--least", type=int, default=3, help="rounds, however long they take")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    corpus = data.load(args.data)
    model, tokenize, pad_id, _ = bert.build("minilm", [], seed=args.seed, max_length=LONGEST)
    model = model.to(device())
    dataset = data.Sentences(corpus.train[: args.rows], tokenize, pad_id=pad_id)
    train = {name: Trainer(model, bert.loss, dtype) for name, dtype in DTYPES.items()}
    rounds = measure(model, train, dataset, args.seed, args.seconds, args.least)
    table, most = summary(rounds), memory(model, train["float32"], dataset, args.seed)
    number = table[0]["rate"]["n"]
    print(f"MiniLM on {corpus.name}, batches of {BATCH}, {args.threads} threads, medians of {number} rounds")
    show(table)
    all_over = pooled(rounds, "cost", "floor")
    print(
        f"all {all_over['n']} sifted blocks: cost/floor {all_over['median']:.3f} "
        f"[{all_over['low']:.3f} {all_over['high']:.3f}], "
        f"95 % interval of the median {all_over['interval_low']:.3f} to {all_over['interval_high']:.3f}"
    )
    print(
        f"peak memory of tensors [MB]: plain {most['plain']:.2f}, sifted {most['sifted']:.2f}, "
        f"plain + 3 buffers of {most['buffer']:.2f}: {most['plain_plus_three_buffers']:.2f}"
    )
    settings = {"batch": BATCH, "window": WINDOW, "pool_bucketed": POOL, "rows": len(dataset), "data": corpus.name}
    result = {"table": table, "all_over_floor": all_over, "memory_megabytes": most}
    path = save("throughput", result, seed=args.seed, rounds=number, **settings)
    figure(path, (5.5, 5.5), lambda *axes: draw(table, *axes))


if __name__ == "__main__":
    main()
