"""What is compared between ranks: settings that are held in closures, in words."""

import pytest
import torch

import puresift as ps
from puresift.distributed.describing import described, told
from puresift.sifters import parts_of

PAIRS = [
    (ps.relative(keep=0.5), ps.relative(keep=0.4)),
    (ps.delay(ps.top(keep=0.5), steps=3), ps.delay(ps.top(keep=0.5), steps=4)),
    (ps.delay(ps.top(keep=0.5), steps=3), ps.top(keep=0.5)),
    (ps.hold(ps.by_group(ps.top(keep=0.5), groups=3), keep=0.5), ps.hold(ps.by_group(ps.top(keep=0.5), groups=4), 0.5)),
    (ps.mix(ps.top(keep=0.5), ps.uniform(keep=0.5)), ps.mix(ps.top(keep=0.5), ps.uniform(keep=0.25))),
    (ps.anneal(ps.uniform, ps.ramp(0.5, pools=9)), ps.anneal(ps.uniform, ps.ramp(0.5, pools=8))),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_rules_are_told_apart_by_their_settings(one, other):
    assert told(one) == told(one) != told(other)


def test_a_rule_built_again_is_the_same():
    build = lambda: ps.hold(ps.delay(ps.relative(keep=0.5, history=64), steps=2), keep=0.25)  # noqa: E731
    assert told(build()) == told(build())
    assert "keep=0.25" in told(build()) and "steps=2" in told(build())


def test_what_may_differ_between_ranks_is_not_compared():
    """Models, tables and the values of tensors."""
    entries = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        score = ps.batched(torch.nn.Linear(3, 1), lambda model, batch: model(batch)[:, 0])
        sifter = ps.sifter(score, ps.uniform(keep=torch.rand(())), batch_size=4)
        entries.append(described(parts_of(sifter), sifter.init(ps.key(seed), torch.rand(8, 3))))
    assert entries[0] == entries[1]
    assert entries[0]["form of rows"] == "batch torch.float32[3]"
