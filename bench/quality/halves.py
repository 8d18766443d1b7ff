"""bfloat16 where a processor has no instructions for it: the same numbers, made in float32.

There torch takes ten times as long to multiply matrices of bfloat16 as those of float32. The product of two numbers is
exact in float32, and the instructions sum in float32 too; so a product of matrices in float32, rounded at its end, is
the same up to the order of its sums. What a run finds does not change by this; its costs must be measured elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measure import native
from bench.quality.task import Task

ATEN = torch.ops.aten
PRODUCTS = {ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default, ATEN.baddbmm.default}


def halves(task: Task) -> AbstractContextManager[Any]:
    """Within it a task's matrices of bfloat16 are multiplied in float32, on a processor that is slow at them."""
    return nullcontext() if native() or torch.bfloat16 not in (task.dtype, task.scored) else Widened()


class Widened(TorchDispatchMode):
    """Matrix products of bfloat16 in float32, rounded at the end."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in PRODUCTS or args[0].dtype != torch.bfloat16:
            return func(*args, **kwargs)
        return func(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args), **kwargs).bfloat16()
