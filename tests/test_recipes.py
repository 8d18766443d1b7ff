"""The recommended setting: the parts it names, and nothing lost where it does not pay."""

import pytest
import torch

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, loader, net


class Clock:
    """Seconds that work says it took."""

    now = 0.0

    def __call__(self):
        return self.now

    def works(self, score, seconds):
        """The score, at so many seconds a row."""

        def timed(params, batch):
            losses = score(params, batch)
            self.now += seconds * len(losses)
            return losses

        return timed


def test_it_is_the_composition_it_names():
    model, pools = net(norm=False), list(loader())
    score = ps.batched(model, cross_entropy)
    ours, _ = ps.auto(score, batch_size=8)
    rule = ps.by_error(ps.importance(0.5, floor=0.3, history=1024))
    theirs = ps.sifter(score, rule, batch_size=8, draw=ps.systematic)
    one, other = (
        list(ps.sift(sifter, sifter.init(ps.key(0), pools[0]), ps.live(model), pools)) for sifter in (ours, theirs)
    )
    assert laws.equal(one, other)


def test_with_a_rare_class_remembered_losses_thin_the_pools():
    """As the cascade that it names, told the same losses, and not governed; what is not told is learnt from scores."""
    model = net(norm=False)
    pools = [{"pair": pool, "id": torch.arange(len(pool[0])) + 16 * n} for n, pool in enumerate(loader())]
    score = ps.batched(model, lambda model, batch: cross_entropy(model, batch["pair"]))
    ours, judge = ps.auto(score, batch_size=8, size=96, rare=True)
    both = ps.cascade(ps.recalled(96), score, keep=0.6, bias=0)
    rule = ps.by_error(ps.importance(2 / 3, floor=0.3, history=1024, bias=0))
    theirs = ps.sifter(both, rule, batch_size=8, draw=ps.systematic)
    assert judge is None
    seen = []
    for sifter in (ours, theirs):
        twice = ps.epochs(pools, 2)
        stream, batches = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), ps.live(model), twice, governor=judge), []
        for sifted in stream:
            batches.append(sifted)
            stream.observe(sifted.batch["id"] / 8)
        seen.append(batches)
        assert bool((batches[-1].weights == 1).all()) and bool(stream.state.score.first.losses.isfinite().any())
    assert len(seen[0]) > 1 and laws.equal(*seen)


@pytest.mark.parametrize(("price", "sifts"), [(2.0, False), (0.01, True)], ids=["dear", "cheap"])
def test_it_sifts_only_while_that_pays(price, sifts):
    """Losses differ widely, so kept rows are worth more than random ones; scoring a row costs so many trained ones."""
    pools = [torch.rand(32, generator=torch.Generator().manual_seed(n)).mul(5).sub(4).exp() for n in range(100)]
    clock, trained = Clock(), 0
    sifter, judge = ps.auto(clock.works(lambda params, batch: batch, price), batch_size=16, keep=0.4)
    stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools, governor=judge, clock=clock)
    for batch, _, _, _ in stream:
        clock.now += len(batch)
        trained += len(batch)
    if sifts:
        assert trained < 0.6 * 3200
    else:
        assert trained > 0.9 * 3200
        assert clock.now < 1.1 * 3200, "the looks of the start and 2 % of the rest"


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValueError, match=r"keep must be in \(0, 1\]"):
        ps.auto(lambda params, batch: batch, batch_size=2, keep=1.5)
    with pytest.raises(TypeError, match="colour"):
        ps.auto(lambda params, batch: batch, batch_size=2, colour="red")


def test_data_that_come_again_are_drawn_by_their_losses(caplog):
    caplog.set_level("INFO", logger="puresift")
    prioritizer = ps.auto(batch_size=8, size=96, epochs=2.5)
    assert isinstance(prioritizer, ps.Prioritizer)
    assert prioritizer.plan.steps == 30 and prioritizer.plan.start == 96
    ours, theirs = (
        one.draw(one.init(ps.key(0))._replace(losses=torch.linspace(0, 3, 96), draws=torch.tensor(1)))[1]
        for one in (
            prioritizer,
            ps.prioritizer(ps.by_error(ps.importance(0.05, floor=0.3, bias=0.0)), size=96, batch_size=8, steps=30),
        )
    )
    assert torch.equal(ours, theirs)
    assert isinstance(ps.auto(lambda params, batch: batch, batch_size=8, size=96, epochs=1), tuple)
    assert [record.getMessage().split(", ")[0] for record in caplog.records] == [
        "ps.auto: a prioritizer",
        "ps.auto: a governed live score",
    ]
    with pytest.raises(ValueError, match="so a score is needed"):
        ps.auto(batch_size=8)
    for some in ({"size": 96}, {"score": lambda params, batch: batch}):
        with pytest.raises(ps.SiftError, match=r"rare=True thins .* pass the score, .* and size=len\(dataset\)"):
            ps.auto(batch_size=8, rare=True, **some)
    with pytest.raises(ps.SiftError, match=r"keep must be in \(0, 1\]"):
        ps.auto(lambda params, batch: batch, batch_size=8, size=96, rare=True, keep=2)
