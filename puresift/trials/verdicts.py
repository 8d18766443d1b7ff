"""The rule that makes a verdict of what `advise` measured, and the loop that follows from it."""

from __future__ import annotations

import math
from typing import Literal

from puresift.trials.facts import CUT, Facts, Interval, Verdict
from puresift.trials.pilots import WARM_UP

MANY = 10  # visits, from which training's own losses are a table to draw by
FEW = 300  # steps, below which nothing certain was gained
RARE = 3.0  # B / ESS, from which few rows have most of the gradient
COSTS = 0.05  # of the loss: what shortening must cost for certain, to be worth avoiding
BARS = {"once": 1.5, "again": 1.25}  # what a second of sifting must be worth, in seconds of plain training


def decide(facts: Facts) -> tuple[Verdict, str]:
    """The verdict, by the rule in `advise`, and why."""
    if facts.steps < FEW:
        return "shorten", f"{facts.steps} steps are few; what was measured of so few gained nothing certain"
    if _often(facts) and facts.concentration.low >= RARE:
        return "prioritize", "samples come many times and few of them have most of the gradient, as with a rare class"
    if _often(facts) and _worth_avoiding(facts):
        return "prioritize", "samples come many times, and a shorter schedule costs much; tune the rate with drawing on"
    if unsure(facts):
        return "shorten", (
            f"not certain: B / ESS {facts.concentration} lies on both sides of {RARE:g}; try drawing by training's "
            "losses beside the shortened run"
        )
    if _often(facts):
        return "shorten", ("samples come many times and their gradients are even")
    bar = BARS["again" if facts.visits >= 2 else "once"]
    worth = f"a second of sifting is worth {facts.mode.worth} plain ones at the most"
    if facts.mode.worth.low >= bar:
        return "auto", f"{worth}, and {bar:g} is the bar"
    return "shorten", f"{worth}, and the lower end is below the bar of {bar:g}"


def _often(facts: Facts) -> bool:
    return facts.rows is not None and facts.visits >= MANY


def _worth_avoiding(facts: Facts) -> bool:
    return not facts.held_out and facts.shortening is not None and facts.shortening.low > COSTS


def unsure(facts: Facts) -> bool:
    """Whether samples come many times, and the interval does not tell if few of them have most of the gradient."""
    straddles = facts.concentration.low < RARE <= max(facts.concentration)
    return facts.steps >= FEW and _often(facts) and straddles and not _worth_avoiding(facts)


def cutting(facts: Facts) -> Literal["harmless", "unclear", "harmful", "open"]:
    """Whether a run cut to CUT is as good, as far as a cut of the whole run tells."""
    if facts.shortening is None or facts.whole < 1:
        return "open"
    if facts.shortening.high <= COSTS:
        return "harmless"
    return "harmful" if facts.shortening.low > COSTS else "unclear"


def gain(verdict: Verdict, facts: Facts) -> Interval:
    """In seconds of plain training of equal length; 1 where that is what is advised."""
    return {"prioritize": facts.drawn, "auto": facts.mode.worth, "shorten": Interval(1.0, 1.0, 1.0)}[verdict]


def code(verdict: Verdict, facts: Facts) -> str:
    """The loop that is recommended, complete; both, where it is not certain which."""
    steps = max(math.ceil(CUT * facts.steps), 1)
    head = ["import itertools"] * (verdict == "shorten") + ["import time"] * (verdict == "auto")
    head += [*[""] * bool(head), "import torch", "", "import puresift as ps", ""]
    if not facts.optimizer:
        head.append("optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)  # as in the pilot")
    if verdict == "auto":
        return "\n".join([*head, *_live(steps, facts)])
    if verdict == "prioritize":
        return "\n".join([*head, *_drawn(steps, facts)])
    if unsure(facts):
        again = [f"# and beside it, with a model and an optimizer made anew, the run cut to {CUT:.0%}"]
        return "\n".join([*head, *_drawn(steps, facts), "", *again, *_plain(steps, facts)])
    kept = cutting(facts) in ("unclear", "harmful")
    says = "# your run, whole" if kept else f"# your run, cut to {CUT:.0%}"
    return "\n".join([*head, says, *_plain(facts.steps if kept else steps, facts)])


def _plain(steps: int, facts: Facts) -> list[str]:
    return [
        *_schedule(steps, f"1 - step / {steps}"),
        f"for batch in itertools.islice(ps.epochs(loader, n={max(math.ceil(facts.passes), 1)}), {steps}):",
        *_step("losses"),
    ]


def _drawn(steps: int, facts: Facts) -> list[str]:
    return [
        f"plan = ps.prioritizer({facts.rule}, size={facts.rows}, batch_size={facts.batch_size}, steps={steps})",
        "stream = ps.prioritize(plan, plan.init(ps.key(0)), loader.dataset, collate=loader.collate_fn)",
        *_schedule(steps, f"1 - step / {steps}"),
        f"for batch, weights, state, info in stream:  # it ends after {steps} steps",
        *_step("(weights * losses)"),
        "    stream.observe(losses)",
    ]


def _live(steps: int, facts: Facts) -> list[str]:
    """It stops by the clock, for how many steps fit depends on what the governor does."""
    small = max(round(0.75 * facts.batch_size), 1)
    more = ", pad=pad, bucket=length" if facts.ragged else ""
    seconds = steps * facts.step * (1 + facts.loading)
    return [
        *facts.ragged.splitlines(),
        f"score = {facts.mode.code}",
        f"sifter, judge = ps.auto(score, batch_size={small}{more})",
        "state = sifter.init(ps.key(0), ps.peek(loader))",
        f"pools = ps.epochs(loader, n={4 * max(math.ceil(facts.passes), 1)})  # more than there is time for",
        "stream = ps.sift(sifter, state, ps.live(model), pools, governor=judge)",
        f"seconds, began = {seconds:.4g}, time.perf_counter()  # what {steps} plain steps take, by the pilot",
        "spent = lambda: (time.perf_counter() - began) / seconds",
        *_schedule(steps, "1 - spent()"),
        "for batch, weights, state, info in stream:",
        *_step("(weights * losses)"),
        "    if spent() >= 1:",
        "        break",
    ]


def _schedule(steps: int, left: str) -> list[str]:
    """Up over the warm-up, then down to zero, as the pilot's own."""
    warm = max(round(WARM_UP * steps), 1)
    return [
        f"rate = lambda step: max(min((step + 1) / {warm}, {left}), 0.0)  # up, then down to zero",
        "schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)  # in place of any other",
    ]


def _step(losses: str) -> list[str]:
    return [
        "    losses = loss(model, batch)",
        "    optimizer.zero_grad()",
        f"    {losses}.mean().backward()",
        "    optimizer.step()",
        "    schedule.step()",
    ]
