"""Prioritizers: batches of ids drawn from a table of the losses that training has already computed; and means by id."""

from puresift.prioritizers.batches import left, next_batch
from puresift.prioritizers.drawing import Prioritizer, prioritizer
from puresift.prioritizers.rates import Table, TableState, table
from puresift.prioritizers.table import Plan, PrioritizerState

__all__ = [
    "Plan",
    "Prioritizer",
    "PrioritizerState",
    "Table",
    "TableState",
    "left",
    "next_batch",
    "prioritizer",
    "table",
]
