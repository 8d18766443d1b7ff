"""The prioritizer behind a DataLoader: epochs, prefetch, and runs that go on with the same bits."""

import functools
import io

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.utils.data import DataLoader

import puresift as ps
from tests import laws
from tests.ranks import launch

SIZE, BATCH, EPOCHS = 20, 6, 3  # the last batch of a pass is of two passes
RULE = ps.importance(keep=0.3, floor=0.2)  # its weights are not 1


def prioritizer(rule=RULE, **changes):
    return ps.prioritizer(rule, **{"size": SIZE, "batch_size": BATCH, "every": 3, "end": 0.0, **changes})


def sampler(*, seed=0, prefetch=9, sync=1, **changes):
    return ps.PrioritizedSampler(prioritizer(**changes), seed=seed, prefetch=prefetch, sync=sync)


def loader(sampler, workers=0, single=False):
    dataset = ps.with_ids(torch.arange(float(SIZE)))
    by = {"sampler": sampler.ids, "batch_size": sampler.batch_size} if single else {"batch_sampler": sampler}
    return DataLoader(dataset, **by, collate_fn=dataset.collate, num_workers=workers)


def train(sampler, values, workers=0, epochs=EPOCHS, single=False):
    """A run whose losses shrink; yields ids and weights of each batch, and where it stands after it."""
    batches = loader(sampler, workers, single)
    while sampler.epoch < epochs:
        for x, ids in batches:
            assert torch.equal(x, ids.float())
            weights = sampler.weights(ids)
            sampler.observe(ids, values[ids])
            values = values * 0.95
            yield ids, weights, sampler.state_dict(), values


def ids_of(run):
    return [ids.tolist() for ids, *_ in run]


def start():
    return torch.arange(SIZE) / SIZE


def through_bytes(flat, folder):
    file = io.BytesIO()
    torch.save(flat, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_dcp(flat, folder):
    dcp.save(flat, checkpoint_id=folder, no_dist=True)
    read = sampler(seed=1).state_dict()
    dcp.load(read, checkpoint_id=folder, no_dist=True)
    return read


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_epoch_has_each_id_once_and_later_ones_follow_the_losses(workers):
    run = list(train(sampler(), start(), workers, epochs=12))
    assert sorted(sum(ids_of(run), [])[:SIZE]) == list(range(SIZE))
    later = torch.tensor(ids_of(run[4:])).flatten().bincount(minlength=SIZE)
    assert later[SIZE // 2 :].sum() > 1.3 * later[: SIZE // 2].sum()
    assert len(run) == 12 * 4 and all(len(ids) == BATCH for ids, *_ in run)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
@pytest.mark.parametrize(("workers", "save"), [(0, through_bytes), (0, through_dcp), (2, through_bytes)])
def test_a_run_goes_on_with_the_same_bits_after_every_step(workers, save, tmp_path):
    whole = list(train(sampler(), start(), workers))
    assert len(whole) == EPOCHS * 4
    for place, (_, _, flat, values) in enumerate(whole):
        again = sampler(seed=5)
        again.load_state_dict(save(flat, tmp_path / str(place)))
        assert laws.equal(list(train(again, values, workers)), whole[place + 1 :]), f"after step {place + 1}"


def test_it_draws_what_the_stream_draws():
    one = [step[:2] for step in train(sampler(), start())]
    drawer, values, other = prioritizer(steps=12), start(), []
    stream = ps.prioritize(drawer, drawer.init(ps.key(0)), {"x": torch.arange(SIZE)})
    for batch, weights, _, _ in stream:
        ids = batch["x"]
        stream.observe(values[ids])
        values = values * 0.95
        other.append((ids, weights))
    assert laws.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_single_ids_are_the_same_batches(workers):
    one = list(train(sampler(), start(), workers))
    assert laws.equal(list(train(sampler(), start(), workers, single=True)), one)
    assert len(sampler().ids) == 4 * BATCH


@pytest.mark.parametrize("workers", [0, 2])
def test_a_break_loses_nothing(workers):
    """What was loaded ahead is handed out again, in the epoch to which it belongs."""
    ours, seen = sampler(), []
    batches = loader(ours, workers)
    for stop in (2, 1, 9):
        for place, (_, ids) in enumerate(batches):
            if place == stop:
                break
            seen.append(ids.tolist())
            ours.observe(ids, torch.ones(BATCH))
    assert len(seen) == 4 and sorted(sum(seen, [])[:SIZE]) == list(range(SIZE))
    assert ours.epoch == 1


def test_looking_at_the_first_batch_changes_nothing():
    ours = sampler()
    first = ps.peek(loader(ours))[1]
    assert torch.equal(next(train(ours, start()))[0], first)


def test_lengths():
    assert len(sampler()) == len(loader(sampler())) == 4
    assert len(sampler(size=18)) == 3
    assert len(sampler(size=2)) == 1
    assert len(sampler(steps=3)) == 3
    ours, lengths = sampler(steps=10), []
    for epoch in range(4):
        ours.set_epoch(epoch)
        lengths.append((len(ours), len(list(train(ours, start(), epochs=epoch + 1)) if len(ours) else [])))
    assert lengths == [(4, 4), (4, 4), (2, 2), (0, 0)]


def test_epochs_may_be_named_or_left_to_count_themselves():
    one, other = sampler(), sampler()
    counted = list(train(one, start()))
    named, values = [], start()
    for epoch in range(EPOCHS):
        other.set_epoch(epoch)
        named += train(other, values, epochs=epoch + 1)
        values = named[-1][-1]
    assert laws.equal(counted, named)


def test_a_batch_waits_until_it_is_observed_in_whatever_order():
    ours = sampler()
    ahead = iter(ours)
    first, second = (torch.tensor(next(ahead)) for _ in range(2))
    ours.observe(second, torch.ones(BATCH))
    assert int(ours.state_dict()["queue/count"]) == 1
    ours.observe(first.tolist(), torch.ones(BATCH))
    assert int(ours.state_dict()["queue/count"]) == 0


def test_a_sampler_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    list(ours := sampler())
    ours.state_dict()
    assert torch.equal(before, torch.get_rng_state())


def observed(ids, losses=None, **changes):
    ours = sampler(**changes)
    first = torch.tensor(next(iter(ours)))
    ours.observe(first if ids is None else ids, torch.ones(len(first)) if losses is None else losses)
    return ours, first


def twice():
    ours, first = observed(None)
    ours.observe(first, torch.ones(BATCH))


def weights_too_late():
    ours, first = observed(None)
    ours.weights(first)


def never_observed(epochs):
    ours = sampler(prefetch=epochs * 4 - 1 if epochs == 1 else 5)
    for _ in range(epochs):
        list(ours)


def two_at_once():
    ours = sampler()
    list(zip(ours, ours, strict=False))


def past_epoch():
    ours = sampler()
    ours.set_epoch(2)
    ours.set_epoch(1)


def load(saved, **changes):
    sampler(**changes).load_state_dict(saved.state_dict())


def load_into_a_shorter_queue():
    ours = sampler()
    list(ours)
    load(ours, prefetch=3)


BAD = {
    "prefetch": (lambda: sampler(prefetch=0), "prefetch must be a whole number >= 1"),
    "sync": (lambda: sampler(sync=0), "sync must be a whole number >= 1"),
    "seed": (lambda: sampler(seed=-1), "seed must be a whole number"),
    "ids out of range": (lambda: observed(torch.full((BATCH,), SIZE)), r"ids must lie in \[0, 20\), got 20"),
    "ids never handed out": (
        lambda: observed(torch.arange(BATCH)),
        r"has these ids, \[0, 1, 2, 3, ...\].*never handed",
    ),
    "part of a batch": (
        lambda: observed(torch.arange(2)),
        "these are 2 ids, and the batches handed out have 6.*size=6",
    ),
    "observed twice": (twice, "it was observed already"),
    "weights after losses": (weights_too_late, "ask for weights before observing"),
    "one loss": (lambda: observed(None, torch.tensor(1.0)), r"one loss an id, got losses \[\].*reduction=\"none\""),
    "NaN": (
        lambda: observed(None, torch.tensor([1.0] * 5 + [torch.nan])),
        "1 of 6 losses observed are NaN or infinite",
    ),
    "never observed": (
        functools.partial(never_observed, 1),
        r"3 batches were handed out.*call sampler.observe\(ids, lo",
    ),
    "never, in epochs shorter than prefetch": (functools.partial(never_observed, 3), "5 batches were handed out"),
    "two iterations": (two_at_once, "another iteration has begun"),
    "a past epoch": (past_epoch, "epoch 1 is over; go on with epoch 2"),
    "another size": (lambda: load(sampler(size=21)), "another plan, with size 21 and now 20, start 21 and now 20"),
    "another plan": (lambda: load(sampler(steps=8)), "steps 8 and now -1"),
    "another rule": (lambda: load(sampler(rule=ps.relative(keep=0.5))), "another kind: the prioritizer.*the same rule"),
    "another dtype": (
        lambda: load(sampler(dtype=torch.float16)),
        "float16.*in this prioritizer; build it with the same",
    ),
    "another state": (lambda: sampler().load_state_dict({}), "no state of a ps.PrioritizedSampler"),
    "a shorter queue": (load_into_a_shorter_queue, "4 batches wait in the state, so prefetch must be as many, not 3"),
    "a dataset without length": (lambda: ps.with_ids(iter([1])), "map-style dataset"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_words(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        make()


def test_refused_losses_change_nothing():
    ours, whole = sampler(), ids_of(train(sampler(), start()))
    first = torch.tensor(next(iter(ours)))
    with pytest.raises(ValueError, match="NaN"):
        ours.observe(first, torch.full((BATCH,), torch.nan))
    assert ids_of(train(ours, start())) == whole


@pytest.fixture(scope="module")
def answers():
    """Of one pair of processes: to start one costs seconds."""
    return launch("prioritized")["prioritized"]


def test_two_ranks_share_the_batches_of_one_process(answers):
    """No row is trained on twice, and the tables agree, with each other and with that of one process."""
    whole = list(train(sampler(), start()))
    for place, ids in enumerate(ids_of(whole)):
        shares = [answer["ids"][place] for answer in answers]
        assert shares == [ids[0::2], ids[1::2]]
    table = whole[-1][2][":PrioritizerState/losses"].tolist()
    assert answers[0]["table"] == answers[1]["table"] == table


def test_two_ranks_may_exchange_losses_less_often(answers):
    one, other = answers
    assert one["rare"] == other["rare"] != one["table"]
    assert one["resumed"] and other["resumed"]
    assert all("'waiting/" in answer["swapped"] for answer in answers)


def test_ranks_must_divide_the_batch(answers):
    assert "and 2 ranks do not divide it; pass it batch_size=8" in answers[0]["odd"]
    assert "ranks 2 and now 1" in answers[0]["alone"] or "ranks 1 and now 2" in answers[0]["alone"]
