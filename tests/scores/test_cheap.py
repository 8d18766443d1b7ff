"""Cheaper scores rank as the dear ones do."""

import pytest
import torch
import transformers
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, data, net


def test_autocast_is_blind_to_an_outer_region():
    model, batch = net(norm=False), data(64).tensors
    plain = ps.batched(model, cross_entropy)
    half = ps.autocast(plain, torch.bfloat16)
    alone = half(ps.live(model), batch)
    assert alone.dtype == torch.float32
    assert not torch.equal(alone, plain(ps.live(model), batch)), "bfloat16 must have been used"
    with torch.autocast("cpu", torch.bfloat16):
        first = half(ps.live(model), batch)
        with torch.no_grad():
            model[0].weight.mul_(1.5)
        assert not torch.equal(half(ps.live(model), batch), first), "a stale cast weight was used"
        exact = ps.autocast(plain, torch.float32)(ps.live(model), batch)
    assert torch.equal(first, alone)
    assert torch.equal(exact, plain(ps.live(model), batch))


def test_autocast_refuses_other_dtypes():
    with pytest.raises(ValueError, match=r"torch.float32, torch.bfloat16 or torch.float16, got torch.int8"):
        ps.autocast(lambda params, batch: batch, torch.int8)


def ragged(rows=13, width=12):
    noise = ps.keys.uniform(ps.key(0), rows)
    length = (noise * width).long().clamp(min=1)
    mask = (torch.arange(width) < length[:, None]).long()
    return {"ids": mask * 5, "mask": mask}


def test_chunks_sorted_by_length_give_the_same_losses_and_are_cut():
    widths = []

    def score(params, batch):
        widths.append(batch["ids"].shape[1])
        return batch["ids"].sum(1).float()

    pads = {name: ps.Pad(0, 12) for name in ("ids", "mask")}
    batch = ragged()
    cut = ps.chunked(score, 4, length=lambda batch: batch["mask"].sum(1), pad=pads)
    assert torch.equal(cut({}, batch), batch["ids"].sum(1).float())
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == int(batch["mask"].sum(1).max())


def test_chunks_bound_the_rows_of_a_forward():
    sizes = []

    def score(params, batch):
        sizes.append(len(batch))
        return batch

    assert torch.equal(ps.chunked(score, 4)({}, torch.arange(10.0)), torch.arange(10.0))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"size": 0}, "size must be a whole number >= 1"), ({"size": 2, "length": len}, "length= and pad= together")],
)
def test_bad_chunks_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ps.chunked(lambda params, batch: batch, **settings)


def test_the_beginning_of_a_row_is_all_that_is_scored():
    pads = {"input_ids": ps.Pad(0, 8), "attention_mask": ps.Pad(0, 8)}
    seen = []

    def score(params, batch):
        seen.append({name: list(leaf.shape) for name, leaf in batch.items()})
        return batch["input_ids"].sum(1).float()

    short = ps.truncated(score, 3, pad=pads)
    batch = {"input_ids": torch.ones(2, 8), "attention_mask": torch.ones(2, 8), "labels": torch.zeros(2)}
    assert short({}, batch).tolist() == [3, 3]
    assert seen == [{"input_ids": [2, 3], "attention_mask": [2, 3], "labels": [2]}]
    assert short({}, {**batch, "input_ids": torch.ones(2, 2)}).tolist() == [2, 2], "short rows are whole"
    whole = ps.truncated(score, 8, pad=pads)
    assert torch.equal(whole({}, batch), score({}, batch))


@pytest.mark.parametrize(
    ("width", "pad", "words"),
    [
        (0, {"x": ps.Pad(0, 8)}, "width must be a whole number >= 1"),
        (2, {}, "pad must name the leaves"),
        (2, {"y": ps.Pad(0, 8)}, "pad names y, which the batch has not"),
    ],
)
def test_a_bad_cut_is_refused(width, pad, words):
    with pytest.raises(ValueError, match=words):
        ps.truncated(lambda params, batch: batch["x"].sum(1), width, pad=pad)({}, {"x": torch.ones(2, 4)})


def test_fastest_measures_and_admits_by_rank():
    model, batch = nn.Linear(4, 1), torch.randn(16, 4)
    score = ps.batched(model, lambda model, x: model(x)[:, 0])

    def slow(params, batch):
        for _ in range(200):
            values = score(params, batch)
        return values

    cheap_but_wrong = lambda params, batch: torch.zeros(16)  # noqa: E731
    broken = lambda params, batch: torch.full((16,), torch.nan)  # noqa: E731
    scores = {"reference": slow, "same": score, "wrong": cheap_but_wrong, "broken": broken}
    choice = ps.fastest(scores, ps.live(model), batch)
    assert choice.name == "same"
    assert choice.score is score
    assert choice.agreement["same"] == 1.0
    assert choice.agreement["wrong"] < 0.99
    assert choice.seconds["same"] < choice.seconds["reference"]


def test_fastest_refuses_nothing_to_choose_from_and_a_broken_reference():
    with pytest.raises(ValueError, match="at least one score"):
        ps.fastest({}, {}, torch.zeros(2))
    with pytest.raises(ValueError, match="compared with, gives losses that are not finite"):
        ps.fastest({"reference": lambda params, batch: batch / 0}, {}, torch.zeros(2))


def counted(score, backend="aot_eager", **settings):
    """A compiled score, and what counts its frames."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    return counter, ps.compiled(score, backend=counter, **settings)


def bert():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, num_labels=2, **sizes))


def sentences(rows, width):
    lengths = (ps.keys.uniform(ps.key(rows), rows) * width).long() + 1
    mask = (torch.arange(width) < lengths[:, None]).long()
    ids = (ps.keys.uniform(ps.key(width), rows * width).reshape(rows, width) * 50).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.arange(rows) % 2}


def reading(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="none")


TEXT = {"input_ids": ps.Pad(0, 40), "attention_mask": ps.Pad(0, 40)}
POOLS = [(8, 16), (8, 16), (8, 24), (5, 11), (16, 40), (2, 3), (1, 7), (3, 1)]  # rows, width; the last pools are short


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"pad": TEXT}, 1),
        ({}, 3),  # an undeclared width is a symbol from the second one on, and a width of one is special
        ({"pad": TEXT, "pad_to": 8}, 1),
        ({"pad": TEXT, "dynamic": False}, 3),  # rungs of 16: 16x16, 16x32 and 16x40, for a leaf stays within its length
    ],
    ids=["declared", "undeclared", "rounded", "static"],
)
def test_pools_of_all_sizes_share_few_frames(settings, frames):
    model = bert()
    score, params = ps.batched(model, reading), ps.live(model)
    counter, fast = counted(score, "eager", **settings)  # frames are those of any backend, in half the time
    for rows, width in POOLS:
        pool = sentences(rows, width)
        with laws.untouched(pool, params()):
            losses = fast(params, pool)
        torch.testing.assert_close(losses, score(params, pool), rtol=1e-4, atol=1e-5)
        assert not any(hasattr(leaf, "_dynamo_weak_dynamic_indices") for leaf in pool.values()), "the caller's tensors"
    assert counter.frame_count <= frames


@pytest.mark.parametrize("own", [False, True], ids=["compiled", "torch.compile"])
def test_compiled_scores_are_those_of_the_newest_parameters(own):
    model, batch = net(), data(16).tensors
    score = ps.batched(model, cross_entropy)
    counter, fast = counted(score)
    fast = torch.compile(score, backend=counter) if own else fast
    live = lambda: dict(ps.live(model)) if own else ps.live(model)  # noqa: E731
    fast(live(), batch)
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    torch.testing.assert_close(fast(live(), batch), score(live(), batch))
    other = ps.live(net(7))()
    torch.testing.assert_close(fast(other, batch), score(other, batch))
    assert counter.frame_count == 1


@pytest.mark.parametrize("inside", [True, False], ids=["compiled(autocast)", "autocast(compiled)"])
def test_compiled_and_autocast_go_together(inside):
    model, batch = net(norm=False), data(24).tensors
    plain, params = ps.batched(model, cross_entropy), ps.live(model)
    counter, fast = counted(ps.autocast(plain, torch.bfloat16) if inside else plain)
    fast = fast if inside else ps.autocast(fast, torch.bfloat16)
    half = ps.autocast(plain, torch.bfloat16)(params, batch)
    for _ in range(2):
        assert torch.equal(fast(params, batch), half)
        assert not torch.equal(half, plain(params, batch)), "bfloat16 must have been used"
        with torch.no_grad():
            model[0].weight.mul_(1.5)
        half = ps.autocast(plain, torch.bfloat16)(params, batch)
    assert torch.equal(fast(params, batch), half), "a stale cast weight was used"
    assert counter.frame_count == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(params, batch), half)
    assert counter.frame_count <= 2, "a region outside costs a graph, and no more"


def test_chunks_and_memory_go_around_a_compiled_score():
    model, params = bert(), ps.live(bert())
    score = ps.batched(model, reading)
    counter, fast = counted(score, pad=TEXT)
    length = lambda batch: batch["attention_mask"].sum(1)  # noqa: E731
    cut = ps.chunked(fast, 4, length=length, pad=TEXT)
    memory = ps.remembered(fast, 100, every=3, id=lambda batch: torch.arange(len(batch["labels"])))
    state = memory.init()
    for rows in (13, 16, 9):
        pool = sentences(rows, 24)
        torch.testing.assert_close(cut(params, pool), score(params, pool), rtol=1e-4, atol=1e-5)
        state, _ = memory.apply(state, params, pool)
    assert counter.frame_count == 1


def test_many_compiled_scores_keep_their_graphs():
    """By itself torch counts them as one function, and gives up at the ninth."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    batch = data(8).tensors
    for seed in range(10):
        model = nn.Linear(4, 3)
        score = ps.batched(model, lambda model, batch, seed=seed: (seed + 2) * cross_entropy(model, batch))
        fast = ps.compiled(score, backend=counter)
        torch.testing.assert_close(fast(ps.live(model), batch), score(ps.live(model), batch))
    assert counter.frame_count == 10


def test_objects_and_empty_pools_do_not_reach_the_compiler():
    score = lambda params, batch: batch["x"] * 2  # noqa: E731
    counter, fast = counted(score)
    for rows in (3, 2, 1):
        assert fast({}, {"x": torch.ones(rows), "text": ["word"] * rows}).tolist() == [2.0] * rows
    assert counter.frame_count == 1
    assert fast({}, {"x": torch.ones(0)}).shape == (0,)


def test_a_bad_ladder_is_refused():
    with pytest.raises(ValueError, match="pad_to must be a whole number >= 1, got 0"):
        ps.compiled(lambda params, batch: batch, pad_to=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_inductor_agrees(mode):
    torch._dynamo.reset()
    model = bert()
    score, params = ps.batched(model, reading), ps.live(model)
    fast = ps.compiled(score, pad=TEXT, mode=mode)
    kept = [(fast(params, sentences(*size)), score(params, sentences(*size))) for size in POOLS]
    for losses, expected in kept:
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
