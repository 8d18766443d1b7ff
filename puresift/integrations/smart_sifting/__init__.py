"""Amazon SageMaker Smart Sifting's public API on top of puresift, for scripts written for `smart_sifting`.

`python -m puresift.integrations.smart_sifting SCRIPT` runs such a script unchanged; in your own program, call
`register()` before the first `import smart_sifting`, or import the same names from here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from puresift.integrations.smart_sifting.exceptions import (
    LossImplementationNotProvidedException,
    SiftConfigValidationException,
    UnsupportedDataFormatException,
)

__all__ = [
    "LossImplementationNotProvidedException",
    "SiftConfigValidationException",
    "UnsupportedDataFormatException",
    "register",
]
ALIAS = "smart_sifting"


def register() -> None:
    """Make `import smart_sifting`, and every module below it, import this package; a second call is harmless.

    Raises:
        ImportError: another `smart_sifting` is imported already.

    Example:
        >>> register()
        >>> from smart_sifting.sift_config.sift_configs import SiftingBaseConfig
        >>> SiftingBaseConfig()
        SiftingBaseConfig(sift_delay=1000, repeat_delay_per_epoch=False)
    """
    taken = sys.modules.get(ALIAS)
    if taken is not None and taken is not sys.modules[__name__] and not hasattr(taken, "register"):
        place = getattr(taken, "__file__", None)
        raise ImportError(f"another {ALIAS} is imported already, from {place}; register puresift's before it")
    sys.modules[ALIAS] = sys.modules[__name__]
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder, Loader):
    """Gives module `smart_sifting.x` as this package's own `x`: one module, two names, so each class exists once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(ALIAS + ".") or find_spec(_ours(fullname)) is None:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(_ours(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system set the alias's spec on a module that was loaded before under its own: restore that.
        spec = module.__spec__
        if spec is not None and spec.loader is self:
            module.__spec__ = spec.loader_state


def _ours(name: str) -> str:
    return __name__ + name.removeprefix(ALIAS)
