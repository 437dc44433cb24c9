"""Flax modules, NNX and Linen, that decode with a cache of their own, behind the protocol of `cached_model`.

    NNX      decode=False: the full pass         decode=True and init_cache(...) of every layer that has one: a token at a time
    Linen    clone(decode=False)                 clone(decode=True), the collection "cache" mutable

Both are copies that share the arrays of the user's module, whose state does not change.
"""

# JAX and Flax leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from attention.parity.adapters.jax_program import width
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.language_models.cached_model import Decoder, float64, outputs_of
from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import OptionError


class FlaxDecoder(Decoder):
    """Common to NNX and Linen: a token at a time, no padding, and positions if the module takes them."""

    takes_padding = False
    single = True
    module: Any
    call: dict[str, Any]

    def _given(self, positions: np.ndarray) -> dict[str, Any]:
        takes = inspect.signature(type(self.module).__call__).parameters
        return {**self.call, **({"positions": jnp.asarray(positions)} if "positions" in takes else {})}


class NnxDecoder(FlaxDecoder):
    """An NNX module whose layers have a `decode` flag and an `init_cache` method, as `nnx.MultiHeadAttention` has.

    Raises:
        OptionError: no part of the module has a cache.
    """

    def __init__(self, module: nnx.Module, call: Mapping[str, Any]) -> None:
        self.module, self.call, self.name = module, dict(call), f"jax {type(module).__name__}"
        if not _cached(module):
            raise OptionError(
                f"{self.name} must have a layer with init_cache; a module of another kind can be a parity.CachedModel"
            )

    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        with attributed_to(self.name), width("float64" if wide else None):
            module = _copied(self.module, wide=wide)
            _decoding(module, on=False)
            made = module(jnp.asarray(_widened(tokens, wide=wide)), **self._given(positions))
            return float64(self.name, made) if wide else outputs_of(self.name, made)

    def start(self, batch: int, length: int) -> Any:
        module = _copied(self.module)
        _decoding(module, on=True)
        for part in _cached(module):
            if "input_shape" in inspect.signature(part.init_cache).parameters:
                part.init_cache((batch, length, part.in_features))
            else:
                part.init_cache(batch, length)
        return module

    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        return outputs_of(self.name, cache(jnp.asarray(tokens), **self._given(positions))), cache


def _cached(module: nnx.Module) -> list[Any]:
    """Return the parts with a cache: the outermost ones, which make those of their own parts."""
    found = {path: part for path, part in nnx.iter_modules(module) if hasattr(part, "init_cache")}
    return [part for path, part in found.items() if not any(path[:n] in found for n in range(len(path)))]


def _copied(module: nnx.Module, *, wide: bool = False) -> Any:
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(lambda x: _widened(x, wide=wide), state))


def _widened(x: Any, *, wide: bool) -> Any:
    if not wide or not hasattr(x, "dtype") or jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or not is_float(x):
        return x
    return jnp.asarray(x, jnp.float64)


def _decoding(module: nnx.Module, *, on: bool) -> None:
    parts: Any = nnx.iter_modules(module)
    for _, part in parts:
        if hasattr(part, "decode") and not callable(part.decode):
            part.decode = on


class LinenDecoder(FlaxDecoder):
    """A Linen module with its variables, whose attribute `decode` turns its cache on.

    Raises:
        OptionError: it has no such attribute.
    """

    def __init__(self, module: linen.Module, variables: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        self.module, self.call, self.name = module, dict(call), f"jax {type(module).__name__}"
        self.variables = {name: inner for name, inner in variables.items() if name != "cache"}
        if not hasattr(module, "decode"):
            raise OptionError(
                f"{self.name} must have an attribute decode; a module of another kind can be a parity.CachedModel"
            )

    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        with attributed_to(self.name), width("float64" if wide else None):
            variables = jax.tree.map(lambda x: _widened(x, wide=wide), self.variables)
            given = jnp.asarray(_widened(tokens, wide=wide))
            made = self.module.clone(decode=False).apply(variables, given, mutable=False, **self._given(positions))
            return float64(self.name, made) if wide else outputs_of(self.name, made)

    def start(self, batch: int, length: int) -> Any:
        module = self.module.clone(decode=True)
        width = self.width
        tokens = jnp.zeros((batch, length), jnp.int32) if width is None else jnp.zeros((batch, length, width))
        positions = np.broadcast_to(np.arange(length), (batch, length))
        made = jax.eval_shape(lambda: module.init(jax.random.key(0), tokens, **self._given(positions)))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made["cache"])

    width: int | None = None
    """The last axis of tokens that are floats; None for ints."""

    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        module, variables = self.module.clone(decode=True), {**self.variables, "cache": cache}
        made, changed = module.apply(variables, jnp.asarray(tokens), mutable=["cache"], **self._given(positions))
        return outputs_of(self.name, made), changed["cache"]
