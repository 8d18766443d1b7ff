"""Counters for a stream on several ranks: what is read on the host, and what goes from rank to rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Counts what reads a tensor's value on the host; tolist, numpy and cpu are caught by name."""

    NAMES = ("tolist", "numpy", "cpu")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.real = {name: getattr(Tensor, name) for name in self.NAMES}

    def __enter__(self) -> Any:
        for name, real in self.real.items():
            setattr(Tensor, name, self._counted(real))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for name, real in self.real.items():
            setattr(Tensor, name, real)

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def counting(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.count += 1
            return real(tensor, *arguments, **options)

        return counting

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*args, **(kwargs or {}))


class Wire:
    """Counts the bytes that this rank receives by the library's exchanges, and the exchanges."""

    def __init__(self) -> None:
        self.bytes = self.messages = 0
        self.real = {name: getattr(dist, name) for name in ("all_gather", "all_to_all_single")}

    def __enter__(self) -> Wire:
        def all_gather(parts: list[Tensor], own: Tensor) -> Any:
            self.bytes, self.messages = self.bytes + (len(parts) - 1) * own.nbytes, self.messages + 1
            return self.real["all_gather"](parts, own)

        def all_to_all_single(come: Tensor, own: Tensor, *sizes: Any) -> Any:
            self.bytes, self.messages = self.bytes + come.nbytes, self.messages + 1
            return self.real["all_to_all_single"](come, own, *sizes)

        dist.all_gather, dist.all_to_all_single = all_gather, all_to_all_single  # type: ignore[assignment]
        return self

    def __exit__(self, *error: Any) -> None:
        for name, real in self.real.items():
            setattr(dist, name, real)
