"""The initial parameters of Flax NNX layers in NumPy: the same values from the same streams.

    kernel = lecun_normal(rngs.params(), (fan_in, fan_out)) = truncated_normal(-2, 2) sqrt(1 / fan_in) / 0.8796...
    bias   = 0, for which a key is drawn all the same          embedding = normal sqrt(1 / features)

A program in torch that makes its layers in the order of the NNX program begins with the same numbers: bit for bit where they
are uniform, and within 6 units of the last place where they are normal (3 of the draw, see jax_random.py, times what a
product makes of them). As in flax 0.12.

>>> from attention.spec.random import nnx_initializers
>>> from attention.spec.random.nnx_random import Rngs
>>> first = nnx_initializers.linear(Rngs(0), 3, 4)        # nnx.Linear(3, 4, rngs=nnx.Rngs(0))
>>> {name: value.shape for name, value in first.items()}
{'kernel': (3, 4), 'bias': (4,)}

`torch.nn.Linear.weight` is the kernel's transpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from attention.spec.errors import OptionError, shown
from attention.spec.random import jax_random
from attention.spec.random.counter_bits import Key
from attention.spec.random.jax_random import Shape
from attention.spec.random.nnx_random import Rngs

First = dict[str, np.ndarray]
"""The first values of a layer, by NNX's names."""


def variance_scaling(
    of: Key,
    shape: Shape,
    dtype: str = "float32",
    *,
    scale: float,
    mode: str,
    distribution: str,
    in_axis: int = -2,
    out_axis: int = -1,
) -> np.ndarray:
    """Return numbers of variance `scale / n`, as `nnx.initializers.variance_scaling(scale, mode, distribution)(of, shape)`.

    Args:
        of: a key.
        shape: of a kernel; axes that are neither in nor out are a convolution's places.
        dtype: float32 or float64.
        scale: of the variance.
        mode: what n is: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal", "normal" or "uniform".
        in_axis: the axis of inputs.
        out_axis: the axis of outputs.

    Raises:
        OptionError: another mode or distribution.
    """
    places = math.prod(shape) / shape[in_axis] / shape[out_axis]
    fan_in, fan_out = shape[in_axis] * places, shape[out_axis] * places
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    if mode not in fans:
        raise OptionError(f"mode {shown(mode)} must be one of {', '.join(fans)}")
    number = np.dtype(dtype).type
    variance = number(scale / fans[mode])
    if distribution == "truncated_normal":
        # The spread of a normal number that lies in (-2, 2).
        return jax_random.truncated_normal(of, -2, 2, shape, dtype) * (np.sqrt(variance) / number(0.87962566103423978))
    if distribution == "normal":
        return jax_random.normal(of, shape, dtype) * np.sqrt(variance)
    if distribution == "uniform":
        return jax_random.uniform(of, shape, dtype, -1.0) * np.sqrt(number(3) * variance)
    raise OptionError(f"distribution {shown(distribution)} must be one of truncated_normal, normal, uniform")


lecun_normal = partial(variance_scaling, scale=1.0, mode="fan_in", distribution="truncated_normal")
lecun_uniform = partial(variance_scaling, scale=1.0, mode="fan_in", distribution="uniform")
glorot_normal = partial(variance_scaling, scale=1.0, mode="fan_avg", distribution="truncated_normal")
glorot_uniform = partial(variance_scaling, scale=1.0, mode="fan_avg", distribution="uniform")
he_normal = partial(variance_scaling, scale=2.0, mode="fan_in", distribution="truncated_normal")
he_uniform = partial(variance_scaling, scale=2.0, mode="fan_in", distribution="uniform")

Initializer = Callable[[Key, Shape], np.ndarray]


def linear(
    rngs: Rngs, in_features: int, out_features: int, use_bias: bool = True, kernel_init: Initializer = lecun_normal
) -> First:
    """Return what `nnx.Linear(in_features, out_features, rngs=rngs)` begins with."""
    return linear_general(rngs, (in_features,), (out_features,), use_bias, kernel_init)


def linear_general(
    rngs: Rngs,
    in_features: int | Shape,
    out_features: int | Shape,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal,
) -> First:
    """Return what `nnx.LinearGeneral(in_features, out_features, rngs=rngs)` begins with: drawn as a matrix, then shaped."""
    ins, outs = ((n,) if isinstance(n, int) else tuple(n) for n in (in_features, out_features))
    made = {"kernel": kernel_init(rngs.params(), (math.prod(ins), math.prod(outs))).reshape(*ins, *outs)}
    return made | _bias(rngs, outs, use_bias)


def conv(
    rngs: Rngs,
    in_features: int,
    out_features: int,
    kernel_size: int | Shape,
    use_bias: bool = True,
    feature_group_count: int = 1,
    kernel_init: Initializer = lecun_normal,
) -> First:
    """Return what `nnx.Conv(in_features, out_features, kernel_size, rngs=rngs)` begins with: `(*kernel_size, in, out)`."""
    places = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    kernel = kernel_init(rngs.params(), (*places, in_features // feature_group_count, out_features))
    return {"kernel": kernel} | _bias(rngs, (out_features,), use_bias)


def embed(rngs: Rngs, num_embeddings: int, features: int) -> First:
    """Return what `nnx.Embed(num_embeddings, features, rngs=rngs)` begins with: normal, of variance 1 / features."""
    shape = (num_embeddings, features)
    drawn = variance_scaling(rngs.params(), shape, scale=1.0, mode="fan_in", distribution="normal", out_axis=0)
    return {"embedding": drawn}


def norm(rngs: Rngs, num_features: int, use_bias: bool = True) -> First:
    """Return what `nnx.LayerNorm`, or without a bias `nnx.RMSNorm`, begins with: nothing is drawn, but keys are used up."""
    _ = rngs.params()
    return {"scale": np.ones((num_features,), np.float32)} | _bias(rngs, (num_features,), use_bias)


def _bias(rngs: Rngs, shape: Shape, use_bias: bool) -> First:
    if not use_bias:
        return {}
    # NNX draws a key for the zeros too.
    _ = rngs.params()
    return {"bias": np.zeros(shape, np.float32)}
