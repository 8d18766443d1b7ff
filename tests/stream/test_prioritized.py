"""The stream of drawn batches: the loop, exact resuming, datasets, and what does not fit."""

import pytest
import torch
from torch.utils.data import Dataset

import puresift as ps
from tests.strategies import cross_entropy, data, net

SIZE, ROWS = 90, 8


def build(steps=30, **settings):
    rule = ps.by_error(ps.importance(keep=0.3, floor=0.2, bias=0.0))
    return ps.prioritizer(rule, size=SIZE, batch_size=ROWS, steps=steps, every=4, **settings)


class Trained:
    """A stream, and a model that trains on its batches."""

    def __init__(self, prioritizer, saved):
        self.model = net(3, norm=False).eval()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        state = prioritizer.init(ps.key(5))
        if saved is not None:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            state = ps.load_state_dict(state, saved["sift"])
        self.stream = start(prioritizer, state=state)

    def __iter__(self):
        for batch, weights, _, info in self.stream:
            losses = cross_entropy(self.model, batch)
            self.optimizer.zero_grad()
            (weights * losses).mean().backward()
            self.optimizer.step()
            self.stream.observe(losses)
            yield batch, weights, info

    def state_dict(self):
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sift": ps.state_dict(self.stream.state),
        }


def start(prioritizer, source=None, state=None):
    source = data(SIZE).tensors if source is None else source
    return ps.prioritize(prioritizer, state or prioritizer.init(ps.key(5)), source)


def test_resuming_at_every_step_gives_the_same_bits():
    assert ps.testing.assert_resumes(lambda saved: Trained(build(), saved)) == 30


def test_what_leaves_is_what_was_drawn():
    x, y = data(SIZE).tensors
    stream = start(build())
    for batch, weights, state, info in stream:
        ids = info.extra["id"]
        assert torch.equal(batch[0], x[ids]) and torch.equal(batch[1], y[ids])
        assert weights.shape == (ROWS,) and bool(info.mask.all())
        assert int(state.step) == int(stream.state.step)
        stream.observe(ids.float())
        known = info.losses[~info.losses.isnan()]
        assert torch.equal(known, ids[~info.losses.isnan()].float())
    assert ps.summarize(info)["kept"] == ROWS
    assert int(stream.state.step) == 30
    with pytest.raises(StopIteration):
        next(stream)


def test_without_a_budget_it_goes_on():
    stream = start(build(steps=None))
    for _ in range(100):
        next(stream)
        stream.observe(torch.rand(ROWS, generator=torch.Generator().manual_seed(0)))
    assert int(stream.state.step) == 100


class Squares(Dataset):
    def __init__(self, size=SIZE):
        self.rows = list(range(size))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, id):
        return {"x": torch.tensor(float(self.rows[id])), "y": id * id}


@pytest.mark.parametrize("source", [Squares(), data(SIZE)], ids=["dicts", "tuples"])
def test_a_dataset_is_read_by_id(source):
    stream = start(build(), source)
    for batch, _, _, info in stream:
        items = [source[id] for id in info.extra["id"].tolist()]
        if isinstance(batch, dict):
            assert batch["y"].tolist() == [item["y"] for item in items]
        else:
            assert torch.equal(batch[0], torch.stack([item[0] for item in items]))


def test_a_dataset_that_grows_is_found_out():
    source = Squares()
    stream = start(build(), source)
    next(stream)
    source.rows.append(SIZE)
    with pytest.raises(ValueError, match=f"the data have {SIZE + 1} samples and the prioritizer {SIZE}"):
        next(stream)


class Flaky(Squares):
    """It cannot be read once."""

    failing = False

    def __getitem__(self, id):
        if self.failing:
            self.failing = False
            raise OSError("the disk is away")
        return super().__getitem__(id)


def test_a_batch_that_could_not_be_read_comes_again():
    prioritizer, source = build(), Flaky()
    expected, stream = start(prioritizer, Squares()), start(prioritizer, source)
    for batch, weights, state, info in expected:
        source.failing = True
        with pytest.raises(OSError, match="away"):
            next(stream)
        again = next(stream)
        assert torch.equal(again.batch["x"], batch["x"]) and torch.equal(again.weights, weights)
        assert int(again.state.draws) == int(state.draws)
        for one in (stream, expected):
            one.observe(info.extra["id"].float())
    assert int(stream.state.step) == 30


def one_more(x):
    return torch.cat([x, x[:1]])


BAD = {
    "another length": (lambda: start(build(), one_more(torch.zeros(SIZE))), "the data have 91 samples"),
    "a stream": (lambda: start(build(), iter([])), "Data that come once are sifted by ps.sift"),
    "a state of another size": (
        lambda: start(build(), state=ps.prioritizer(ps.top(0.5), size=9, batch_size=2).init(ps.key(0))),
        "the state is that of 9 samples",
    ),
    "observe too early": (lambda: start(build()).observe(torch.zeros(ROWS)), "none was yielded yet"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_words(name):
    act, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        act()
