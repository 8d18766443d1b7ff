"""Each rule against a reading of its formula in plain Python, on recorded loss streams."""

import math
from random import Random

import pytest
import torch

import puresift as ps

HISTORY = 20


def recorded():
    """Streams of pools, each the first to meet an empty history; float32 values, as a rule sees them."""
    dice = Random(7)
    streams = {
        "falling": [[dice.expovariate(1.0) * 0.9**t for _ in range(8)] for t in range(6)],
        "ties": [[float(dice.randrange(3)) for _ in range(7)] for _ in range(5)],
        "constant": [[0.7] * 6 for _ in range(4)],
        "zero": [[0.0] * 5 for _ in range(3)],
        "heavy tails": [[dice.paretovariate(0.5) for _ in range(8)] for _ in range(5)],
        "one sample": [[dice.random()] for _ in range(9)],
        "uneven pools": [[dice.random() for _ in range(n)] for n in (9, 1, 20, 3)],
    }
    return {name: [torch.tensor(pool).tolist() for pool in pools] for name, pools in streams.items()}


STREAMS = recorded()


def owned(losses, x):
    """The ranks that a loss owns in [0, 1], and whether it is alone there."""
    below, equal, n = sum(y < x for y in losses), losses.count(x), len(losses)
    return below / n, (below + equal) / n, equal == 1


def mean_power(low, high, alone, beta):
    """((low + high) / 2) ** beta, or the mean of u ** beta over [low, high]."""
    return ((low + high) / 2) ** beta if alone else (high ** (beta + 1) - low ** (beta + 1)) / (beta + 1) / (high - low)


def overlap(low, high, left, right):
    return max(0.0, min(high, right) - max(low, left)) / (high - low)


def solved(scores, total):
    """min(1, c * s) that sum to the total, by bisection; rows of score 0 share what is left."""
    positive = sum(s > 0 for s in scores)
    if positive <= total:
        rest = (total - positive) / (len(scores) - positive) if positive < len(scores) else 0
        return [1.0 if s > 0 else rest for s in scores]
    low, high = 0.0, total / min(s for s in scores if s > 0)
    for _ in range(300):
        c = (low + high) / 2
        low, high = (c, high) if math.fsum(min(1, c * s) for s in scores) < total else (low, c)
    return [min(1.0, high * s) for s in scores]


def uniform(past, pool):
    return [0.3] * len(pool), [1.0] * len(pool)


def top(past, pool):
    """The keep * B largest; ties at the boundary share."""
    return [overlap(*owned(pool, x)[:2], 1 - 0.4, 1) for x in pool], [1.0] * len(pool)


def relative(past, pool, beta=3.0):
    seen = (past + pool)[-HISTORY:]
    return [mean_power(*owned(seen, x), beta) for x in pool], [1.0] * len(pool)


def relative_window(past, pool):
    return [mean_power(*owned(pool, x), 3.0) for x in pool], [1.0] * len(pool)


def cut(past, pool, low, high):
    seen = (past + pool)[-HISTORY:]
    return [overlap(*owned(seen, x)[:2], low, high) for x in pool], [1.0] * len(pool)


def value(past, pool):
    return [float(x > 0.5) for x in pool], [1.0] * len(pool)


def prune(past, pool, ratio=0.6):
    """InfoBatch: dropped with probability r below the mean; kept ones among them weigh 1 / (1 - r)."""
    seen = (past + pool)[-HISTORY:]
    average = math.fsum(seen) / len(seen)
    return [1 - ratio if x < average else 1.0 for x in pool], [1 / (1 - ratio) if x < average else 1.0 for x in pool]


def importance(past, pool, keep=0.4, floor=0.1, bias=1.0):
    """Katharopoulos & Fleuret, their p = s / sum(s) mixed with uniform, as inclusion probabilities."""
    total = math.fsum(pool)
    share = [x / total if total else 1 / len(pool) for x in pool]
    p = solved([(1 - floor) * s + floor / len(pool) for s in share], keep * len(pool))
    return p, [(keep / q) ** bias if q else 1.0 for q in p]


def importance_mean(past, pool, keep=0.4, floor=0.3):
    """Relative to the mean of the last scores, clipped at 1."""
    seen = (past + pool)[-HISTORY:]
    average = math.fsum(seen) / len(seen)
    p = [min(1.0, keep * ((1 - floor) * (x / average if average else 1.0) + floor)) for x in pool]
    return p, [keep / q for q in p]


def composer(pool, keep):
    """Their rank weights, normalised; rows that tie share."""
    n = len(pool)
    weights = [((i + 0.5) / n) ** (1 / keep - 1) for i in range(n)]
    weights = [w / math.fsum(weights) for w in weights]
    ordered = sorted(pool)
    return [math.fsum(w for w, y in zip(weights, ordered, strict=True) if y == x) / pool.count(x) for x in pool]


def ranked(past, pool, keep=0.3):
    return solved(composer(pool, keep), keep * len(pool)), [1.0] * len(pool)


RULES = {
    "uniform": (lambda: ps.uniform(keep=0.3), uniform),
    "top": (lambda: ps.top(keep=0.4), top),
    "relative": (lambda: ps.relative(beta=3.0, history=HISTORY), relative),
    "relative-half": (lambda: ps.relative(keep=0.5, history=HISTORY), lambda past, pool: relative(past, pool, 1.0)),
    "relative-window": (lambda: ps.relative(beta=3.0, history=HISTORY, drift="window"), relative_window),
    "threshold": (lambda: ps.threshold(quantile=0.7, history=HISTORY), lambda past, pool: cut(past, pool, 0.7, 1)),
    "threshold-value": (lambda: ps.threshold(0.5), value),
    "band": (lambda: ps.band(0.2, high=0.85, history=HISTORY), lambda past, pool: cut(past, pool, 0.2, 0.85)),
    "prune": (lambda: ps.prune(ratio=0.6, history=HISTORY), prune),
    "importance": (lambda: ps.importance(keep=0.4), importance),
    "importance-pure": (
        lambda: ps.importance(keep=0.7, floor=0.0, bias=0.5),
        lambda past, pool: importance(past, pool, 0.7, 0.0, 0.5),
    ),
    "importance-mean": (lambda: ps.importance(keep=0.4, floor=0.3, history=HISTORY), importance_mean),
    "importance-all": (lambda: ps.importance(keep=1.0), lambda past, pool: importance(past, pool, 1.0)),
    "ranked": (lambda: ps.ranked(keep=0.3), ranked),
    "ranked-mild": (lambda: ps.ranked(keep=0.8), lambda past, pool: ranked(past, pool, 0.8)),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_formula(name, stream):
    make, formula = RULES[name]
    rule, past = make(), []
    state = rule.init()
    for pool in STREAMS[stream]:
        state, odds = rule.select(state, torch.tensor(pool))
        probs, weights = formula(past, pool)
        assert odds.probs.tolist() == pytest.approx(probs, abs=1e-5)
        assert odds.weights.tolist() == pytest.approx(weights, rel=1e-5)
        past += pool


@pytest.mark.parametrize("stream", STREAMS)
def test_relative_lies_between_the_strict_and_the_inclusive_percentile(stream):
    """SelectiveBackprop and SageMaker: CDF ** beta, CDF = #(history < loss) / n, the pool appended before ranking."""
    rule, past = ps.relative(beta=3.0, history=HISTORY), []
    state = rule.init()
    for pool in STREAMS[stream]:
        state, odds = rule.select(state, torch.tensor(pool))
        past += pool
        for x, p in zip(pool, odds.probs.tolist(), strict=True):
            low, high, _ = owned(past[-HISTORY:], x)
            assert low**3 - 1e-6 <= p <= high**3 + 1e-6


@pytest.mark.parametrize(
    ("beta", "percent"),
    [(0.1, 90.91), (0.25, 80), (0.5, 66.67), (1, 50), (2, 33.33), (3, 25), (10, 9.09), (100, 0.99)],
)
def test_relative_keeps_what_the_published_table_says(beta, percent):
    _, odds = ps.relative(beta=beta).select(ps.relative(beta=beta).init(), torch.arange(1024.0))
    assert 100 * float(odds.probs.mean()) == pytest.approx(percent, abs=0.02)


def test_ranked_is_composers_weights_where_no_row_is_certain():
    pool = STREAMS["falling"][0]
    _, odds = ps.ranked(keep=0.5).select(ps.ranked(keep=0.5).init(), torch.tensor(pool))
    assert (odds.probs / odds.probs.sum()).tolist() == pytest.approx(composer(pool, 0.5), abs=1e-6)


def test_importance_is_the_original_up_to_the_number_of_draws():
    """p = s / sum(s) and w = 1 / (B p): where no row is certain, ours are keep * B times and keep / (keep * B) them."""
    pool = [1.0, 2.0, 3.0, 4.0]
    rule = ps.importance(keep=0.5, floor=0.0)
    _, odds = rule.select(rule.init(), torch.tensor(pool))
    original = [x / sum(pool) for x in pool]
    assert odds.probs.tolist() == pytest.approx([2 * p for p in original], abs=1e-6)
    assert odds.weights.tolist() == pytest.approx([1 / (4 * p) for p in original], rel=1e-6)


@pytest.mark.parametrize("stream", STREAMS)
def test_age_weighted_ranks(stream):
    rule = ps.relative(beta=2.0, history=HISTORY, drift="age")
    state, past = rule.init(), []
    for pool in STREAMS[stream]:
        state, odds = rule.select(state, torch.tensor(pool))
        past = [(x, age + len(pool)) for x, age in past] + [(x, 0) for x in pool]
        seen = [(x, math.exp(-4 * age / HISTORY)) for x, age in past[-HISTORY:]]
        whole = math.fsum(w for _, w in seen)
        for x, p in zip(pool, odds.probs.tolist(), strict=True):
            below, equal = (
                math.fsum(w for y, w in seen if sign(y, x)) / whole for sign in (float.__lt__, float.__eq__)
            )
            alone = sum(y == x for y, _ in seen) == 1
            assert p == pytest.approx(mean_power(below, below + equal, alone, 2.0), abs=1e-5)


@pytest.mark.parametrize("stream", STREAMS)
def test_ranks_in_units_of_the_running_scale(stream):
    rule = ps.relative(beta=2.0, history=HISTORY, drift="scale")
    state, past, units = rule.init(), [], []
    for pool in STREAMS[stream]:
        state, odds = rule.select(state, torch.tensor(pool))
        fade = math.exp(-8 * len(pool) / HISTORY)
        past = [(x, w * fade) for x, w in past] + [(x, 1.0) for x in pool]
        mass = math.fsum(w for _, w in past)
        location = math.fsum(w * x for x, w in past) / mass
        scale = math.sqrt(math.fsum(w * (x - location) ** 2 for x, w in past) / mass)
        scale = 0 if scale < 1e-9 * abs(location) else scale
        new = [(x - location) / scale if scale else 0.0 for x in pool]
        units += torch.tensor(new).tolist()
        seen = [round(u, 5) for u in units[-HISTORY:]]  # ties are ties, whatever the last bit of a unit
        for u, p in zip(seen[-len(pool) :], odds.probs.tolist(), strict=True):
            assert p == pytest.approx(mean_power(*owned(seen, u), 2.0), abs=1e-5)


def test_drift_is_made_up_for():
    """Losses that halve every 8 pools: plain ranks keep too little, each of the three others about the plan."""
    kept = {}
    for drift in (None, "window", "age", "scale"):
        rule = ps.relative(keep=0.5, history=512, drift=drift)
        state, planned = rule.init(), []
        for t in range(64):
            state, odds = rule.select(state, ps.keys.uniform(ps.key(t), 64) * 0.5 ** (t / 8))
            planned.append(float(odds.probs.mean()))
        kept[drift] = sum(planned[32:]) / 32
    assert kept[None] < 0.41
    assert kept[None] + 0.03 < kept["age"] < 0.5
    assert kept["window"] == pytest.approx(0.5, abs=0.005)
    assert kept["scale"] == pytest.approx(0.5, abs=0.03)
