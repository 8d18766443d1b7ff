"""The rule that a configuration stands for, and what the warnings of this API advise."""

from __future__ import annotations

from puresift.draws import bernoulli, systematic
from puresift.integrations.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig
from puresift.rules import delay, gate, hold, relative
from puresift.types import Draw, Rule

HOLD = "pass hold=True to RelativeProbabilisticSiftConfig, or a shorter loss_history_length"
RANKS = "pass hold=True to RelativeProbabilisticSiftConfig, so that every rank keeps the same share of every batch"


def ruled(config: RelativeProbabilisticSiftConfig, rows: int) -> tuple[Rule, Draw]:
    """The rule for batches of so many rows, and how it draws."""
    rule = relative(beta=config.beta_value, history=max(config.loss_history_length, rows))
    if config.hold:
        rule = hold(rule, keep=config.keep)
    if config.gate:
        rule = gate(rule, classes=config.classes)
    rule = delay(rule, steps=config.loss_based_sift_config.sift_config.sift_delay)
    return rule, systematic if config.hold else bernoulli
