"""States that are dealt out to another number of ranks: nothing is lost, nothing comes twice, and streams go on."""

import json
from itertools import pairwise

import pytest
import torch

import puresift as ps
from puresift import distributed
from puresift.distributed import folders
from puresift.distributed.resharding import resharded
from tests.distributed import elastic
from tests.distributed.worlds import launch

ROWS = 10


def saved(ranks, batch_size=6, pools=2):
    """States of so many ranks, each with rows of its own that wait."""
    made = ps.sifter(None, ps.uniform(keep=0.7), batch_size=batch_size)
    states, waiting = [], []
    for rank in range(ranks):
        state = made.init(ps.key(rank), torch.zeros(ROWS * pools))
        for pool in range(pools):
            rows = torch.arange(float(ROWS)) + 1_000 * rank + 100 * pool
            state, info = made.step(state, None, rows)
            waiting.append(rows[info.mask])
        states.append(ps.state_dict(state))
    return states, torch.cat(waiting)


def held(made, state):
    """The rows of a state, in order."""
    batches = made.flush(state)[1]
    return torch.cat([batch for batch, _ in batches]) if batches else torch.zeros(0)


@pytest.mark.parametrize("now", [1, 2, 3, 5])
@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_every_row_goes_to_one_rank_and_each_gets_as_many(before, now):
    states, waiting = saved(before)
    made = ps.sifter(None, ps.uniform(keep=0.7), batch_size=before * 6)
    like = made.init(ps.key(9), torch.zeros(before * ROWS * 2))
    parts = [held(made, resharded(states, like, rank=rank, ranks=now)) for rank in range(now)]
    assert torch.equal(torch.cat(parts).sort().values, waiting.sort().values)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_rows_of_the_first_batches_are_still_those():
    """Two ranks hold two batches of 3 each; as one rank's, batches of 6 are made of the same rows."""
    made = ps.sifter(None, ps.uniform(keep=1.0), batch_size=3)
    states = [
        made.step(made.init(ps.key(0), torch.zeros(8)), None, torch.arange(8.0) + 10 * rank)[0] for rank in (0, 1)
    ]
    one = ps.sifter(None, ps.uniform(keep=1.0), batch_size=6)
    state = resharded([*map(ps.state_dict, states)], one.init(ps.key(0), torch.zeros(16)), rank=0, ranks=1)
    assert held(one, state).tolist() == [0, 1, 2, 10, 11, 12, 3, 4, 5, 13, 14, 15, 6, 7, 16, 17]


def test_what_is_known_of_each_id_is_joined():
    score = ps.remembered(lambda params, batch: batch["x"], 6, every=3)
    made = ps.sifter(score, ps.cover(ps.relative(keep=0.5), size=6, epochs=4), batch_size=2, columns={"id": by_id})
    states = []
    for ids in ([0, 1, 2], [3, 4, 2], [0, 3, 4]):
        pool = {"id": torch.tensor(ids), "x": torch.tensor(ids) + 0.5}
        states.append(ps.state_dict(made.step(made.init(ps.key(0), pool), {}, pool)[0]))
    state = resharded(states, made.init(ps.key(0), pool), rank=1, ranks=2)
    assert state.score.losses.nan_to_num(-1).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, -1]
    assert state.rule.visits[:6].tolist() == [2, 1, 2, 2, 2, 0]
    assert int(state.step) == 1, "three ranks read a pool each, which is one and a half for each of two"


def by_id(batch):
    return batch["id"]


def test_rows_that_do_not_fit_are_refused_with_the_cure():
    states, _ = saved(4)
    like = ps.sifter(None, ps.uniform(keep=0.7), batch_size=6).init(ps.key(0), torch.zeros(ROWS))
    with pytest.raises(ps.SiftError, match=r"its buffer holds \d+; resume on more ranks"):
        resharded(states, like, rank=0, ranks=1)
    objects = ps.sifter(None, ps.uniform(keep=0.7), batch_size=6).init(ps.key(0), [["a"], ["b"]])
    with pytest.raises(ps.SiftError, match="make the leaf a tensor"):
        resharded(states, objects, rank=0, ranks=1)
    with pytest.raises(ps.SiftError, match="the state is of another kind"):
        resharded([{**states[0], "other": torch.zeros(1)}], like, rank=0, ranks=1)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """The global batches of runs that change their number of ranks twice, and of one that does not."""
    runs = {"4 2 3": (4, 2, 3), "1 4 2": (1, 4, 2), "3 1 4": (3, 1, 4)}
    jobs = [("part", 1, {"folder": str(tmp_path_factory.mktemp("whole")), "first": 0, "last": elastic.POOLS})]
    for name, worlds in runs.items():
        folder = str(tmp_path_factory.mktemp(name.replace(" ", "-")))
        for place, (world, (first, last)) in enumerate(zip(worlds, pairwise((0, 5, 8, elastic.POOLS)), strict=True)):
            jobs.append(("part", world, {"folder": folder, "first": first, "last": last, "wait": place != 1}))
    apart = str(tmp_path_factory.mktemp("apart"))
    jobs += [("own", 4, {"folder": apart, "pools": 4}), ("own", 3, {"folder": apart, "pools": 0})]
    whole, *rest, before, after = launch("tests.distributed.elastic", jobs)
    return whole, {name: rest[3 * place : 3 * place + 3] for place, name in enumerate(runs)}, before, after


def batches(answers):
    """Each global batch: its ids with their weights, whoever has them."""
    pairs = [[list(zip(*rank[number], strict=True)) for rank in answers] for number in range(len(answers[0]))]
    return [sorted(sum(ranks, [])) for ranks in pairs]


@pytest.mark.parametrize("name", ["4 2 3", "1 4 2", "3 1 4"])
def test_a_global_stream_is_the_same_whatever_ranks_it_goes_on(streams, name):
    whole, parts, *_ = streams
    expected = batches(whole)
    assert len(expected) >= 4
    assert sum((batches(part) for part in parts[name]), []) == expected


def test_ranks_that_decide_apart_lose_no_row_on_another_number_of_ranks(streams):
    *_, before, after = streams
    kept, waiting = (sorted(sum((rank[place] for rank in ranks), [])) for place, ranks in ((1, before), (0, after)))
    assert kept == waiting and len(kept) > 100
    assert [rank[2] for rank in after] == [5, 5, 5], "four ranks read four pools each, and three 5 1/3"


@pytest.mark.slow
def test_a_global_stream_is_the_same_on_six_and_eight_ranks(streams, tmp_path):
    jobs = [
        ("part", world, {"folder": str(tmp_path), "first": first, "last": last})
        for world, first, last in ((6, 0, 5), (8, 5, 8), (3, 8, elastic.POOLS))
    ]
    parts = launch("tests.distributed.elastic", jobs, processes=8, seconds=400)
    assert sum((batches(part) for part in parts), []) == batches(streams[0])


@pytest.fixture
def folder(tmp_path):
    made = elastic.sifter(1)
    distributed.save_state(tmp_path, made.init(ps.key(5), elastic.pool(0, 0, 1)))
    return tmp_path


def load(folder):
    return distributed.load_state(folder, elastic.sifter(1).init(ps.key(5), elastic.pool(0, 0, 1)), shared=True)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "no state was saved there as a whole"),
    "half a manifest": (lambda folder: cut(folder / "manifest.json"), "manifest.json cannot be read"),
    "another version": (
        lambda folder: (folder / "manifest.json").write_text('{"version": 7, "ranks": 1, "state": "state-1"}'),
        "has version 7",
    ),
    "a path": (
        lambda folder: (folder / "manifest.json").write_text('{"version": 1, "ranks": 1, "state": "../state-1"}'),
        "names no state of so many ranks",
    ),
    "half the metadata": (lambda folder: cut(folder / "state-1" / ".metadata"), "metadata cannot be read"),
    "half a file": (lambda folder: cut(folder / "state-1" / "__0_0.distcp"), "state-1 cannot be read"),
    "no file": (lambda folder: (folder / "state-1" / "__0_0.distcp").unlink(), "state-1 cannot be read"),
    "a rank missing": (
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({"version": 1, "ranks": 2, "state": "state-1"})
        ),
        "the state of rank 1 is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_words(folder, name):
    damage, words = DAMAGE[name]
    damage(folder)
    with pytest.raises(ps.SiftError, match=words):
        load(folder)


def test_a_disk_that_is_full_leaves_the_state_before(folder, monkeypatch):
    class Full:
        def save(self, flat, *, checkpoint_id, no_dist):
            checkpoint_id.mkdir()
            (checkpoint_id / "__0_0.distcp").write_bytes(b"half")
            raise OSError("No space left on device")

    later = load(folder)._replace(step=torch.tensor(7))
    with monkeypatch.context() as patched:
        patched.setattr(folders, "_dcp", Full)
        with pytest.raises(RuntimeError, match=r"the one before is still in .*No space left"):
            distributed.save_state(folder, later)
    assert int(load(folder).step) == 0
    distributed.save_state(folder, later)
    assert int(load(folder).step) == 7
    assert len(list(folder.glob("state-*"))) == 1, "older ones are removed"
