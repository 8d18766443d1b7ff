"""Law 7: resuming at every step equals the uninterrupted stream, infos included."""

import pytest
import torch

import puresift as ps
from puresift.buffers import chunks
from puresift.testing.comparing import through_file
from tests import laws
from tests.laws import COLUMNS, DRAWS, MEMBERS
from tests.strategies import cross_entropy, data, loader, net


def resumes_at_every_step(sifter, pools, n, model):
    """Run once; then, from the state before each batch, run to the end again and compare. Gives the stream anew."""
    template = sifter.init(ps.key(0), ps.peek(pools))

    def make(state=None):
        return ps.sift(sifter, state or template, ps.live(model), ps.epochs(pools, n))

    assert ps.testing.assert_resumes(make) > 3
    return make()


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_resumes_at_every_step(member, draw):
    model = net()
    sifter = ps.sifter(
        ps.batched(model, cross_entropy),
        MEMBERS[member]().rule,
        batch_size=8,
        draw=DRAWS[draw],
        columns=COLUMNS,
    )
    resumes_at_every_step(sifter, loader(rows=72, batch_size=16), 2, model)


def test_small_batches_leave_full_ones_behind_in_the_state():
    model = net()
    sifter = ps.sifter(ps.batched(model, cross_entropy), ps.uniform(keep=0.9), batch_size=3)
    whole = resumes_at_every_step(sifter, loader(rows=48, batch_size=16), 2, model)
    assert any(bool(ps.full(sifted.state.buffer)) for sifted in whole)


def test_open_windows_resume():
    class Ragged(torch.utils.data.Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, row):
            return torch.full((9,), row), (torch.arange(9) <= row * 7 % 9).long()

    sampler = torch.utils.data.DistributedSampler(Ragged(), num_replicas=1, rank=0)
    pools = torch.utils.data.DataLoader(Ragged(), 10, sampler=sampler)
    pads = {"0": ps.Pad(0, 9), "1": ps.Pad(0, 9)}
    sifter = ps.sifter(
        lambda params, batch: batch[0][:, 0] * 1.0,
        ps.relative(keep=0.7),
        batch_size=4,
        pad=pads,
        bucket=lambda batch: batch[1].sum(1),
        window=3,
    )
    whole = resumes_at_every_step(sifter, pools, 3, net())
    assert len({sifted.batch[0].shape for sifted in whole}) > 1


def test_a_sized_loader_finds_its_place_in_later_epochs_by_itself():
    model, pools = net(), loader(rows=80, batch_size=16)
    sifter = ps.sifter(ps.batched(model, cross_entropy), ps.relative(keep=0.5), batch_size=8)
    template = sifter.init(ps.key(0), ps.peek(pools))
    state = template
    for epoch in range(2):
        pools.sampler.set_epoch(epoch)
        stream = ps.sift(sifter, state, ps.live(model), pools)
        whole = list(stream)
        state = stream.state
    again = list(ps.sift(sifter, through_file(whole[0].state), ps.live(model), pools))
    assert laws.equal(whole[1:], again)


def with_ids():
    dataset = ps.with_ids(data(72))
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=1, rank=0, seed=1)
    return torch.utils.data.DataLoader(dataset, 16, sampler=sampler, collate_fn=dataset.collate)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("outer", ["remembered", "change", "rank_mix"])
def test_a_score_that_remembers_resumes_at_every_step_with_what_it_was_fed(outer, every):
    """The state to save is `stream.state`, after observe: the yielded one does not know the batch's losses yet."""
    model, pools = net(), with_ids()
    score = ps.remembered(ps.batched(model, cross_entropy), 72, every=every, id=laws.last)
    if outer == "change":
        score = ps.change(score, 72, id=laws.last)
    if outer == "rank_mix":
        score = ps.rank_mix(score, ps.el2n(model, laws.outputs))
    sifter = ps.sifter(score, ps.relative(keep=0.5), batch_size=8, columns={"id": laws.last})
    template = sifter.init(ps.key(0), ps.peek(pools))

    def make(state):
        return ps.sift(sifter, state or template, ps.live(model), ps.epochs(pools, 4))

    def after(stream, sifted):
        stream.observe(sifted.batch[0].square().mean(1))  # stands for a training loss

    assert ps.testing.assert_resumes(make, after=after) > 8


@pytest.mark.parametrize("length", [None, 2], ids=["by arrival", "by length"])
def test_a_buffer_in_chunks_gives_the_same_and_resumes(monkeypatch, length):
    """Large rows lie in chunks; here every row does."""
    model, pools = net(norm=False), list(loader())
    bucket = {"bucket": lambda batch: batch[1], "window": length} if length else {}

    def build():
        return ps.sifter(ps.batched(model, cross_entropy), ps.relative(keep=0.5), batch_size=5, **bucket)

    def run(start):
        return [
            (batch, weights, chunks.whole(state), info)
            for batch, weights, state, info in ps.sift(build(), start, ps.live(model), pools)
        ]

    whole = run(build().init(ps.key(1), pools[0]))
    monkeypatch.setattr(chunks, "SIZE", 1)
    start = build().init(ps.key(1), pools[0])
    assert isinstance(start.buffer.rows[0], chunks.Chunked)
    assert laws.equal(run(start), whole)
    resumes_at_every_step(build(), pools, 2, model)


@pytest.mark.parametrize("generator", [None, torch.Generator().manual_seed(7)], ids=["global", "seeded"])
def test_a_place_in_a_loader_that_is_shuffled_anew_is_warned_of(generator):
    pools = torch.utils.data.DataLoader(torch.arange(32.0), 8, shuffle=True, generator=generator)
    sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=4)
    begun = sifter.init(ps.key(0), torch.zeros(8))
    states = [sifted.state for sifted in ps.sift(sifter, begun, {}, ps.epochs(pools, 2))]
    with pytest.warns(UserWarning, match=r"shuffled anew.*DistributedSampler.*ps\.SiftingDataLoader"):
        ps.sift(sifter, states[5], {}, ps.epochs(pools, 2))
    with pytest.warns(UserWarning, match="shuffled anew"):
        ps.sift(sifter, states[1], {}, pools)
    rows = torch.arange(32.0)
    batches = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(rows, generator=generator), 8, False)
    with pytest.warns(UserWarning, match="shuffled anew"):
        ps.sift(sifter, states[1], {}, torch.utils.data.DataLoader(rows, batch_sampler=batches))
    ps.sift(sifter, states[3], {}, pools)  # which begins its next pass
    ps.sift(sifter, states[5], {}, pools, skip=0)  # the caller knows better
