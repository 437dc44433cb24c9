"""`dot_product_attention` in JAX: check the call, choose a kernel, run it.

context = softmax(q k^T * scale + ...) v        see attention/spec/attend.py
"""

from __future__ import annotations

from functools import partial
from inspect import signature as signature_of
from typing import Any, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from attention.jax_impl.kernels import KERNELS
from attention.jax_impl.masks import confine_nan, native, read
from attention.jax_impl.random import check_seed
from attention.spec.axes import COMPUTE, check_beside, check_float, sizes
from attention.spec.call_types import AttendOptions, Names
from attention.spec.errors import DTypeError, OptionError, shown
from attention.spec.kernels import OPTIONAL, Choice, Request, answer, choose, intermediate_names
from attention.spec.masks.algebra import Mask
from attention.spec.scores import SCORE_MOD, ScaledDot, ScoreMod


@overload
def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    return_intermediates: tuple[()] = ...,
    **options: Unpack[AttendOptions[jax.Array]],
) -> jax.Array: ...


@overload
def dot_product_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, return_intermediates: Names, **options: Unpack[AttendOptions[jax.Array]]
) -> tuple[jax.Array, dict[str, jax.Array]]: ...


@overload
def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    return_intermediates: tuple[str, ...],
    **options: Unpack[AttendOptions[jax.Array]],
) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]: ...
def dot_product_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: Mask | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: ScoreMod | None = None,
    sinks: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_seed: Any = None,
    precision: str | None = None,
    return_intermediates: tuple[str, ...] = (),
    implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Return the attention of queries to keys and values.

    Args:
        q: `(*batch, T, H, D)`.
        k: `(*batch, S, K, D)`; query head h reads key/value head `h // (H // K)`.
        v: `(*batch, S, K, E)`.
        mask: which keys a query may attend to, such as `spec.Causal() & spec.Lengths(kv=[7, 5])`; None allows all.
        bias: added to the scores, broadcastable to `(*batch, H, T, S)`.
        scale: factor of `q . k`; None means 1 / sqrt(D).
        softcap: bounds scores to (-softcap, softcap) before the bias.
        score_mod: `(score, b, h, t, s) -> score`, written with operators, applied after the bias and before the mask.
        sinks: `(H,)` logits that join the denominator of the softmax and have no value.
        dropout_rate: probability of dropping a weight, in [0, 1).
        dropout_seed: an int or an integer scalar: the same seed drops the same weights in every framework and kernel.
        precision: least precision of float32 products: None (as the framework is set), "default", "high", "highest".
        return_intermediates: names among `spec.INTERMEDIATES`, to be returned as well. They never change which kernel makes the
            context.
        implementation: "auto", or the name of a kernel.

    Returns:
        `(*batch, T, H, E)` in the dtype of `q`; with `return_intermediates`, that and a dict of intermediates.

    Raises:
        ShapeError: a rank or a size does not fit.
        DTypeError: not an array, float64 without JAX's 64-bit mode, not floating, or two dtypes.
        MaskError: the mask does not fit, or leaves its alignment unsaid.
        OptionError: an option outside its range.
        UnknownName: no such kernel.
        KernelRefused: the kernel chosen by name refuses the call.
    """
    named = intermediate_names(return_intermediates)
    request = make_request(q, k, v, mask, bias, scale, softcap, score_mod, sinks, dropout_rate, dropout_seed, precision, named)
    intermediates = _run(request, implementation)
    return (intermediates["context"], {name: intermediates[name] for name in named}) if named else intermediates["context"]


def _run(request: Request, implementation: str) -> dict[str, jax.Array]:
    run = partial(answer, KERNELS, implementation=implementation)
    if request.mask is None or not request.mask.confines_nan:
        return run(request)
    return confine_nan(request, run)


OPTIONS = tuple(name for name, p in signature_of(dot_product_attention).parameters.items() if p.kind is p.KEYWORD_ONLY)


def explain(q: jax.Array, k: jax.Array, v: jax.Array, *, implementation: str = "auto", **options: Any) -> Choice:
    """Return the choice that `dot_product_attention` would make for the same arguments: the kernel and every refusal."""
    for name in options:
        if name not in OPTIONS:
            raise OptionError(f"{name} is no argument of dot_product_attention: {', '.join(OPTIONS)}")
    intermediates = intermediate_names(options.pop("return_intermediates", ()))
    return choose(KERNELS, make_request(q, k, v, **options, intermediates=intermediates), implementation)


def make_request(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: ScoreMod | None = None,
    sinks: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_seed: Any = None,
    precision: str | None = None,
    intermediates: tuple[str, ...] = (),
) -> Request:
    """Return the checked request of a call; arguments as in `dot_product_attention`."""
    if dropout_seed is not None:
        check_seed(dropout_seed)
    if score_mod is not None:
        SCORE_MOD.check("score_mod", score_mod)
    q, k, v, bias, sinks = check_arrays(query=q, key=k, value=v, bias=bias, sinks=sinks)
    dtype = check_float(query=q, key=k, value=v)
    check_beside(dtype, bias=bias, sinks=sinks)
    of = sizes(q, k, v)
    mask = native(mask)
    if mask is not None:
        mask.check(of, read)
    factor = ScaledDot(scale).factor(of.D)
    return Request(
        q,
        k,
        v,
        of,
        dtype,
        factor,
        mask,
        bias,
        softcap,
        score_mod,
        sinks,
        dropout_rate,
        dropout_seed,
        precision,
        intermediates,
        jax.default_backend(),
    )


def check_arrays(**arrays: Any) -> list[Any]:
    """Return the arguments as JAX arrays; those of `OPTIONAL` may be None, and stay so.

    Raises:
        DTypeError: not an array, or float64 that JAX would silently cut to float32.
    """
    converted: list[Any] = []
    for name, array in arrays.items():
        if not isinstance(array, (jax.Array, np.ndarray)) and not (array is None and name in OPTIONAL):
            raise DTypeError(f"{name} {type(array).__module__}.{type(array).__name__} must be a jax.Array or numpy.ndarray")
        if isinstance(array, np.ndarray) and array.dtype.kind in "OSUVMm":
            # What JAX has no array of.
            raise DTypeError(f"{name} {shown(array)} must be one of {', '.join(COMPUTE)}")
        if array is not None:
            check_x64(name, str(array.dtype))
        converted.append(None if array is None else jnp.asarray(array))
    return converted


def check_x64(name: str, dtype: str) -> None:
    """Raise DTypeError for float64 while JAX's 64-bit mode is off, where it would become float32 without a word."""
    if dtype == "float64" and jnp.zeros(0, jnp.result_type(float)).dtype != jnp.float64:
        raise DTypeError(f"{name} float64 must wait for JAX's 64-bit mode: jax.config.update('jax_enable_x64', True)")
