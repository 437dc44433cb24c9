"""Convert NNX, Linen, Haiku, pytree or plain callables to pure functions of their parameters.

    outputs, state afterwards = form.apply(params, state, args, kwargs)

A form holds arrays and structure only, so that the user's own modules and their state are never touched.
"""

# JAX and Flax leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from attention.parity.adapters.keras_model import is_keras, keras_arrays
from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import OptionError, ParamError

Array = Any


@dataclass(frozen=True, eq=False)
class Form:
    """A pure program and its parameters.

    Args:
        params: the learned arrays, by path.
        apply: `apply(params, state, args, kwargs)` returns the outputs and what became of the state, by path.
        state: every other float array that the program holds, such as running statistics, by path.
    """

    params: dict[str, Array]
    apply: Callable[[dict[str, Array], dict[str, Array], tuple[Any, ...], Mapping[str, Any]], tuple[Any, dict[str, Array]]]
    state: dict[str, Array] = field(default_factory=dict[str, Array])


def form(side: Any) -> Form:
    """Return the form of any side that `program` takes for JAX.

    Raises:
        OptionError: it is nothing that can be called.
        ParamError: the variables of a Linen module hold no "params".
    """
    if isinstance(side, tuple) and type(side[0]).__name__.startswith("Transformed"):
        return _haiku(*side)
    if is_keras(side):
        return Form(*keras_arrays(side))
    if isinstance(side, linen.Module):
        if side.scope is None:
            raise OptionError(f"side {type(side).__name__} must be a pair (linen module, variables)")
        return _linen(*side.unbind())
    if isinstance(side, tuple) and len(side) == 2 and callable(side[0]):
        return _linen(*side) if isinstance(side[0], linen.Module) else _pure(*side)
    if not callable(side):
        raise OptionError(f"side {type(side).__name__} must be callable, or a pair (module, variables) or (function, params)")
    if isinstance(side, nnx.Module):
        return _nnx(side)
    return _function(side) if jax.tree_util.all_leaves([side]) else _pytree(side)


def _function(function: Callable[..., Any]) -> Form:
    return Form({}, lambda _params, _state, args, kwargs: (function(*args, **kwargs), {}))


def _pure(function: Callable[..., Any], tree: Any) -> Form:
    params, fill = split(tree)
    return Form(params, lambda params, _, args, kwargs: (function(fill(params), *args, **kwargs), {}))


def _pytree(module: Any) -> Form:
    params, fill = split(module)
    return Form(params, lambda params, _, args, kwargs: (fill(params)(*args, **kwargs), {}))


def _linen(module: linen.Module, variables: Any) -> Form:
    if not isinstance(variables, Mapping) or (variables and "params" not in variables):
        got = ", ".join(map(str, variables)) if isinstance(variables, Mapping) else type(variables).__name__
        raise ParamError(f"variables {got} of {type(module).__name__} must be a dict with 'params', as module.init returns")
    params, fill = split(variables.get("params", {}))
    rest = {name: inner for name, inner in variables.items() if name != "params"}
    others, fill_others = split(rest)

    def apply(
        params: dict[str, Array], state: dict[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Array]]:
        collections = {**({"params": fill(params)} if variables else {}), **fill_others(state)}
        # What the module writes to its collections is returned by Linen and written nowhere.
        made = module.apply(collections, *args, mutable=list(rest) or False, **kwargs)
        return (made[0], split(made[1])[0]) if rest else (made, {})

    return Form(params, apply, others)


def _nnx(module: nnx.Module) -> Form:
    graph, learned, rest = nnx.split(module, nnx.Param, ...)
    params, fill = split(learned, joint=".")
    others, fill_others = split(rest, joint=".")

    def apply(
        params: dict[str, Array], state: dict[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Array]]:
        # Merged from arrays alone, the module is a new one: what it writes to itself is lost with it.
        again: Any = nnx.merge(graph, fill(params), fill_others(state))
        outputs = again(*args, **kwargs)
        return outputs, split(nnx.split(again, nnx.Param, ...)[2], joint=".")[0]

    return Form(params, apply, others)


def _haiku(transformed: Any, tree: Any, kept: Any = None) -> Form:
    params, fill = split(tree)
    state, fill_state = split(kept if kept is not None else {})
    # `hk.without_apply_rng` takes the key away; a program that draws nothing does not look at it.
    key = (jax.random.PRNGKey(0),) if "rng" in inspect.signature(transformed.apply).parameters else ()

    def apply(
        params: dict[str, Array], state: dict[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Array]]:
        if kept is None:
            return transformed.apply(fill(params), *key, *args, **kwargs), {}
        outputs, after = transformed.apply(fill(params), fill_state(state), *key, *args, **kwargs)
        return outputs, split(after)[0]

    return Form(params, apply, state)


def split(tree: Any, joint: str = "") -> tuple[dict[str, Array], Callable[[dict[str, Array]], Any]]:
    """Return the float arrays of a pytree by path, and the function that puts others in their place.

    Args:
        tree: any pytree; leaves that are no float arrays stay in it.
        joint: what stands before a whole number in a path; "" writes it in brackets.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [_name(keys, joint) for keys, _ in leaves]
    values = [leaf for _, leaf in leaves]
    floats = {
        name: leaf for name, leaf in zip(names, values, strict=True) if isinstance(leaf, jax.Array | np.ndarray) and _real(leaf)
    }

    def fill(arrays: dict[str, Array]) -> Any:
        return structure.unflatten([arrays.get(name, leaf) for name, leaf in zip(names, values, strict=True)])

    return floats, fill


def _real(leaf: Array) -> bool:
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) and is_float(leaf)


def _name(keys: tuple[Any, ...], joint: str) -> str:
    """Return the path of a leaf as a user writes it: "layers[0].kernel"."""
    parts = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in keys]
    # A variable of Flax holds its array under "value", which no user calls part of its name.
    if len(keys) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and parts[-1] in ("value", "raw_value"):
        del parts[-1]
    path = ""
    for part in parts:
        whole = isinstance(part, int)
        path += f"[{part}]" if whole and not joint else f"{'.' if path else ''}{part}"
    return path
