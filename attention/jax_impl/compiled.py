"""`compiled(layer)`: a layer as one jitted function, without the per-call overhead of `nnx.jit`.

compiled(layer)(*args, **options) = layer(*args, **options)        its weights read anew on every call

`nnx.jit` splits the object into its parts and joins it again, in Python, each time; here that is done while tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from flax import nnx

from attention.jax_impl.layers.layer import Layer
from attention.spec.errors import DTypeError, OptionError
from attention.spec.options import instance

LAYER = instance(Layer, wanted="a layer of attention.jax_impl")

P = ParamSpec("P")
R = TypeVar("R")


def compiled(layer: Callable[P, R]) -> Callable[P, R]:
    """Return the layer as a compiled function of the same arguments.

    Masks are arguments: new lengths compile nothing anew, a new structure does. Weights that are loaded later are seen;
    switches such as `deterministic` are those of now.

    Args:
        layer: a layer of this package; it is not changed.

    Returns:
        A function with the layer's arguments and results. Dropout needs `dropout_seed`, since a compiled function cannot
        advance the layer's own stream.

    Raises:
        OptionError: `layer` is not a layer; by the function, where dropout has no seed.
        DTypeError: by the function, of an argument that is no array.

    >>> import jax.numpy as jnp
    >>> from attention import jax_impl, spec
    >>> fast = jax_impl.compiled(jax_impl.MultiHeadAttention(spec.MultiHeadAttention(embed_dim=8, num_heads=2)))
    >>> fast(jnp.zeros((3, 5, 8)), mask=spec.Lengths(kv=[5, 2, 1])).shape
    (3, 5, 8)
    """
    LAYER.check("layer", layer)
    module: Any = layer
    graph, state = nnx.split(module)
    found, tree = jax.tree.flatten_with_path(state)
    live = {path: part for path, part in nnx.iter_graph(module) if isinstance(part, nnx.Variable)}
    # A leaf that is not the value of a variable, such as the key of a stream, keeps its present value.
    read = [partial(_value, live.get(_names(path)), leaf) for path, leaf in found]
    draws = module.rngs is not None and not module.deterministic

    @partial(jax.jit, static_argnums=0)
    def pure(options: tuple[tuple[str, Any], ...], values: list[Any], args: tuple[Any, ...], arrays: dict[str, Any]) -> Any:
        return nnx.merge(graph, jax.tree.unflatten(tree, values))(*args, **dict(options), **arrays)

    def call(*args: Any, **options: Any) -> Any:
        if draws and options.get("dropout_seed") is None:
            raise OptionError("dropout_seed None must be given to a compiled layer that drops, or the layer be deterministic")
        static = tuple((name, tuple(x) if isinstance(x, list) else x) for name, x in options.items() if _is_static(x))
        arrays = {name: _array(x) for name, x in options.items() if not _is_static(x)}
        _check((args, arrays))
        return pure(static, [value() for value in read], args, arrays)

    return call


def _check(given: Any) -> None:
    """Raise DTypeError for arguments that JAX cannot trace."""
    for x in jax.tree.leaves(given):
        if not isinstance(x, (jax.Array, np.ndarray, np.generic, int, float)):
            raise DTypeError(f"argument {type(x).__module__}.{type(x).__name__} must be a jax.Array or numpy.ndarray")


def _names(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the place of a variable in the layer, of the place of its value in the state."""
    return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


def _value(variable: nnx.Variable[Any] | None, leaf: Any) -> Any:
    # Not `get_value`, which copies the value's tree each time.
    return leaf if variable is None else variable.get_raw_value()


def _is_static(x: Any) -> bool:
    """Return whether an option is structure: a name, a switch, names."""
    return x is None or isinstance(x, (str, bool)) or (isinstance(x, (tuple, list)) and all(isinstance(i, str) for i in x))


def _array(x: Any) -> Any:
    # A seed of 32 bits does not fit JAX's own int.
    return np.uint32(x) if isinstance(x, int) and 0 <= x < 2**32 else x
