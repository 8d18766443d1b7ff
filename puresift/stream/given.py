"""What a sifting loader is given: checked early, and what it does not say read off the loader."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from puresift import sifters
from puresift.data.pools import again
from puresift.distributed.ranks import place
from puresift.errors import ArgumentError, SiftError
from puresift.scores import model
from puresift.stream.padding import Ragged, collated

_SETTINGS = [  # those of `ps.sifter`, except the batch size
    name
    for name, parameter in inspect.signature(sifters.sifter).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "batch_size"
]


def check(loader: Any, params: Any, settings: Mapping[str, Any]) -> None:
    """Refuse what cannot be sifted, or sifted with.

    Raises:
        SiftError: the loader is none, or params are.
        TypeError: there is no such setting.
    """
    once = isinstance(loader, Iterator) and not again(loader)
    if once or not isinstance(loader, Iterable):
        kind = "a one-shot iterator" if once else f"a {type(loader).__name__}"
        raise SiftError(f"the loader is {kind}; pass an iterable that can be iterated again, such as a DataLoader")
    if isinstance(params, nn.Module):
        raise SiftError("params is a model; pass params=ps.live(model), which reads its parameters at each use")
    model.given(params)
    if unknown := sorted(settings.keys() - set(_SETTINGS)):
        raise ArgumentError(f"there is no setting {', '.join(unknown)}; those of the sifter are {', '.join(_SETTINGS)}")


def ragged(loader: Any, settings: dict[str, Any]) -> Ragged | None:
    """The padding that pad="auto" asks for, taken out of the settings.

    Raises:
        SiftError: pad is another word, or rows of any length would move between ranks.
    """
    pad = settings.get("pad")
    if pad is not None and settings.get("ranks") == "global" and not isinstance(pad, Mapping) and place()[1] > 1:
        raise SiftError(
            'with ranks="global" rows move between ranks, so all need one length; instead of pad="auto" declare it, '
            "as in pad={'input_ids': ps.Pad(0, 128)}"
        )
    if not isinstance(pad, str | Ragged):
        return None
    if isinstance(pad, str) and pad != "auto":
        raise SiftError(f'pad must be "auto", or a ps.Pad by the name of a leaf, got {pad!r}')
    settings.pop("pad")
    return pad if isinstance(pad, Ragged) else collated(loader)


def batch_size(loader: Any) -> int | None:
    """Rows in a batch, where the loader says so."""
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None
