"""What a command line names: a thing in a module or a script, and the job that it gives."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from puresift.errors import SiftError
from puresift.trials.advising import advise

_ORDER = ("model", "loss", "loader", "optimizer")
_JOB = f"({', '.join(_ORDER[:3])}) or (..., optimizer), or a dict of arguments of ps.advise"


def imported(target: str, form: str) -> Any:
    """The thing that MODULE:NAME, or SCRIPT.py:NAME, names.

    Raises:
        SiftError: it cannot be imported.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not name:
        raise SiftError(f"write {form}, got {target!r}")
    try:
        with _beside(place):
            return getattr(_script(place) if place.endswith(".py") else import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise SiftError(f"{target} cannot be imported: {error}") from error
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        raise SiftError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _beside(place: str) -> Iterator[None]:
    """What lies beside a script, or here, can be imported: as `python script.py` and `python -m module` have it."""
    folder = str(Path(place).resolve().parent) if place.endswith(".py") else os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _script(place: str) -> ModuleType:
    name = f"puresift_script_{Path(place).stem}"  # which hides no module of the script's own name
    spec = spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def called(factory: Any, target: str) -> Any:
    """What a factory returns.

    Raises:
        SiftError: it raised.
    """
    try:
        return factory()
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise SiftError(f"{target}() raised {type(error).__name__}: {error}") from error


def job(target: str) -> dict[str, Any]:
    """The arguments of `ps.advise` that SCRIPT:NAME gives.

    Raises:
        SiftError: it cannot be imported, raises, or gives something else.
    """
    made = imported(target, "SCRIPT:NAME, such as train.py:job")
    made = called(made, target) if inspect.isroutine(made) else made
    if isinstance(made, tuple) and len(made) in (3, 4):
        return dict(zip(_ORDER, made, strict=False))
    known = inspect.signature(advise).parameters
    if not isinstance(made, dict):
        raise SiftError(f"{target} must be or return {_JOB}, got {type(made).__name__}")
    if wrong := [repr(name) for name in made if name not in known]:
        raise SiftError(
            f"{target} gives {', '.join(wrong)}, which ps.advise does not take; it takes {', '.join(known)}"
        )
    if missing := [name for name in _ORDER[:3] if name not in made]:
        raise SiftError(f"{target} gives no {', '.join(missing)}; it must be or return {_JOB}")
    return made
