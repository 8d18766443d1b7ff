"""Forward hooks are left out of scores, and that is said."""

import pytest

import puresift as ps
from tests.strategies import cross_entropy, data, net

SAID = r"0 has a forward hook \(.*\), and scores leave hooks out; .* changes what passes, compute it in a module's"


def doubles(module, args, output):
    return output * 2


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_is_named_once_and_is_not_run(kind):
    model, seen = net(), []
    getattr(model[0], kind)(lambda *args: seen.append(1))
    with pytest.warns(UserWarning, match=SAID):
        score = ps.batched(model, cross_entropy)
    score(ps.live(model), data(8).tensors)
    assert not seen


def test_many_hooks_are_one_warning():
    model = net()
    for module in model:
        module.register_forward_hook(doubles)
    with pytest.warns(UserWarning, match=f"doubles and {len(model) - 1} more") as said:
        ps.batched(model, cross_entropy)
    assert len(said) == 1


def test_a_hook_that_comes_later_is_found_by_the_next_stream():
    model, pools = net(), [data(8).tensors] * 2
    sifter = ps.sifter(ps.batched(model, cross_entropy), ps.top(keep=0.5), batch_size=4)
    state = sifter.init(ps.key(0), pools[0])
    assert len(list(ps.sift(sifter, state, ps.live(model), pools))) == 2
    model[0].register_forward_hook(doubles)
    with pytest.warns(UserWarning, match=SAID):
        next(ps.sift(sifter, state, ps.live(model), pools))
    assert len(list(ps.sift(sifter, state, ps.live(model), pools))) == 2, "and is said once"
