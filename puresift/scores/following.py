"""Plain attributes of a model, taken over by its copy when they change: a temperature, a mask, a dict of settings.

Parameters and buffers are passed in by name at each score. What else a forward reads was copied once; here the live
values are compared with those that were copied, on the host alone, and what has changed is copied again. What a forward
sets itself (a cache, a counter, an activation) is no setting, and is left to each of the two.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import chain
from operator import is_, itemgetter
from typing import Any

from torch import Tensor, nn

from puresift.scores.copies import SURROUNDINGS
from puresift.scores.stamps import PLAIN, Stamped, constant, copyable, stamp, trained

_STANDARD = {*vars(nn.Module()), *SURROUNDINGS, "_compiled_call_impl"}  # hooks, modes and slots: not followed


class OtherModules(Exception):
    """The live model is built differently now: its copy must be made again."""


class Follower:
    """Keeps the plain attributes of a copy as the live model has them."""

    def __init__(self, model: nn.Module, image: nn.Module):
        named, images = list(model.named_modules()), list(image.modules())
        pairs = list(zip(named, images, strict=True)) if len(named) == len(images) else []  # a copy of its own making
        self.images: dict[int, nn.Module] = {id(live): other for (_, live), other in pairs}
        self.slots = [live._modules for (_, live), _ in pairs]
        self.children = [dict(slots) for slots in self.slots]
        self.spaces = [_Attributes(name or "the model", vars(live), vars(other)) for (name, live), other in pairs]
        self._watch()
        self._note()

    def follow(self) -> None:
        """Take over what has changed.

        Raises:
            OtherModules: a module was added, removed or replaced.
        """
        if self.slots != self.children:
            raise OtherModules
        inside = {id(one.value) for one in self.watched if one.changed()}
        if not inside and self._still():
            return
        moved = [space for space in self.spaces if inside or not space.still()]
        memo: dict[int, Any] = dict(self.images)  # what modules share, their copies share
        if any([self._take(space, inside, memo) for space in moved]):
            self._watch()
        self._note()

    def _watch(self) -> None:
        """Note the tensors and containers, which can change while they stay the same object."""
        found = {id(value): value for space in self.spaces for value in space.values if not constant(value)}
        self.watched = [one for one in map(Stamped, found.values()) if one.stamp is not None]

    def _note(self) -> None:
        """Put what the modules have into one list, which takes half as long to compare as module by module."""
        self.sizes = [space.size for space in self.spaces]
        self.fetches = [(space.fetch, space.live) for space in self.spaces if space.fetch is not None]
        self.values = [*chain.from_iterable(fetch(live) for fetch, live in self.fetches)]

    def _still(self) -> bool:
        """Whether all modules have the attributes that they had, as the same objects."""
        if [len(space.live) for space in self.spaces] != self.sizes:
            return False
        try:
            return all(map(is_, chain.from_iterable([fetch(live) for fetch, live in self.fetches]), self.values))
        except KeyError:
            return False

    def _take(self, space: _Attributes, inside: set[int], memo: dict[int, Any]) -> bool:
        """Copy the changed attributes of one module; whether one of them was or is more than a number or a name."""
        before, deep = dict(zip(space.keys, space.values, strict=True)), False
        for key in space.gone():
            space.image.pop(key, None)
            deep = deep or not isinstance(before[key], PLAIN)
        for key, value in space.changed(inside):
            deep = deep or not isinstance(value, PLAIN) or not isinstance(before.get(key), PLAIN)
            if space.sets(key) or trained(value):
                space.left.add(key)
            else:
                self._copy(space, key, value, memo)
        space.note()
        return deep

    def _copy(self, space: _Attributes, key: str, value: Any, memo: dict[int, Any]) -> None:
        able = copyable(value, self.images)
        if able is None:
            raise OtherModules
        try:
            assert able, "too large, or of a kind that cannot be copied"
            plain = type(value) is Tensor
            image = memo.setdefault(id(value), value.detach().clone()) if plain else copy.deepcopy(value, memo)
            space.image[key] = image
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            space.left.add(key)
            warnings.warn(
                f"{key!r} of {space.name} has become another {type(value).__name__} since the score was made, which is "
                f"not taken over ({error}): if the forward reads it, make the score and the sifter anew",
                stacklevel=2,
            )


class _Attributes:
    """The plain attributes of a module, and of its copy."""

    def __init__(self, name: str, live: dict[str, Any], image: dict[str, Any]):
        self.name, self.live, self.image = name, live, image
        self.left: set[str] = set()  # not followed: the forward sets them itself, or they cannot be copied
        self.note()

    def note(self) -> None:
        """Remember what was copied, and what the copy got."""
        self.keys = [key for key in self.live if key not in _STANDARD and key not in self.left]
        self.size = len(self.live)
        self.values = tuple(self.live[key] for key in self.keys)
        self.fetch: Callable[[Any], Any] | None = itemgetter(*self.keys, *self.keys[:1]) if self.keys else None
        self.given = {key: (self.image[key], stamp(self.image[key])) for key in self.keys if key in self.image}

    def still(self) -> bool:
        """Whether the model's attributes are the objects they were."""
        if len(self.live) != self.size:
            return False
        try:
            return self.fetch is None or all(map(is_, self.fetch(self.live), self.values))
        except KeyError:
            return False

    def gone(self) -> list[str]:
        return [key for key in self.keys if key not in self.live]

    def changed(self, inside: set[int]) -> list[tuple[str, Any]]:
        """The attributes that are other objects now, or the same ones with other contents."""
        seen = dict(zip(self.keys, self.values, strict=True))
        return [
            (key, value)
            for key, value in self.live.items()
            if key not in _STANDARD
            and key not in self.left
            and (key not in seen or seen[key] is not value or id(value) in inside)
        ]

    def sets(self, key: str) -> bool:
        """Whether the copy's own forward has set the attribute."""
        if key not in self.image:
            return False
        value, mark = self.given.get(key, (self, None))
        return self.image[key] is not value or stamp(value) != mark
