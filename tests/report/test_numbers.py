"""What a run comes to: one computation of its cost, and a sentence on top of the page that says what happened."""

import json
import re

import pytest

from puresift import report
from puresift.records.recorder import FILE
from puresift.report import figures
from puresift.report.numbers import numbers, sentence
from puresift.report.page import page

HEAD = {"kind": "run", "format": 1}
EMPTY = {"evaluations": [None], "kept": [None], "governor": [None]}


def pools(seen=100, kept=40, **more):
    return {"kind": "pools", "pool": 4, "seconds": 2.0, "seen": seen, "kept": kept} | more


def ended(accuracy, **more):
    return {"kind": "evaluation", "pool": 9, "seconds": 7.0, "accuracy": accuracy} | more


def runs(folder, **lines):
    for name, own in lines.items():
        (folder / name).mkdir(parents=True)
        (folder / name / FILE).write_text("".join(json.dumps(line) + "\n" for line in [HEAD, *own]))
    return report.read([folder / name for name in lines])


def said(read):
    return "".join(piece for piece, _ in sentence(read)).strip()


def paged(read):
    alone = {name: [None] * len(read) for name in ("losses", "threshold", "classes")}
    return page(read, EMPTY | alone)


COSTS = {
    "scored": ([pools(scored=100, phi=0.25)], 0.65),
    "scored in part": ([pools(scored=50, phi=0.25), pools(kept=60, scored=0)], 0.5 + 0.25 / 4),
    "scored, as older runs tell": ([pools(phi=0.25)], 0.65),
    "drawn unseen": ([pools(scored=0)], 0.4),
    "scored, but by no clock": ([pools(scored=100)], None),
    "measured by the loop": ([pools(scored=100, phi=0.25), ended(0.5, measured_cost=0.9)], 0.9),
    "measured, and nothing sifted": ([ended(0.5, measured_cost=1.0)], 1.0),
    "measured as nonsense": ([pools(scored=100, phi=0.25), ended(0.5, measured_cost="much")], 0.65),
    "nothing known": ([ended(0.5)], None),
}


@pytest.mark.parametrize("case", COSTS)
def test_a_cost_is_as_measured_or_else_phi_and_k(case, tmp_path):
    lines, cost = COSTS[case]
    read = runs(tmp_path, one=lines)
    found = numbers(read[0], figures.metric(read)).cost
    assert found == (None if cost is None else pytest.approx(cost))
    cell = re.search(r'data-name="cost"><span><bdi>(.*?)<', paged(read))[1]
    assert cell == ("-" if cost is None else f"{cost:.2f}")


def test_a_measured_cost_is_no_metric(tmp_path):
    (run,) = runs(tmp_path, one=[{"kind": "evaluation", "pool": 1, "seconds": 1, "measured_cost": 0.7, "bleu": 3.0}])
    assert figures.metric([run]) == "bleu" and figures.measured(run.evaluations[0]) == {"bleu": 3.0}


def test_the_page_begins_with_what_happened(tmp_path):
    plain, blind = [ended(0.75)], [pools(scored=0), ended(0.5)]
    sifted = [pools(scored=100, phi=0.25), ended(0.5), ended(0.7)]
    read = runs(tmp_path, **{"plain": plain, "<b>blind": blind, "mine": sifted})
    what = (
        "mine trained on 40.0 % of the 100 samples it saw, at 0.65 of the time of plain training for each, and ends at"
    )
    assert said(read) == f"Of these runs plain ends at the highest accuracy, 75.00 %. {what} accuracy 70.00 %."
    assert said(read[2:]) == f"{what} accuracy 70.00 %." and said(read[1:2]).startswith("<b>blind trained on 40.0 %")
    assert said(read[:1]) == "Nothing was sifted in this run."
    top = re.search(r'<p class="summary">(.*?)</p>', paged(read))[1]
    assert "<strong><bdi>plain</bdi></strong> ends" in top and "<b>" not in paged(read)
    assert paged(read).index("summary") < paged(read).index("<h2>")


def test_of_another_metric_no_run_is_the_best(tmp_path):
    lines = [pools(scored=100, phi=0.25), {"kind": "evaluation", "pool": 9, "seconds": 7.0, "loss": 0.3}]
    assert "highest" not in said(runs(tmp_path, one=lines, two=lines)) and "loss 0.3000" in said(
        report.read([tmp_path])
    )


def test_what_is_left_out_is_folded_into_one_line(tmp_path):
    """No section is left with a note and nothing else, and the notes name the run that they are of."""
    text = paged(runs(tmp_path, one=[ended(0.5)], two=[ended(0.7)]))
    assert text.count("<details>") == 1 and "open" not in re.search("<details.*?>", text)[0]
    folded = re.search(r"<details>(.*)</details>", text, re.DOTALL)[1]
    assert text.count("Left out") == folded.count("Left out") == 8 and "<summary>8 notes on" in folded
    assert text.count('class="none"') == folded.count('class="none"') == 8
    assert re.findall(r"<bdi>(.*?)</bdi>", folded) == ["one", "two"]
    assert re.findall("<h2>(.*?)</h2>", text) == ["Runs", "Words"]


def test_what_is_not_known_is_marked_for_narrow_screens(tmp_path):
    text = paged(runs(tmp_path, one=[ended(0.5)]))
    assert re.findall(r'<td class="unknown" data-name="(.*?)">', text) == ["seen", "kept", "kept share", "phi", "cost"]
