"""A Keras model on the JAX backend, as a pure function of its variables.

    outputs, non_trainable = model.stateless_call(trainable, non_trainable, *args, **kwargs)

Parameters are what layers learn, frozen or not; statistics and other floats that no gradient reaches are state.
"""

# Keras is imported by whoever made the model, if by anybody, and has no types that could be used here.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention.spec.errors import OptionError, ParamError

Array = Any


def is_keras(side: Any) -> bool:
    """Return whether a side is a layer or model of Keras."""
    return hasattr(side, "stateless_call") and any(kind.__module__.partition(".")[0] == "keras" for kind in type(side).__mro__)


def keras_arrays(model: Any) -> tuple[dict[str, Array], Any, dict[str, Array]]:
    """Return the parameters by path, `apply(params, state, args, kwargs)`, and the state by path.

    Raises:
        ParamError: the model is not built.
        OptionError: it stands on another backend than JAX.
    """
    if not getattr(model, "built", False):
        raise ParamError(f"side {type(model).__name__} of Keras must be built: call it once before")
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    if any(not type(x.value).__module__.startswith("jax") for x in variables):
        raise OptionError(f"side {type(model).__name__} of Keras must stand on the JAX backend: KERAS_BACKEND=jax")
    learns = {id(x) for layer in _layers(model) for x in getattr(layer, "_trainable_variables", ())}
    names = _names(variables)
    params = {name: x.value for name, x in zip(names, variables, strict=True) if id(x) in learns or x.trainable}
    floats = {name: x.value for name, x in zip(names, variables, strict=True) if "float" in str(x.dtype)}
    state = {name: x for name, x in floats.items() if name not in params}
    count = len(model.trainable_variables)

    def apply(
        params: dict[str, Array], state: dict[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Array]]:
        given = {**params, **state}
        values = [given.get(name, x.value) for name, x in zip(names, variables, strict=True)]
        outputs, after = model.stateless_call(values[:count], values[count:], *args, **kwargs)
        found = dict(zip(names[count:], after, strict=True))
        return outputs, {name: found[name] for name in state}

    return params, apply, state


def _layers(model: Any) -> list[Any]:
    walk = getattr(model, "_flatten_layers", None)
    return list(walk()) if walk is not None else [model]


def _names(variables: list[Any]) -> list[str]:
    """Return the path of each variable, numbered where two have the same."""
    paths = [str(x.path).replace("/", ".") for x in variables]
    return [path if paths.count(path) == 1 else f"{path}.{paths[:i].count(path)}" for i, path in enumerate(paths)]
