"""What a page quotes: the measured job that is nearest, and none where none is near."""

import pytest

from puresift.trials import evidence
from puresift.trials.advice import Interval
from tests.trials.test_advising import even, facts
from tests.trials.test_pages import text

NEAREST = {
    "fine-tuning of 3 epochs": ({"visits": 3.0, "steps": 1500}, ["fine-tuning on SST-2 whole, 3 epochs"]),
    "and a longer one": ({"visits": 3.0, "steps": 3600}, ["fine-tuning on SST-2 whole, 3 epochs"]),
    "many visits, rare": ({"visits": 30.0, "steps": 480, "concentration": even(9)}, ["20 passes with a rare class"]),
    "many visits, even": ({"visits": 15.0}, ["20 passes of even classes"]),
    "either": (
        {"visits": 15.0, "concentration": Interval(2.5, 1.6, 3.2)},
        ["20 passes with a rare class", "20 passes of even classes"],
    ),
    "a picture": ({"visits": 100.0, "steps": 4000, "held_out": False}, ["three pictures of 111 passes"]),
    "one long pass": ({"visits": 1.0, "steps": 10**6}, []),
    "a picture of few visits": ({"visits": 3.0, "held_out": False}, []),
    "without ids": ({"rows": None, "visits": 20.0, "concentration": even(9)}, []),
}


@pytest.mark.parametrize("case", NEAREST)
def test_what_was_measured_is_of_the_nearest_job(case):
    changed, expected = NEAREST[case]
    assert [row.job for row in evidence.nearest(facts(**changed))] == expected
    page = text(**changed)
    assert all(f"{row.job}: {row.gain}" in page for row in evidence.TABLE if row.job in expected)
    assert sum(row.job in page for row in evidence.TABLE) == len(expected)
    assert ("nothing near this job" in page) == (not expected)
