"""What a stream can lose in a file, and that the moment and the place are named."""

import pytest
import torch

import puresift as ps
from tests.strategies import cross_entropy, data, loader, net

SIFTER = ps.sifter(lambda params, batch: batch[0].square().sum(1), ps.relative(keep=0.7), batch_size=8)
POOLS = ps.epochs(loader(rows=48), 2)
START = SIFTER.init(ps.key(3), ps.peek(loader(rows=48)))


def sifted(state):
    return ps.sift(SIFTER, state or START, {}, POOLS)


def test_a_sifted_stream_resumes():
    assert ps.testing.assert_resumes(sifted) == len(list(sifted(None))) > 3


def test_a_prioritized_stream_resumes_with_what_it_observes():
    prioritizer = ps.prioritizer(ps.importance(keep=0.5), size=24, batch_size=4, steps=12, every=2)

    def make(state):
        return ps.prioritize(prioritizer, state or prioritizer.init(ps.key(1)), data(24).tensors)

    def after(stream, element):
        stream.observe(element.batch[0].square().sum(1))

    assert ps.testing.assert_resumes(make, after=after) == 12


@pytest.mark.parametrize("weights", [None, True])
def test_a_sifting_loader_resumes(weights):
    model = net()

    def make(saved):
        pools = torch.utils.data.DataLoader(data(48), 16, shuffle=True, generator=torch.Generator().manual_seed(3))
        score, rule = ps.batched(model, cross_entropy), ps.unbiased(ps.relative(keep=0.5)) if weights else ps.top(0.5)
        made = ps.SiftingDataLoader(pools, score, rule, params=ps.live(model), batch_size=4, weights=weights)
        if saved is not None:
            made.load_state_dict(saved)
        return made

    assert ps.testing.assert_resumes(make) > 3


class Wrapped:
    """A stream that loses something."""

    def __init__(self, state, **lost):
        self.stream, self.lost, self.fresh = sifted(state), lost, state is None

    def __iter__(self):
        for number, element in enumerate(self.stream):
            if "last" in self.lost and not self.fresh and number == 3:
                return
            if "weights" in self.lost and not self.fresh:
                element = element._replace(weights=element.weights * 2)
            if "batch" in self.lost and not self.fresh:
                element = element._replace(batch=(element.batch[0].double(), element.batch[1]))
            yield element
        if "more" in self.lost and not self.fresh:
            yield element

    @property
    def state(self):
        return self.stream.state


class Counted:
    """A stream with a state_dict of its own that forgets its place, or its shape."""

    def __init__(self, saved, kind):
        self.number, self.kind, self.fresh = 0 if saved is None else int(saved["number"]), kind, saved is None

    def __iter__(self):
        for self.number in range(self.number + 1, 5):  # noqa: B020
            yield torch.tensor(self.number)

    def state_dict(self):
        if self.kind == "structure" and not self.fresh:
            return {"number": torch.tensor(self.number), "more": torch.tensor(0)}
        if self.kind == "end" and not self.fresh and self.number == 4:
            return {"number": torch.tensor(5)}
        return {"number": torch.tensor(0 if self.kind == "place" and not self.fresh else self.number)}


LOST = {
    "the state": (lambda s: sifted(None), "before element 1 of .*: the loaded state is another than the saved one: .*"),
    "the weights": (
        lambda s: Wrapped(s, weights=1),
        "before element 0 of .*: element 0 is another: .*weights' differs",
    ),
    "the dtype": (
        lambda s: Wrapped(s, batch=1),
        r"element 0 is another: .*batch/0' is float32\[8, 4\] in the first and",
    ),
    "the last": (lambda s: Wrapped(s, last=1), "the stream ended before element 3"),
    "the end": (lambda s: Wrapped(s, more=1), "the stream went on after its last element"),
    "the place": (lambda s: Counted(s, "place"), "the state at the end is another: .*number' differs"),
    "the structure": (
        lambda s: Counted(s, "structure"),
        r"before element 0 .* another structure .* second \['/more'\]",
    ),
    "the last state": (lambda s: Counted(s, "end"), "before element 0 .*: the state at the end is another"),
    "all": (lambda s: iter([]) if s else ps.sift(SIFTER, START, {}, []), "the loader gave no batch"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named(name):
    make, words = LOST[name]
    with pytest.raises(AssertionError if name != "all" else ps.SiftError, match=f"(?s){words}"):
        ps.testing.assert_resumes(make)


def test_nothing_to_check_is_no_success_nor_is_one_stream_for_all():
    empty = Counted({"number": torch.tensor(4)}, "")
    with pytest.raises(AssertionError, match="gave no element, so nothing was checked"):
        ps.testing.assert_resumes(lambda state: empty)
    one = Counted(None, "")
    with pytest.raises(AssertionError, match="gave the stream it gave before"):
        ps.testing.assert_resumes(lambda state: one)


def test_a_score_that_keeps_pools_aside_does_not_resume():
    seen = []

    def score(params, batch):
        seen.append(len(batch[0]))
        return batch[0].sum(1) * len(seen)

    sifter = ps.sifter(score, ps.importance(keep=0.5), batch_size=8)
    start = sifter.init(ps.key(0), ps.peek(loader(rows=48)))
    with pytest.raises(AssertionError, match=r"element 0 is another: .*weights' differs in"):
        ps.testing.assert_resumes(lambda state: ps.sift(sifter, state or start, {}, POOLS))
