"""Scores whose wide linear layers multiply 8-bit whole numbers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from puresift import settings, trees
from puresift.errors import SiftError
from puresift.scores.model import Scored, Twin
from puresift.scores.parts import parts
from puresift.scores.sharding import Sharded
from puresift.types import Batch, Losses, Params, ScoreFn

LEAST = 256  # where layers are narrower, rounding costs what the products save
_TOP = 127  # of an 8-bit whole number, the same on both sides of zero
_DEEP = 2**31 // _TOP**2  # products of that many numbers fit into 32 bits
_TURING = (7, 5)  # the first GPUs with 8-bit products
_SHARDED = (
    "a sharded model is scored live, with weights that it gathers for itself, and none of them is rounded; leave "
    "ps.int8 out, and use ps.autocast(score)"
)
_BY_ROW = (
    "a per-sample score runs each row by itself under vmap, which has no 8-bit product; wrap the batched one, "
    "ps.int8(ps.batched(model, loss))"
)


def int8(score: ScoreFn, *, least: int = LEAST, anyway: bool = False) -> ScoreFn:
    """Score with wide linear layers in 8-bit whole numbers, rounded anew at each pool.

        x_i ~ a_i * X_i,  a_i = max |x_i| / 127, for each row of activations
        w_j ~ c_j * W_j,  c_j = max |w_j| / 127, for each channel of weights
        y_ij = a_i * c_j * sum_k X_ik W_jk + b_j,  products of 8 bits, summed in 32, exactly (`torch._int_mm`)

    A layer of n inputs is off by at most n * max |x_i| * max |w_j| * (1 / 127 + 1 / 254 ** 2), which is reached if all
    errors have one sign. They have not: losses of random nets are off by less than 3 % of their spread. Those of MiniLM
    rank as in float32 to .9997, but to .95 while its head is new and all losses are nearly the same. The weights are
    read at each call, for they move: rounded ones that are some ten training steps old rank differently. Nothing is
    random, and the model is not touched: only calls of `torch.nn.functional.linear` within the score are. Narrower
    layers and all else keep the score's own precision.

    Compile around it, and let the rest be bfloat16: `ps.compiled(ps.int8(ps.autocast(score)))`, so that the rounding is
    fused with its neighbours; uncompiled it seldom pays. On MiniLM, 64x32 tokens, one thread, that took .69 of the time
    of `ps.compiled(ps.autocast(score))`. Layers 128 wide were no faster by it, layers 384 wide were; `python -m bench
    merit --task width` measures where a machine begins to gain.

    A CPU needs AVX512-VNNI or AMX, a GPU compute capability 7.5; there the same call is cuBLAS's. On others the score
    stays as it is, which is said once; `anyway` gives the same scores everywhere. Linear layers inside
    `nn.MultiheadAttention`, convolutions and `addmm` are left alone. Floating point of 8 bits on GPUs, or rounding
    inside the product's kernel, would need torchao in a release made for the torch at hand, and weights that are
    converted anew at each pool, where it converts a model once.

    Args:
        score: a batched score; there is no gradient.
        least: inputs and outputs that a layer must have at least to be rounded, >= 1.
        anyway: round on machines without the instruction as well, slowly: the same scores everywhere.

    Returns:
        A score, Float[B].

    Raises:
        SiftError: least is out of range; the score is per sample, or a model that it runs is sharded or has no linear
            layer so wide, by which nothing is gained.

    Example:
        >>> import puresift as ps
        >>> model = nn.Linear(64, 64)
        >>> score = ps.batched(model, lambda model, x: model(x).square().sum(1))
        >>> whole, x = int8(score, least=64, anyway=True), torch.randn(8, 64)
        >>> torch.allclose(whole(ps.live(model), x), score(ps.live(model), x), rtol=0.1)
        True

    References:
        Tim Dettmers, Mike Lewis, Younes Belkada, Luke Zettlemoyer, "LLM.int8(): 8-bit Matrix Multiplication for
        Transformers at Scale", 2022: a scale for each row of activations and each channel of weights.
    """
    least = settings.count("least", least)
    if not callable(score) or isinstance(score, tuple):
        raise SiftError(f"int8 rounds a plain score, and this is a {type(score).__name__}; wrap the score inside it")
    models = [part for part in parts(score) if isinstance(part, Scored)]
    _suited(score, [model.image for model in models], least)
    _mark()

    def rounded(params: Params, batch: Batch) -> Losses:
        device = trees.leaves(trees.plain(batch))[0].device
        if not anyway and not able(device.type, device.index):
            return score(params, batch)
        if not torch.compiler.is_compiling() and any(isinstance(model.image, Sharded) for model in models):
            raise SiftError(_SHARDED)  # since the score was made
        with torch.no_grad(), _Rounding(least):
            return score(params, batch)

    return rounded


@functools.cache
def _mark() -> None:
    """Tell the compiler what to make of this module; not when it is imported, for that would import the compiler."""
    from torch._dynamo.eval_frame import skip_code

    torch.compiler.assume_constant_result(able)
    # Where a model breaks the graph this would be compiled by itself, guarded by the address of `func`; that of an
    # attribute such as `Tensor.device` lives for one call only, and the next one may come to lie there.
    skip_code(_Rounding.__torch_function__.__code__)


def able(kind: str, index: int | None) -> bool:
    """Whether a device multiplies 8-bit whole numbers; that it does not is said once."""
    if not multiplies(kind, index):
        _tell(kind)
    return multiplies(kind, index)


@functools.cache
def multiplies(kind: str, index: int | None) -> bool:
    """Whether a device has an instruction for products of 8-bit whole numbers."""
    if kind == "cuda":
        return torch.cuda.get_device_capability(index) >= _TURING
    return kind == "cpu" and any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_vnni", "amx_int8"))


@functools.cache
def _tell(kind: str) -> None:
    lacks = {"cpu": "this CPU has neither AVX512-VNNI nor AMX", "cuda": "this GPU is older than compute capability 7.5"}
    warnings.warn(
        f"{lacks.get(kind, f'a device of kind {kind!r} is not known to multiply 8-bit whole numbers')}, so ps.int8 "
        "would be slower than what it wraps: the score stays as it is; ps.compiled(ps.autocast(score)) may be cheaper",
        stacklevel=3,
    )


class _Rounding(TorchFunctionMode):
    """Wide linear layers that are called within multiply whole numbers; nothing of the model is replaced."""

    def __init__(self, least: int):
        super().__init__()
        self.least = least

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unflatten:  # which the compiler cannot follow within a mode
            func = torch.unflatten
        return (self._linear if func is F.linear else func)(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not _wide(weight, self.least) or not input.is_floating_point() or input.numel() == 0:
            return F.linear(input, weight, bias)
        if torch._C._functorch.is_batchedtensor(input):
            raise SiftError(_BY_ROW)
        return linear(input, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer in 8-bit whole numbers, in the precision that `F.linear` would answer in."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    left, rows = _rounded(x.reshape(-1, x.shape[-1]))
    right, channels = _rounded(weight)
    sums = torch._int_mm(*fitted(left, right)) if x.is_cuda else torch._int_mm(left, right.t())
    y = sums[: left.shape[0], : right.shape[0]].float() * rows * channels[:, 0]
    y = y if bias is None else y + bias.float()
    return y.to(dtype).reshape(*x.shape[:-1], weight.shape[0])


def fitted(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors filled up with zeros to what cuBLAS takes: more than 16 rows, the other sides multiples of 8."""
    (rows, depth), channels = left.shape, right.shape[0]
    more = 17 - rows if rows < 17 else 0
    return F.pad(left, (0, -depth % 8, 0, more)), F.pad(right, (0, -depth % 8, 0, -channels % 8)).t()


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers Int8[n, m] and their scales Float32[n, 1]; a row that is not finite gets a scale that is not."""
    values = values.float()
    scales = values.abs().amax(1, keepdim=True) / _TOP
    whole = values / torch.where(scales > 0, scales, torch.inf)
    # NaN and infinity have no 8 bits: they become zeros, which their row's scale makes NaN again.
    return torch.where(whole.isfinite(), whole, 0.0).round().to(torch.int8), scales


def _wide(weight: Tensor, least: int) -> bool:
    return weight.ndim == 2 and weight.is_floating_point() and min(weight.shape) >= least and weight.shape[1] < _DEEP


def _suited(score: Any, images: list[Twin | Sharded], least: int) -> None:
    """Refuse what cannot be rounded, or gains nothing by it."""
    if any(isinstance(part, Twin) and part not in images for part in parts(score)):
        raise SiftError(_BY_ROW)
    if any(isinstance(image, Sharded) for image in images):
        raise SiftError(_SHARDED)
    models = [model for model in (image.source() for image in images) if model is not None]
    if models and not any(_wide(weight, least) for model in models for weight in _weights(model)):
        widest = max((min(weight.shape) for model in models for weight in _weights(model)), default=0)
        raise SiftError(
            f"no linear layer of the model is {least} wide, the widest {widest}, so that 8 bits gain nothing; leave "
            "ps.int8 out, and use ps.compiled(ps.autocast(score))"
        )


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """What may be the weight of a linear layer: matrices, but not those of an embedding."""
    for module in model.modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield from (weight for weight in module.parameters(recurse=False) if weight.ndim == 2)
