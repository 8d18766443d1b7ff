"""The loops that are pasted: complete, decayed to zero, and they stop by themselves."""

import pytest
import torch

from puresift.trials import verdicts
from puresift.trials.advice import Interval
from tests.trials.test_advising import even, facts, job

PASTED = {
    **{verdict: (verdict, {}) for verdict in ("prioritize", "shorten")},
    "whole": ("shorten", {"shortening": even(0.5), "whole": 1.0}),
    "not certain": ("shorten", {"steps": 300, "visits": 60.0, "concentration": Interval(2.5, 1.6, 3.2)}),
}


@pytest.mark.parametrize("case", PASTED)
@pytest.mark.parametrize("given", [True, False])
def test_the_code_needs_the_job_alone_and_decays_the_rate_to_zero(case, given):
    verdict, changed = PASTED[case]
    model, loss, loader = job(rows=80)
    names = {"model": model, "loss": loss, "loader": loader}
    if given:
        names["optimizer"] = torch.optim.SGD(model.parameters(), 0.1)
    told = facts(**{"rows": 80, "steps": 15, "passes": 3.0, "optimizer": given} | changed)
    if case == "not certain":
        told = told._replace(passes=60.0)
    exec(verdicts.code(verdict, told), names)
    assert names["schedule"].get_last_lr() == [0.0]
    steps = told.steps if case == "whole" else 0.6 * told.steps
    assert names["schedule"].last_epoch == steps
    assert names["schedule"].base_lrs == [0.1 if given else 0.001]


def test_the_live_loop_stops_when_its_time_is_over():
    model, loss, loader = job(rows=80)
    names = {"model": model, "loss": loss, "loader": loader, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    exec(verdicts.code("auto", facts(rows=80, steps=15, passes=2000.0)), names)
    assert names["seconds"] == pytest.approx(9 * 0.01 * 1.1)
    assert names["spent"]() >= 1 and names["schedule"].get_last_lr()[0] < 0.1
