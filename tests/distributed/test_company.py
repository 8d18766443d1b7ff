"""Ranks that score one sharded model: none waits for another for ever, whatever each of them keeps."""

import functools

import pytest

from tests.distributed.worlds import launch

FINE = {
    "in step": ("trained", {"rule": "varying", "sizes": "uneven", "in_step": True}),
    "in step, in chunks": ("trained", {"rule": "varying", "sizes": "uneven", "score": "chunked", "in_step": True}),
    "in step, with a delay": ("trained", {"rule": "delayed", "sizes": "uneven", "in_step": True}),
    "in step, governed": ("trained", {"rule": "varying", "sizes": "uneven", "in_step": True, "governed": True}),
    "held, of equal pools": ("trained", {"rule": "held", "sizes": "even"}),
    "held, of unequal pools": ("trained", {"rule": "held", "sizes": "uneven"}),
    "global": ("trained", {"rule": "varying", "sizes": "uneven", "ranks": "global"}),
    "global, and none left": ("trained", {"rule": "varying", "sizes": "none", "ranks": "global"}),
    "without end": ("endless", {"rule": "varying", "sizes": "uneven"}),
}
STREAMS = {
    "streamed, held": ("streamed", {"rule": "held", "sizes": "even"}),
    "streamed, held, unequal": ("streamed", {"rule": "held", "sizes": "none"}),
    "streamed": ("streamed", {"rule": "varying", "sizes": "even"}),
    "streamed, global": ("streamed", {"rule": "varying", "sizes": "uneven", "ranks": "global"}),
}
ALONE = {
    "by default": {"rule": "varying", "in_step": None},
    "each for itself": {"rule": "held", "in_step": False},
    "governed": {"rule": "held", "in_step": None, "governed": True},
}
OTHERS = {
    "any": ("any_of", {"seed": 1, "count": 20}),
    "failing": ("trained", {"rule": "varying", "sizes": "even", "in_step": True, "fails": 2}),
    "waiting": ("waiting", {}),
    "gathered": ("gathered_root", {}),
}
CASES = FINE | STREAMS | {f"alone {name}": ("alone", settings) for name, settings in ALONE.items()} | OTHERS


QUICK = {
    *("in step, in chunks", "global, and none left", "without end"),
    *("streamed, held, unequal", "alone by default", "failing", "gathered"),
}


def some(names):
    """Those that are not quick marked slow."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@functools.cache
def together(quick):
    """What all cases of a kind returned: a group of processes takes seconds to start."""
    cases = {name: case for name, case in CASES.items() if (name in QUICK) == quick}
    made = launch(
        "tests.distributed.accompanied", [(function, 2, rest) for function, rest in cases.values()], processes=2
    )
    return dict(zip(cases, made, strict=True))


def answers(name):
    return together(name in QUICK)[name]


@pytest.mark.parametrize("name", some(FINE))
def test_all_ranks_train_as_often_and_to_the_weights_of_ddp(name):
    (steps, same, worst), other = answers(name)
    assert steps == other[0] > 4 and same and other[1] and worst < 1e-4


@pytest.mark.parametrize("name", some(["streamed, held", "streamed, global"]))
def test_a_stream_of_its_own_does_too(name):
    for (steps, same, worst), error in answers(name):
        assert error is None and steps >= 4 and same and worst < 1e-4


def test_a_stream_whose_ranks_have_unequal_pools_ends_on_all_of_them():
    for made, error in answers("streamed, held, unequal"):
        assert made is None and error[0] == "SiftError"
        assert "the loader of rank 1 gave fewer batches" in error[1] and "in_step=True" in error[1]


CURES = ("ps.hold(rule, keep)", "draw=ps.systematic", 'ranks="global"', "in_step=True")


@pytest.mark.parametrize("name", some(["streamed", *(f"alone {name}" for name in ALONE)]))
def test_ranks_that_go_alone_are_refused_with_the_cures(name):
    for made, error in answers(name):
        assert made is None and error[0] == "SiftError" and all(cure in error[1] for cure in CURES)


def test_a_rank_that_fails_ends_the_others_by_name():
    own, other = answers("failing")
    assert own == ["OSError", "no such file"]
    assert other[0] == "MomentError" and "rank 0 failed" in other[1] and "no such file" in other[1]


@pytest.mark.slow
def test_a_rank_whose_batches_wait_scores_a_row_with_the_others():
    (ours, none), (theirs, error) = answers("waiting")
    assert none is error is None and len(ours) == len(theirs) > 1


def test_a_model_that_stands_gathered_is_known_as_sharded():
    for kinds, worst, none, error in answers("gathered"):
        assert kinds == ["Parameter"] and worst < 1e-5
        assert none is None and error[0] == "SiftError" and "in_step=True" in error[1]


@pytest.mark.slow
def test_settings_by_chance_end_as_under_ddp():
    for steps, wrong in answers("any"):
        assert steps > 50 and not wrong
