"""Rules that keep a constant number: pools are not read on the host."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import puresift as ps
from puresift.stream import later, unread
from puresift.stream.later import Later
from puresift.testing.comparing import difference

HELD = ps.hold(ps.relative(keep=0.5, history=64), keep=0.25)


class Reads(TorchDispatchMode):
    """Counts what reads a tensor's value on the host: item, int, bool and float; tolist and numpy are caught too."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))

    def _counted(self, real):
        def counting(tensor, *arguments, **options):
            self.count += 1
            return real(tensor, *arguments, **options)

        return counting

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default or function is torch.ops.aten.equal.default:
            self.count += 1
        return function(*args, **(kwargs or {}))


def stream(pools, rule=HELD, draw=ps.systematic, **settings):
    sifter = ps.sifter(lambda params, batch: batch["x"], rule, batch_size=4, draw=draw, **settings)
    return ps.sift(sifter, sifter.init(ps.key(1), pools[0]), {}, pools)


def pools(n=120, rows=16):
    values = ps.keys.uniform(ps.key(5), n * rows)
    return [{"x": part, "id": torch.arange(rows)} for part in values.split(rows)]


@pytest.fixture
def queued(monkeypatch):
    """A CPU that counts as a device whose work is only begun when a call returns."""
    monkeypatch.setattr(later, "queued", lambda device: True)
    monkeypatch.setattr(unread, "queued", lambda device: True)


@contextmanager
def counting(monkeypatch):
    with monkeypatch.context() as patch, Reads(patch) as reads:
        yield reads


@pytest.mark.parametrize(
    ("rule", "per_pool"),
    [(HELD, 0), (ps.top(keep=0.25), 0), (ps.uniform(keep=0.25), 0), (ps.relative(keep=0.25, history=64), 1)],
)
def test_no_tensor_is_read_for_a_pool_of_a_known_count(queued, monkeypatch, rule, per_pool):
    """Counted over a hundred pools; a rule of varying counts is read once a pool, which shows that reads are seen."""
    given = pools()
    running = stream(given, rule)
    for _ in range(3):
        next(running)
    with counting(monkeypatch) as reads:
        before = int(running.state.step)
        assert reads.count == 1, "int is seen"
        for _ in range(100 if not per_pool else 60):
            next(running)
        found = reads.count - 1
        passed = int(running.state.step) - before
    assert passed >= 60
    if per_pool:
        assert found >= passed
    else:
        assert found == 0


@pytest.mark.parametrize("batch", [4, 24, 40])
def test_what_is_not_read_is_the_same(queued, monkeypatch, batch):
    """Batches, weights, infos and states, of full pools and a short one, resumed or not."""
    given = [*pools(9), {"x": torch.rand(10), "id": torch.arange(10)}, *pools(3)]
    runs = []
    for known in (True, False):
        monkeypatch.setattr(unread, "queued", lambda device, known=known: known)
        sifter = ps.sifter(lambda params, batch: batch["x"], HELD, batch_size=batch, draw=ps.systematic)
        state = sifter.init(ps.key(1), given[0])
        one = ps.sift(sifter, state, {}, given)
        sifted = list(one)
        again = list(ps.sift(sifter, sifted[0].state, {}, given))
        runs.append([[(s.batch, s.weights, ps.state_dict(s.state), s.info) for s in (*sifted, *again)], one.info])
        assert not difference(sifted[1:], again)
    assert not difference(runs[0], runs[1])


def test_losses_that_are_not_finite_are_found_when_their_count_has_come(queued):
    """The stream ends at the latest with its pools, and no such row has left it."""
    given = pools(6)
    given[2]["x"] = given[2]["x"].where(torch.arange(16) % 2 == 0, torch.nan)
    running, left = stream(given), []
    with pytest.raises(ps.SiftError, match=r"8 of 16 losses in pool 2 are NaN or infinite; .*found while the GPU went"):
        for sifted in running:
            left.append(sifted.batch["x"])
    assert len(left) == 6 and all(bool(rows.isfinite().all()) for rows in left)


def test_on_a_cpu_they_are_found_at_once():
    given = pools(6)
    given[2]["x"] = torch.full((16,), torch.inf)
    running, left = stream(given), []
    with pytest.raises(ps.SiftError, match="16 of 16 losses in pool 2"):
        for _ in running:
            left.append(1)
    assert len(left) == int(running.state.step) == 2, "nothing of the pool is in the state"


def test_numbers_come_in_order_and_once():
    sent = Later()
    for number in range(3):
        sent.put(torch.tensor(number), f"note {number}")
    assert sent.come() == [(0, "note 0"), (1, "note 1"), (2, "note 2")]
    assert sent.come() == sent.come(wait=True) == []


def test_numbers_on_their_way_are_not_waited_for(queued):
    sent = Later()
    sent.put(torch.tensor(7), None)
    assert sent.come() == []
    assert sent.come(wait=True) == [(7, None)]
