"""Stochastic rounding in torch: a dispatch mode that rounds every result of a float64 program at random, forward and backward.

    perturbed result = o + max(spread, min(|o|, floor)) / sqrt(3) * xi        xi ~ N(0, 1)

The spreads are those of `stochastic_rounding`, which does the same for a jaxpr. A fused operation is decomposed first: one
rounding at its end would be too little.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from attention.parity.numerics import rounding_tables
from attention.parity.numerics.dtype_rounding import Rounding

# Float results of these are moved or chosen, never rounded; views are exact whatever their name. The rest round once.
EXACT = frozenset(
    """
    _to_copy _unsafe_index _unsafe_view abs amax amin aminmax arange as_strided_scatter bernoulli bucketize cat ceil clamp
    clamp_max clamp_min clone col2im constant_pad_nd copy cummax cummin diagonal_scatter embedding empty empty_like
    empty_strided exponential eye fill flip floor fmax fmin fmod full full_like gather hardtanh im2col index index_copy
    index_fill index_put index_select kthvalue lift_fresh_copy masked_fill masked_scatter masked_select max
    max_pool2d_with_indices max_pool2d_with_indices_backward maximum median min minimum mode nan_to_num neg new_empty
    new_empty_strided new_full new_ones new_zeros normal ones ones_like permute_copy rand rand_like randn randn_like
    reflection_pad1d reflection_pad2d relu remainder repeat replication_pad1d replication_pad2d roll round scalar_tensor
    scatter select_backward select_scatter sgn sign slice_backward slice_scatter sort split_with_sizes_copy stack threshold
    threshold_backward topk tril triu trunc uniform upsample_nearest1d upsample_nearest2d view_copy where zero zeros
    zeros_like
    """.split()  # noqa: SIM905 a table of names is read at a glance, a column of a hundred quoted lines is not
)

FACTORS = {**rounding_tables.FACTORS, "log10": 1.5, "sigmoid": rounding_tables.FACTORS["logistic"]}

# n of a sum. Every one of these is linear in each operand: of squares, it makes sum (a b)^2.
TERMS: dict[str, Callable[..., int]] = {
    "addbmm": lambda _, a, *__, **___: a.shape[0] * a.shape[2] + 1,
    "addmm": lambda _, a, *__, **___: a.shape[-1] + 1,
    "addmv": lambda _, a, *__, **___: a.shape[-1] + 1,
    "baddbmm": lambda _, a, *__, **___: a.shape[-1] + 1,
    "bmm": lambda a, *_, **__: a.shape[-1],
    "convolution": lambda _, weight, *__, **___: weight.numel() // min(weight.shape[:2]),
    "convolution_backward": lambda grad, _, weight, *__, **___: max(
        grad.numel() // grad.shape[1], weight.numel() // min(weight.shape[:2])
    ),
    "cumsum": lambda x, dim, **_: x.shape[dim] if x.ndim else 1,
    "dot": lambda a, *_: a.numel(),
    "mm": lambda a, *_, **__: a.shape[-1],
    "mv": lambda a, *_: a.shape[-1],
    "sum": lambda x, dim=None, *_, **__: math.prod(x.shape[axis] for axis in dim) if dim else x.numel(),
}

FUSED = """
    _fused_rms_norm _fused_rms_norm_backward _log_softmax _log_softmax_backward_data _native_batch_norm_legit
    _native_batch_norm_legit_no_training _safe_softmax _softmax _softmax_backward_data addcdiv addcmul binary_cross_entropy
    binary_cross_entropy_backward elu elu_backward gelu gelu_backward glu glu_backward hardsigmoid hardswish hardswish_backward
    huber_loss huber_loss_backward lerp linalg_vector_norm logsumexp mean mish mish_backward mse_loss mse_loss_backward
    native_batch_norm native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm
    native_layer_norm_backward nll_loss_backward nll_loss_forward norm sigmoid_backward silu silu_backward smooth_l1_loss
    smooth_l1_loss_backward softplus softplus_backward std tanh_backward var var_mean
    """.split()  # noqa: SIM905 as above

NARROW = (torch.float32, torch.bfloat16, torch.float16)
FOURIER = ("_fft_c2c", "_fft_c2r", "_fft_r2c")


@cache
def _fused() -> dict[Any, Callable[..., Any]]:
    """Return the decomposition of each fused operation that this torch has."""
    packets = [getattr(torch.ops.aten, name) for name in FUSED if hasattr(torch.ops.aten, name)]
    return dict(get_decompositions(packets))


class TorchStochasticRounding(TorchDispatchMode):
    """Perturbs what operations return, in float64 even where the program asks for fewer digits.

    Args:
        draws: the generator of xi; None perturbs nothing, which is the oracle.
        rounding: of the compute dtype.
    """

    def __init__(self, draws: np.random.Generator | None, rounding: Rounding) -> None:
        super().__init__()
        self.draws, self.rounding = draws, rounding

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = {name: _wide_dtype(value) for name, value in (kwargs or {}).items()}
        if _views(func):
            return func(*args, **kwargs)
        if not _writes(func):
            args, kwargs = tree_map_only(Tensor, _wide, (args, kwargs))
        if func in _fused():
            with self:
                return _fused()[func](*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.pow:
            args = _whole(*args)
        results = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        bare = name.removesuffix("_")
        # index_put with accumulate, its fourth argument, adds.
        exact = (bare in EXACT and not (bare == "index_put" and any(args[3:]))) and not (bare == "abs" and args[0].is_complex())
        if self.draws is None or exact:
            return results
        single = isinstance(results, Tensor)
        made = (results,) if single else tuple(results) if isinstance(results, (tuple, list)) else ()
        spreads = self._spreads(func, bare, args, kwargs, made, fresh=not _writes(func))
        made = [self._rounded(o, s, written=_writes(func)) for o, s in zip(made, spreads, strict=True)]
        return made[0] if single else type(results)(made) if made else results

    def _spreads(self, func: Any, name: str, args: Any, kwargs: Any, made: tuple[Any, ...], *, fresh: bool) -> list[Any]:
        """Return the largest rounding error of each result, per element; None if it is no float."""
        unit = self.rounding.unit
        floats = [o.abs() if isinstance(o, Tensor) and (o.is_floating_point() or o.is_complex()) else None for o in made]
        if name in FOURIER:
            return [None if o is None else _transformed(o, args[1], unit) for o in floats]
        if name in rounding_tables.LARGER_TERMS and fresh:
            return [unit * rounding_tables.of_terms(name, floats[0], args[0].abs())]
        if name not in TERMS or not fresh:
            return [None if o is None else unit * FACTORS.get(name, 1.0) * o for o in floats]
        depth = rounding_tables.depth_of(TERMS[name](*args, **kwargs))
        squared = func(*tree_map_only(Tensor, _square, args), **{key: _factor(key, value) for key, value in kwargs.items()})
        squares = (squared,) if isinstance(squared, Tensor) else squared
        return [None if o is None else unit * (depth * s + o * o).sqrt() for o, s in zip(floats, squares, strict=True)]

    def _rounded(self, o: Any, spread: Tensor | None, *, written: bool) -> Any:
        """Return `o` as rounding may leave it; where the program writes in place, so is this written."""
        if spread is None or self.draws is None:
            return o
        xi = torch.from_numpy(self.draws.standard_normal(tuple(o.shape))).to(o.device) / math.sqrt(3)
        if o.is_complex():
            xi = torch.complex(xi, torch.from_numpy(self.draws.standard_normal(tuple(o.shape))).to(o.device) / math.sqrt(3))
        moved = o + torch.maximum(spread, o.abs().clamp(max=self.rounding.floor)) * xi
        # inf + inf * xi may be NaN: a score that is masked with -inf stays what it is.
        moved = torch.where(torch.isfinite(spread), moved, o).to(o.dtype)
        return o.copy_(moved) if written else moved


class _Eps(TorchFunctionMode):
    """Gives RMSNorm the eps that it takes where none is said, which is that of float32 in every dtype but float64."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.rms_norm, torch.nn.functional.rms_norm):
            given = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)) | kwargs
            given["eps"] = torch.finfo(torch.float32).eps if given.get("eps") is None else given["eps"]
            return func(**given)
        return func(*args, **kwargs)


def _wide(x: Tensor) -> Tensor:
    return x.to(_wide_dtype(x.dtype))


def _wide_dtype(value: Any) -> Any:
    return torch.float64 if value in NARROW else torch.complex128 if value is torch.complex64 else value


def _square(x: Tensor) -> Tensor:
    return x.abs().square() if x.is_complex() else x * x if x.is_floating_point() else x


def _transformed(size: Tensor, axes: Any, unit: float) -> Tensor:
    """Return the spread of a Fourier transform, as in `stochastic_rounding`."""
    depth = math.log2(max(2, math.prod(size.shape[axis] for axis in axes)))
    return (unit * (depth * size.square().mean(tuple(axes), keepdim=True)).sqrt()).expand_as(size)


def _whole(base: Any, exponent: Any, *rest: Any) -> tuple[Any, ...]:
    """Return the operands of a power, as in `stochastic_rounding`."""
    if isinstance(exponent, Tensor) and exponent.is_floating_point():
        negative = base < 0 if isinstance(base, Tensor) and base.is_floating_point() else torch.tensor(False)
        exponent = torch.where(negative, exponent.round(), exponent)
    return base, exponent, *rest


def _factor(name: str, value: Any) -> Any:
    return value * value if name in ("alpha", "beta") else value


@cache
def _views(func: Any) -> bool:
    """Return whether an operation returns a view of its operand."""
    return any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)  # noqa: SLF001 - torch has no other


@cache
def _writes(func: Any) -> bool:
    """Return whether an operation writes to one of its operands."""
    return bool(func._schema.is_mutable)  # noqa: SLF001 - as above


@contextmanager
def noisy(draws: np.random.Generator | None, rounding: Rounding) -> Generator[None]:
    """Run the body in float64, one plain operation at a time, each rounded at random."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        # The other kernels of attention are one operation, which nothing takes apart on the way back.
        with sdpa_kernel(SDPBackend.MATH), _Eps(), TorchStochasticRounding(draws, rounding):
            yield
    finally:
        torch.set_default_dtype(before)
