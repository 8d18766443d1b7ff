"""The strategies give what they promise, and the package does without Hypothesis."""

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from puresift.testing.comparing import difference
from tests import laws

given_by = ps.testing.strategies
RULE = ps.by_group(ps.relative(keep=0.5, history=64), groups=3)


@given(pool=given_by.losses(), probs=given_by.probs())
def test_losses_are_finite_and_probabilities_are_some(pool, probs):
    assert pool.dtype == torch.float32 and 1 <= len(pool) <= 40 and bool(pool.isfinite().all())
    assert bool(((probs >= 0) & (probs <= 1)).all())


@given(pool=given_by.pools((torch.arange(6), torch.arange(6.0) * 2)), short=given_by.pools(torch.eye(3), st.just(5)))
def test_pools_are_rows_of_the_batch(pool, short):
    assert torch.equal(pool[0] * 2.0, pool[1]) and 1 <= len(pool[0]) <= 6
    assert short.shape == (5, 3) and bool((short.sum(1) == 1).all())


@given(state=given_by.states(RULE, columns=laws.columns))
def test_states_are_states_of_the_rule(state):
    assert not difference(RULE.init()._replace(inner=None), state._replace(inner=None))
    seen = state.inner.seen
    assert seen.shape == (3,) and 0 <= int(seen.max()) <= 5 * 40


def test_only_the_strategies_need_hypothesis():
    """And importing puresift imports neither."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import puresift as ps\n"
        "assert 'puresift.testing' not in sys.modules\n"
        "ps.testing.assert_rule(ps.top(keep=0.5), keep=0.5)\n"
        "try: ps.testing.strategies\n"
        "except ImportError: print('needs hypothesis')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "needs hypothesis\n"
