"""Random configurations of `ps.sift` against a deque and rules by hand: rows, order, weights, and resuming."""

import math
import warnings
from collections import Counter
from random import Random

import pytest
import torch

import puresift as ps
from puresift.testing.comparing import through_bytes
from tests.campaign.configurations import Configuration, configuration, sifter
from tests.campaign.model import DRAWS, Queue, fold_in
from tests.campaign.references import Prune
from tests.campaign.settings import AT_ONCE, SEED, counted, number

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def test_random_streams_are_those_of_a_deque():
    cases = number(300, 10_000)
    counts = counted(ran, cases)
    print(f"\nstreams: seed {SEED}, {cases} configurations, {dict(counts)}, 0 wrong")
    assert counts["resumed"] > cases / 5 and counts["batches"] > cases and counts["too little"] < cases / 2


def test_the_cases_of_several_processes_are_those_of_one_and_so_are_their_errors():
    cases = 2 * AT_ONCE + 1
    assert counted(marked, cases, parts=2) == counted(marked, cases, parts=1) == marked(range(cases))
    for wrong, error in ((failed, AssertionError), (warned, UserWarning)):
        with pytest.raises(error, match="case 200"):
            counted(wrong, cases, parts=2)


def marked(cases: range) -> Counter:
    return Counter({"cases": len(cases), "of this seed": sum(case * (SEED + 1) for case in cases)})


def failed(cases: range) -> Counter:
    assert 200 not in cases, "case 200"
    return Counter()


def warned(cases: range) -> Counter:
    if 200 in cases:
        warnings.warn("case 200", stacklevel=1)
    return Counter()


def test_a_loss_at_the_mean_is_not_below_it_by_hand():
    for size in range(1, 60):
        losses = [math.sqrt(0.75)] * size
        assert Prune(0.25, 64)(losses, [])[0] == [1.0] * size


def ran(cases: range) -> Counter:
    counts = Counter()
    for case in cases:
        one = configuration(Random(f"{SEED}, {case}"))
        try:
            counts += run(one)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, case {case}, {one.text}: {error}") from error
    return counts


def run(one: Configuration) -> Counter:
    """Run a stream with random stops, each of them through a file, and compare all of it with the model."""
    chance, built = Random(one.seed), sifter(one)
    template = state = built.init(ps.key(one.seed), one.pools[0])
    seen, counts, too_little = [], Counter(), False
    while True:
        stream, stopped = ps.sift(built, state, {}, ps.epochs(one.pools, one.passes)), False
        try:
            for sifted in stream:
                seen.append(sifted)
                if chance.random() < one.stops:
                    stopped = True
                    break
        except ps.SiftError as error:
            assert "before one batch was full" in str(error) and not seen, error
            too_little = True
        if not stopped:
            break
        saved = ps.state_dict(seen[-1].state if chance.random() < 0.5 else stream.state)
        state = ps.load_state_dict(template, through_bytes(saved) if chance.random() < 0.3 else saved)
        built = sifter(one)
        counts["resumed"] += 1
    infos = [sifted.info for sifted in seen] + [stream.info]
    batches = [(sifted.batch, sifted.weights) for sifted in seen]
    expected, rest = modelled(one, infos)
    assert too_little == (not expected), "a stream without a batch says so, and no other"
    assert len(batches) == len(expected), f"{len(batches)} batches, and the model has {len(expected)}"
    for place, (batch, pairs) in enumerate(zip(batches, expected, strict=True)):
        compared(one, batch, pairs, f"batch {place}")
    left = built.flush(stream.state)[1]
    assert [len(weights) for _, weights in left] == sizes(len(rest), one.batch_size), "rows that are left"
    for batch in left:
        taken, rest = rest[: len(batch[1])], rest[len(batch[1]) :]
        compared(one, batch, taken, "what is left")
    pools = len(one.pools) * one.passes
    assert int(stream.state.step) == pools, "every pool is read once"
    return counts + Counter(
        {"pools": pools, "batches": len(batches), "rows": sum(map(len, expected)), "too little": too_little}
    )


def modelled(one: Configuration, infos: list[ps.Info]):
    """The batches of the model, and the rows left in it; the odds of the infos are compared on the way."""
    probs, weights = (torch.cat([getattr(info.odds, name) for info in infos]).tolist() for name in ps.Odds._fields)
    losses = torch.cat([info.losses for info in infos]).tolist()
    masks = torch.cat([info.mask for info in infos]).tolist()
    key = (one.seed & (2**32 - 1), one.seed >> 32)
    queue = Queue(key, one.batch_size, one.window, one.lengths if one.bucket else None)
    batches, at = [], 0
    for step, pool in enumerate(one.pools * one.passes):
        rows = pool["row"].tolist()
        here, at = slice(at, at + len(rows)), at + len(rows)
        scored, p, w = odds(one, rows)
        close(losses[here], [one.losses[row] if scored else math.nan for row in rows], f"losses of pool {step}")
        close(probs[here], p, f"probabilities of pool {step}")
        close(weights[here], w, f"weights of pool {step}")
        mask = DRAWS[one.draw](fold_in(key, step), probs[here])
        assert masks[here] == mask, f"the mask of pool {step}"
        kept = zip(rows, weights[here], mask, strict=True)
        batches += queue.put((row, weight) for row, weight, one_is in kept if one_is)
    assert len(probs) == at, "each row read is in one info"
    return batches, list(queue.rows)


def odds(one: Configuration, rows: list[int]) -> tuple[bool, list[float], list[float]]:
    """Whether a pool is scored, and what its rule by hand gives; rows without a finite loss are dropped or kept."""
    scored, losses = one.reference.wants(), [one.losses[row] for row in rows]
    if not scored:
        return False, *one.reference([0.0] * len(rows), rows)
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    middle = finite[(len(finite) - 1) // 2] if finite else 0.0
    probs, weights = one.reference([loss if math.isfinite(loss) else middle for loss in losses], rows)
    for place, loss in enumerate(losses):
        if not math.isfinite(loss):
            probs[place] = 1.0 if one.nonfinite == "keep" else 0.0
            weights[place] = 1.0 if one.nonfinite == "keep" else weights[place]
    return True, probs, weights


def compared(one: Configuration, batch, pairs, at: str) -> None:
    """A batch that left against the model's rows."""
    rows, weights = batch
    assert rows["row"].tolist() == [row for row, _ in pairs], f"{at}: rows or their order"
    assert batch[1].tolist() == [weight for _, weight in pairs], f"{at}: weights"
    lengths = [one.lengths[row] for row, _ in pairs]
    assert rows["length"].tolist() == lengths and len(weights) == len(pairs), f"{at}: lengths"
    tokens, width = rows["tokens"], rows["tokens"].shape[1]
    if one.padded and (one.length or one.bucket):
        assert width == max(lengths), f"{at}: cut to {width}, and its longest row has {max(lengths)}"
    real = torch.arange(width) < rows["length"][:, None]
    assert torch.equal(tokens, torch.where(real, rows["row"][:, None], -1)), f"{at}: what is in the rows"


def sizes(rows: int, batch_size: int) -> list[int]:
    return [min(batch_size, rows - first) for first in range(0, rows, batch_size)]


def close(found: list[float], expected: list[float], at: str) -> None:
    same = [
        math.isclose(a, b, rel_tol=1e-4, abs_tol=2e-6) or (math.isnan(a) and math.isnan(b)) or a == b
        for a, b in zip(found, expected, strict=True)
    ]
    assert all(same), f"{at}: {found} and by hand {expected}"
