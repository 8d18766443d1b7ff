"""What is promised of a GPU: the same bits as on the CPU, and nothing read on the host where that is said."""

import pytest
import torch

import puresift as ps
from bench.speed import launches
from tests import laws
from tests.laws import MEMBERS
from tests.strategies import cross_entropy, data, loader, net

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature"),
]


@pytest.fixture
def unsynchronised():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_rule_gives_the_odds_of_the_cpu(name):
    rule = MEMBERS[name]().rule
    state, columns = laws.warmed(rule), laws.columns(16)
    pool = ps.keys.uniform(ps.key(9), 16)
    moved = laws.trees.to((state, pool, columns), torch.device("cuda"))
    _, odds = rule.select(moved[0], moved[1], **moved[2])
    _, expected = rule.select(state, pool, **columns)
    torch.testing.assert_close(laws.trees.to(odds, torch.device("cpu")), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["relative", "top", "importance", "unbiased"])
def test_a_stream_keeps_the_rows_that_it_keeps_on_the_cpu(name):
    kept = {}
    for device in ("cpu", "cuda"):
        model, pools = net(norm=False).to(device), list(loader())
        sifter = ps.sifter(ps.batched(model, cross_entropy), MEMBERS[name]().rule, batch_size=8, draw=ps.systematic)
        stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), ps.live(model), pools)
        kept[device] = torch.cat([batch[0].cpu() for batch, *_ in stream])
    assert torch.equal(kept["cpu"], kept["cuda"])


def test_a_prioritizer_draws_the_ids_that_it_draws_on_the_cpu():
    drawn = {}
    for device in ("cpu", "cuda"):
        rule = ps.importance(keep=0.3, floor=0.2, bias=0.0)  # not by_root: a square root may differ in its last bit
        prioritizer = ps.prioritizer(rule, size=500, batch_size=16, steps=90, every=4)
        x = torch.arange(500.0, device=device)
        stream = ps.prioritize(prioritizer, prioritizer.init(ps.key(1)), x)
        for batch, *_ in stream:
            drawn.setdefault(device, []).append(batch.cpu())
            stream.observe((batch - 250).square() * 2.0**-13)
    assert torch.equal(torch.stack(drawn["cpu"]), torch.stack(drawn["cuda"]))


@pytest.mark.parametrize("size", [500, 100_000])
def test_a_prioritized_stream_reads_nothing_on_the_host(size, unsynchronised):
    torch.cuda.set_sync_debug_mode("default")
    rule = ps.by_root(ps.importance(keep=0.05, floor=0.2, bias=0.0))
    prioritizer = ps.prioritizer(rule, size=size, batch_size=64, steps=size // 16, every=4)
    x = torch.arange(float(size), device="cuda") / size
    stream = ps.prioritize(prioritizer, prioritizer.init(ps.key(1)), (x, x))
    next(stream)
    stream.observe(torch.ones(64, device="cuda"))
    torch.cuda.set_sync_debug_mode("error")
    for (batch, _), weights, _, _ in stream:
        stream.observe((weights * batch).square())


def test_draw_and_observe_compile_on_a_gpu():
    rule = ps.by_error(ps.importance(keep=0.3, floor=0.2))
    prioritizer = ps.prioritizer(rule, size=300, batch_size=16, steps=40, every=4)
    state = laws.trees.to(prioritizer.init(ps.key(1)), torch.device("cuda"))
    draw = torch.compile(prioritizer.draw, fullgraph=True)
    observe = torch.compile(prioritizer.observe, fullgraph=True)
    for _ in range(4):
        expected, ids, weights = prioritizer.draw(state)
        _, theirs, _ = draw(state)
        assert torch.equal(ids, theirs)
        state = observe(expected, ids[0], weights[0])


@pytest.mark.filterwarnings("ignore::UserWarning")  # the compiler's advice about this GPU
def test_a_compiled_score_agrees_on_a_gpu():
    model, batch = net(norm=False).cuda(), tuple(leaf.cuda() for leaf in data(64).tensors)
    score = ps.batched(model, cross_entropy)
    torch.testing.assert_close(ps.compiled(score)(ps.live(model), batch), score(ps.live(model)(), batch))


def test_one_rank_over_nccl(tmp_path):
    import torch.distributed as dist

    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(net(norm=False).cuda())
        pools = list(loader())
        sifted = ps.SiftingDataLoader(
            pools, ps.batched(model, cross_entropy), ps.relative(keep=0.5), params=ps.live(model), in_step=True
        )
        rows = 0
        for batch in sifted:
            cross_entropy(model, batch).mean().backward()
            rows += len(batch[0])
        assert rows > 0
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("size", [1_000, 300_000])  # the second one is large enough to keep its last writes beside it
def test_a_remembered_score_keeps_the_rows_that_it_keeps_on_the_cpu(size):
    kept = {}
    for device in ("cpu", "cuda"):
        ids = torch.arange(256, device=device).split(32) * 2
        pools = [{"id": part, "x": part.float() / size} for part in ids]
        columns = {"id": lambda batch: batch["id"]}
        score = ps.remembered(lambda params, batch: (batch["x"] * 2.0**20) % 7, size, every=2)
        sifter = ps.sifter(score, ps.cover(ps.relative(keep=0.5), size=size, epochs=2), batch_size=8, columns=columns)
        stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, ps.epochs(pools, 3))
        for batch, *_ in stream:
            kept.setdefault(device, []).append(batch["id"].cpu())
            stream.observe((batch["x"] * 2.0**19) % 5)
    assert torch.equal(torch.cat(kept["cpu"]), torch.cat(kept["cuda"]))


def test_a_score_that_writes_to_its_batch_is_refused_on_a_gpu():
    pools = [torch.ones(16, 3, device="cuda") for _ in range(3)]
    sifter = ps.sifter(lambda params, x: x.div_(255).sum(1), ps.top(keep=0.5), batch_size=8)
    with pytest.raises(ps.SiftError, match="writes to its input"):
        next(ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools))


def test_rows_of_any_length_are_padded_on_a_gpu_as_on_the_cpu():
    seen = {}
    for device in ("cpu", "cuda"):
        pools = []
        for width in (3, 9, 5, 40, 2):
            mask = (torch.arange(width) < torch.tensor([[width], [max(width - 1, 1)], [1], [width]])).long()
            pools.append({"input_ids": (mask * 7).to(device), "attention_mask": mask.to(device)})
        score = lambda params, batch: batch["input_ids"].sum(1).float()  # noqa: E731
        sifted = ps.SiftingDataLoader(pools, score, ps.relative(keep=0.5), params={}, batch_size=2, pad="auto")
        seen[device] = [batch["input_ids"].cpu() for batch in sifted]
    for one, other in zip(seen["cpu"], seen["cuda"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("weights", [True, None])
@pytest.mark.parametrize(
    "rule", [ps.hold(ps.relative(keep=0.5, history=256), keep=0.25), ps.top(keep=0.25), ps.uniform(keep=0.25)]
)
def test_a_rule_of_a_constant_count_never_waits_for_the_gpu(rule, weights):
    """Any synchronisation, reads on the host among them, is an error."""
    model = net(norm=False).cuda()
    score = None if rule.wants is ps.rules.planning.never else ps.batched(model, cross_entropy)
    pools = [tuple(leaf.cuda() for leaf in pool) for pool in loader(rows=32 * 40, batch_size=32)]
    settings = {"draw": ps.systematic, "columns": {"first": lambda batch: batch[0][:, 0]}, "weights": weights}
    sifting = ps.SiftingDataLoader(pools, score, rule, params=ps.live(model), batch_size=16, **settings)
    optimizer, kept, passes = torch.optim.SGD(model.parameters(), lr=0.0), [], iter(sifting)
    try:
        for place, given in enumerate(passes):
            if place == 3:  # what is made once is made
                torch.cuda.set_sync_debug_mode("error")
            batch, *_ = (given[0],) if weights else (given,)
            optimizer.zero_grad()
            cross_entropy(model, batch).mean().backward()
            optimizer.step()
            kept.append((sifting.info.extra["first"], sifting.info.mask))  # an index by a mask would wait
            if place == 17:
                torch.cuda.set_sync_debug_mode("default")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(first[mask]) for first, mask in kept] == [16] * (40 * 8 // 16), "of two pools each"


def test_losses_that_are_not_finite_are_found_while_the_gpu_goes_on():
    pools = [torch.rand(16, device="cuda") for _ in range(30)]
    pools[4] = torch.full((16,), torch.nan, device="cuda").where(torch.arange(16, device="cuda") < 8, 1.0)
    sifter = ps.sifter(lambda params, batch: batch, ps.top(keep=0.5), batch_size=8, draw=ps.systematic)
    left = []
    with pytest.raises(ps.SiftError, match="8 of 16 losses in pool 4 are NaN"):
        for batch, *_ in ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools):
            left.append(batch)
            torch.cuda.synchronize()
    assert len(left) <= 6 and all(bool(rows.isfinite().all()) for rows in left)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's advice and imports
@pytest.mark.parametrize("name", launches.CASES)
def test_a_compiled_stream_keeps_the_rows_of_a_plain_one_on_a_gpu(name):
    case, kept = launches.CASES[name], []
    pools = [pool.cuda() for pool in torch.rand(12, 64, generator=torch.Generator().manual_seed(0))]
    sifter = ps.sifter(lambda params, batch: batch, case.rule, batch_size=16, draw=case.draw)
    for compiled in (False, True):
        stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools, compiled=compiled)
        kept.append(torch.cat([batch for batch, *_ in stream]))
    assert torch.equal(*kept)


@pytest.mark.parametrize("name", launches.CASES)
def test_a_step_is_captured_into_a_graph(name):
    assert launches.captured(launches.CASES[name], launches.rows("text", 64, 32, 0))


def test_eight_bits_are_those_of_the_cpu():
    """Whole numbers are summed exactly; what differs is the rest of the model."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.ReLU(), torch.nn.Linear(300, 4))
    batch = torch.randn(30, 300), torch.arange(30) % 4
    loss = lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")  # noqa: E731
    on_cpu = ps.int8(ps.batched(model, loss), anyway=True)(ps.live(model)(), batch)
    model.cuda()
    on_gpu = ps.int8(ps.batched(model, loss))(ps.live(model)(), tuple(leaf.cuda() for leaf in batch))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)
