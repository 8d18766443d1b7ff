"""What is counted of a run stays bounded, and what is shown of it is exact."""

import json

import pytest
import torch

import puresift as ps
from puresift.records import counts


def info(ids, labels=None, seed=0):
    losses = ps.keys.uniform(ps.key(seed), len(ids))
    odds = ps.Odds(torch.ones(len(ids)), torch.ones(len(ids)))
    named = {} if labels is None else {"label": labels}
    return ps.Info(losses, odds, losses > 0.5, {"id": ids, "nonfinite": torch.tensor([0]), **named})


def passes(size, rows=100, over=2):
    """Infos of `over` passes over the ids, each in another order."""
    for turn in range(over):
        order = ps.keys.uniform(ps.key(turn), size).argsort()
        yield from (info(ids, seed=turn * size + at) for at, ids in enumerate(order.split(rows)))


def counted(infos):
    samples = counts.Samples({})
    for one in infos:
        samples.add(one)
    samples.merge()
    return samples


def test_the_ids_counted_are_bounded_and_their_counts_exact(monkeypatch):
    exact = counted(passes(5000))
    assert torch.equal(exact.ids, torch.arange(5000)) and exact.halvings == 0
    monkeypatch.setattr(counts, "IDS", 600)
    few = counted(passes(5000))
    assert 300 < len(few.ids) <= 600 and few.halvings == 4
    torch.testing.assert_close(few.table, exact.table[few.ids], rtol=0, atol=0, equal_nan=True)
    reverse = counted([*passes(5000)][::-1])
    assert torch.equal(reverse.ids, few.ids), "whatever the order of the rows"


def test_memory_does_not_grow_with_the_ids(monkeypatch):
    monkeypatch.setattr(counts, "IDS", 1000)
    samples, most = counts.Samples({}), 0
    for start in range(0, 200_000, 2000):
        samples.add(info(torch.arange(start, start + 2000)))
        most = max(most, len(samples.ids) + sum(len(ids) for ids, _ in samples._pending))
    assert most <= 1000 + 4096 + 2000


@pytest.mark.parametrize("ids", [range(0, 2**20, 2**10), range(0, 3000, 3), range(2**62, 2**62 + 1000), range(-999, 1)])
def test_regular_ids_are_drawn_as_others(ids, monkeypatch):
    monkeypatch.setattr(counts, "IDS", len(ids) // 2)
    assert len(ids) / 5 < len(counted([info(torch.tensor(ids))]).ids) <= len(ids) / 2


def test_the_rank_is_by_share_kept_and_then_by_loss():
    samples = counted(passes(300, over=3))
    rows = [(kept / seen, loss / scored) for seen, kept, scored, loss, _ in samples.table.tolist()]
    order = sorted(range(300), key=rows.__getitem__)
    assert samples.ranked(5) == [("most", at) for at in order[::-1][:5]] + [("least", at) for at in order[:5]]
    assert len(samples.ranked(999)) == 300 and counts.Samples({}).ranked(8) == []


def test_of_endless_labels_the_later_ones_count_together(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "LABELS", 10)
    with ps.Recorder(tmp_path, every=1, classes=["zero"]) as recorder:
        for start in range(0, 1000, 5):
            labels = torch.arange(start, start + 5)
            recorder.write(info(labels, labels, seed=start), start)
        recorder.write(info(torch.arange(5), torch.zeros(5).long()), 1000)
    lines = [json.loads(line) for line in recorder.path.read_text().splitlines()]
    classes = {line["label"]: line["seen"] for line in lines if line["kind"] == "class"}
    assert classes == {"(others)": 990, "zero": 6, **dict.fromkeys(map(str, range(1, 10)), 1)}
    assert sum(classes.values()) == sum(line["seen"] for line in lines if line["kind"] == "pools")


def test_gone_on_with_at_any_time_the_same_ids_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "IDS", 200)

    def run(folder, stops):
        recorder = ps.Recorder(folder, name="run")
        for at, one in enumerate(passes(2000)):
            if at in stops:
                recorder = ps.Recorder(folder, name="run", state=recorder.state_dict())
            recorder.write(one, at + 1, seconds=0.0)
        recorder.close()
        return recorder.path.read_text()

    assert run(tmp_path / "whole", ()) == run(tmp_path / "pieces", (1, 3, 17, 30)) != ""


def test_a_state_from_before_the_bound_goes_on(tmp_path, monkeypatch):
    recorder = ps.Recorder(tmp_path, every=1)
    for at, one in enumerate(passes(900, over=1)):
        recorder.write(one, at + 1)
    state = recorder.state_dict()
    del state["halvings"]
    assert torch.equal(ps.Recorder(tmp_path, state=state).state_dict()["ids"], torch.arange(900))
    monkeypatch.setattr(counts, "IDS", 300)
    assert 100 < len(ps.Recorder(tmp_path, state=state).state_dict()["ids"]) <= 300
