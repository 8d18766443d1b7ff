"""The buffer against a deque: whatever goes in comes out once, in order."""

import itertools
from collections import deque
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch._dynamo.testing import CompileCounterWithBackend

import puresift as ps
from puresift.buffers import chunks, windows
from puresift.buffers import ring as buffers
from tests import laws


@contextmanager
def cut(size):
    """Chunks of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "SIZE", size)
        yield


class Model(RuleBasedStateMachine):
    """Random refills and takes, next to a deque of serial numbers. Lengths hang on the number."""

    @initialize(
        batch_size=st.integers(1, 5),
        pool=st.integers(1, 9),
        window=st.integers(1, 3),
        bucketed=st.booleans(),
        chunk=st.sampled_from([0, 4, 12, 1000]),  # bytes: of one row, of three rows, and of all
    )
    def build(self, batch_size, pool, window, bucketed, chunk):
        self.batch_size, self.pool, self.bucketed = batch_size, pool, bucketed
        self.window = window if bucketed else 1
        with cut(chunk):
            self.buffer = ps.empty(self.rows(torch.arange(pool)), batch_size, window=self.window)
        self.queue, self.open, self.next = deque(), [], 0

    def rows(self, numbers):
        return {"number": numbers, "half": numbers.to(torch.bfloat16)[:, None].expand(-1, 2)}

    def length(self, number):
        return number * 7919 % 5

    @precondition(lambda self: not bool(ps.full(self.buffer)))
    @rule(data=st.data())
    def refill(self, data):
        size = data.draw(st.integers(1, self.pool))
        mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        numbers = torch.arange(self.next, self.next + size)
        kept = ps.Kept(self.rows(numbers), numbers + 0.5, mask)
        with laws.untouched(self.buffer, kept):
            after = ps.refill(self.buffer, kept)
        laws.same_layout(self.buffer, after)
        assert laws.equal(chunks.whole(after), ps.refill(chunks.whole(self.buffer), kept))
        self.buffer, self.next = after, self.next + size
        self.queue.extend(numbers[mask].tolist())

    @precondition(lambda self: bool(ps.full(self.buffer)))
    @rule()
    def take(self):
        span, order = self.batch_size * self.window, None
        if self.bucketed:
            numbers = chunks.whole(self.buffer).rows["number"][buffers.window_slots(self.buffer, span)]
            order = windows.by_length(self.length(numbers), self.batch_size, torch.arange(self.window))
        with laws.untouched(self.buffer):
            after, (batch, weights) = ps.take(self.buffer, self.batch_size, window=self.window, order=order)
        laws.same_layout(self.buffer, after)
        self.buffer = after
        assert torch.equal(weights, batch["number"] + 0.5)
        assert torch.equal(batch["half"][:, 1], batch["number"].to(torch.bfloat16))
        if not self.open:
            window = [self.queue.popleft() for _ in range(span)]
            self.open = sorted(window, key=lambda number: int(self.length(number))) if self.bucketed else window
        expected, self.open = self.open[: self.batch_size], self.open[self.batch_size :]
        assert batch["number"].tolist() == expected

    @invariant()
    def counts(self):
        if hasattr(self, "buffer"):
            assert int(self.buffer.fill[0]) == len(self.queue) + len(self.open)
            assert buffers.held_slots(self.buffer).shape[0] == int(self.buffer.fill[0])


TestBuffer = Model.TestCase


@given(lengths=st.lists(st.integers(0, 9), min_size=12, max_size=12), seed=st.integers(0, 99))
def test_by_length_is_a_permutation_into_batches_of_like_length(lengths, seed):
    lengths = torch.tensor(lengths)
    order = windows.by_length(lengths, 3, ps.keys.uniform(ps.key(seed), 4))
    assert sorted(order.tolist()) == list(range(12))
    spans = sorted((int(part.min()), int(part.max())) for part in lengths[order].split(3))
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))


def kept(count, of):
    return ps.Kept(torch.arange(of), torch.ones(of), torch.arange(of) < count)


def test_an_overflow_raises_at_take_with_the_rows_lost():
    buffer = ps.empty(torch.arange(4), batch_size=2)  # room for 6
    for _ in range(2):
        buffer = ps.refill(buffer, kept(4, of=4))
    with pytest.raises(RuntimeError, match=r"overflowed and 2 kept rows were lost: take batches while full\(buffer\)"):
        ps.take(buffer, 2)


def test_a_full_ring_survives_a_refill_that_keeps_nothing():
    buffer = ps.refill(ps.empty(torch.arange(4), batch_size=2), kept(2, of=4))
    buffer = ps.refill(buffer, kept(4, of=4))
    buffer = ps.refill(buffer, kept(0, of=4))
    taken = []
    while bool(ps.full(buffer)):
        buffer, (rows, _) = ps.take(buffer, 2)
        taken += rows.tolist()
    assert taken == [0, 1, 0, 1, 2, 3]


def test_take_says_when_it_is_too_early():
    buffer = ps.refill(ps.empty(torch.arange(4), batch_size=3), kept(2, of=4))
    with pytest.raises(RuntimeError, match=r"holds 2 of the 3 rows of a batch; take only when full\(buffer\)"):
        ps.take(buffer, 3)


def test_a_refill_copies_the_chunks_it_writes_to_and_shares_the_others():
    with cut(16):
        buffer = ps.empty(torch.arange(4), batch_size=7)  # 12 slots of 8 bytes, two in a chunk
    old, new = buffer.rows.parts, ps.refill(buffer, kept(3, of=4)).rows.parts
    assert [one is other for one, other in zip(old, new, strict=True)] == [False, False, True, True, True, True]


@pytest.mark.parametrize("chunk", [0, 16, 1000])
def test_refill_compiles_in_one_frame_and_vmaps(chunk):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ps.refill, fullgraph=True, backend=counter)
    with cut(chunk):
        buffer = ps.empty(torch.arange(4), batch_size=3)
    for count in (2, 0, 3):
        assert laws.equal(compiled(buffer, kept(count, of=4)), ps.refill(buffer, kept(count, of=4)))
        buffer = ps.refill(buffer, kept(count, of=4))
    assert counter.frame_count == 1
    masks = torch.tensor([[True, False, True, False], [False] * 4])
    together = torch.func.vmap(lambda mask: ps.refill(buffer, kept(4, of=4)._replace(mask=mask)))(masks)
    for row, mask in enumerate(masks):
        one = ps.refill(buffer, kept(4, of=4)._replace(mask=mask))
        assert all(torch.equal(a[row], b) for a, b in zip(laws.leaves(together), laws.leaves(one), strict=True))
