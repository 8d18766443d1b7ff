"""The rule that makes a verdict of what `advise` measured, and the loop that follows from it."""

from __future__ import annotations

import math

from puresift.trials.advice import CUT, Facts, Interval, Verdict

MANY = 10  # visits, from which training's own losses are a table to draw by
FEW = 300  # steps, below which nothing certain was gained
RARE = 3.0  # B / ESS, from which few rows have most of the gradient
COSTS = 0.05  # of the loss: what shortening must cost for certain, to be worth avoiding
BARS = {"once": 1.5, "again": 1.25}  # what a second of sifting must be worth, in seconds of plain training


def decide(facts: Facts) -> tuple[Verdict, str]:
    """The verdict, by the rule in `advise`, and why."""
    if facts.steps < FEW:
        return "shorten", f"{facts.steps} steps are few; what was measured of so few gained nothing certain"
    often = facts.rows is not None and facts.visits >= MANY
    if often and facts.concentration.low >= RARE:
        return "prioritize", "samples come many times and few of them have most of the gradient, as with a rare class"
    if often and not facts.held_out and facts.shortening and facts.shortening.low > COSTS:
        return "prioritize", "samples come many times, and a shorter schedule costs much; tune the rate with drawing on"
    if often:
        return "shorten", ("samples come many times and their gradients are even")
    bar = BARS["again" if facts.visits >= 2 else "once"]
    worth = f"a second of sifting is worth {facts.mode.worth} plain ones at the most"
    if facts.mode.worth.low >= bar:
        return "auto", f"{worth}, and {bar:g} is the bar"
    return "shorten", f"{worth}, and the lower end is below the bar of {bar:g}"


def gain(verdict: Verdict, facts: Facts) -> Interval:
    """In seconds of plain training of equal length; 1 where that is what is advised."""
    return {"prioritize": facts.drawn, "auto": facts.mode.worth, "shorten": Interval(1.0, 1.0, 1.0)}[verdict]


def code(verdict: Verdict, facts: Facts) -> str:
    """The loop that is recommended."""
    steps = max(math.ceil(CUT * facts.steps), 1)
    if verdict == "shorten":
        head = [
            "# the plain loop, its learning rate decayed to zero within these steps",
            "import itertools",
            f"for batch in itertools.islice(ps.epochs(loader, n={max(math.ceil(facts.passes), 1)}), {steps}):",
        ]
        return "\n".join([*head, *_step("losses")])
    if verdict == "prioritize":
        head = [
            f"plan = ps.prioritizer({facts.rule}, size={facts.rows}, batch_size={facts.batch_size}, steps={steps})",
            "stream = ps.prioritize(plan, plan.init(ps.key(0)), loader.dataset, collate=loader.collate_fn)",
            "for batch, weights, state, info in stream:  # its rate decayed to zero within these steps",
        ]
        return "\n".join([*head, *_step("(weights * losses)"), "    stream.observe(losses)"])
    small = max(round(0.75 * facts.batch_size), 1)
    more = ", pad=pad, bucket=length" if facts.ragged else ""
    head = [
        *facts.ragged.splitlines(),
        f"score = {facts.mode.code}",
        f"sifter, judge = ps.auto(score, batch_size={small}{more})",
        "state = sifter.init(ps.key(0), ps.peek(loader))",
        f"pools = ps.epochs(loader, n={max(math.ceil(facts.passes), 1)})",
        "stream = ps.sift(sifter, state, ps.live(model), pools, governor=judge)",
        f"for batch, weights, state, info in stream:  # stop after the time of {steps} plain steps",
    ]
    return "\n".join([*head, *_step("(weights * losses)")])


def _step(losses: str) -> list[str]:
    return [
        "    losses = loss(model, batch)",
        "    optimizer.zero_grad()",
        f"    {losses}.mean().backward()",
        "    optimizer.step()",
    ]
