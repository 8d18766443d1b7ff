"""Stamps: a change of anything within is seen, and nothing else is."""

import enum
from collections import deque
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import nn

from puresift.scores.stamps import Stamped, constant, copyable, stamp, trained

Colour = enum.Enum("Colour", "RED BLUE")
SHARED = nn.Linear(1, 1)

# name: (a value, what changes it, or None for a value that does not change)
VALUES = {
    "tensor": (torch.ones(3), lambda value: value.add_(1)),
    "view": (torch.ones(3), lambda value: value[1:].zero_()),
    "list": ([1.0, 2.0], lambda value: value.append(3.0)),
    "dict": ({"a": 1}, lambda value: value.update(a=2)),
    "renamed": ({"a": 1}, lambda value: value.update(b=value.pop("a"))),
    "set": ({1, 2}, lambda value: value.add(3)),
    "deque": (deque([1]), lambda value: value.append(1)),
    "object": (SimpleNamespace(a=SimpleNamespace(b=[0])), lambda value: value.a.b.__setitem__(0, 1)),
    "tensor within": ((1, [torch.zeros(2)]), lambda value: value[1][0].fill_(1)),
    "equal tensor within": ([torch.zeros(2)], lambda value: value.__setitem__(0, torch.zeros(2))),
    "array": (numpy.zeros(3), lambda value: value.__setitem__(1, 5.0)),
    "type": ([1], lambda value: value.__setitem__(0, True)),
    "enum": ([Colour.RED], lambda value: value.__setitem__(0, Colour.BLUE)),
    "module": ([SHARED], lambda value: value.__setitem__(0, nn.Linear(1, 1))),
    "partial": (partial(max, [1]), lambda value: value.args[0].append(2)),
    "number": (1.0, None),
    "not a number": ([float("nan")], None),
    "parameter": ([SHARED.weight], lambda value: None),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_stamp_changes_with_its_value_alone(name):
    value, change = deepcopy(VALUES[name])  # so that the test can be run again
    before, stamped = stamp(value), Stamped(value)
    assert stamp(value) == before and not stamped.changed()
    if change is None:
        return
    change(value)
    assert (stamp(value) == before) is (name == "parameter") is not stamped.changed()


def test_an_equal_value_in_place_of_another_is_no_change():
    settings = SimpleNamespace(scale=1.5)
    stamped = Stamped(settings)
    settings.scale = float("1.5")
    assert not stamped.changed()
    settings.scale = 2.0
    assert stamped.changed()


def test_training_a_parameter_is_no_change():
    held, before = [SHARED.weight], stamp([SHARED.weight])
    with torch.no_grad():
        SHARED.weight.add_(1)
    assert stamp(held) == before


def circle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [list(range(2000)), circle(), [[0] * 600] * 2], ids=["long", "circle", "nested"])
def test_what_holds_too_much_has_no_stamp_and_is_not_copied(value):
    assert stamp(value) is None
    assert copyable(value, {}) is False
    assert not trained([0] * 2000)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ([1, "a", None, torch.ones(2), {"b": (torch.float32, Colour.RED)}], True),
        (SimpleNamespace(f=torch.tanh, g=partial(max, 1)), True),
        (numpy.float32(0.5), True),
        ([SHARED], True),
        ([nn.Linear(1, 1)], None),
        ([torch.Generator()], False),
        (torch.empty(2**26, device="meta"), True),
        (torch.empty(2**26 + 1, device="meta"), False),
    ],
)
def test_settings_are_copied_and_data_are_not(value, answer):
    assert copyable(value, {id(SHARED): SHARED}) is answer


def test_results_of_training_are_told_from_settings():
    assert trained(SHARED(torch.ones(1)))
    assert trained({"a": [SHARED.weight]})
    assert trained(torch.optim.SGD(SHARED.parameters(), 0.1))
    assert not trained([torch.ones(2), SHARED])


def test_what_never_changes_is_told_from_what_may():
    """The first need not be looked into again."""
    assert all(map(constant, (1, "a", None, (1, ("a", 2.0)))))
    assert not any(map(constant, ([1], {"a": 1}, (1, [2]), torch.zeros(1))))
