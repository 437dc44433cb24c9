"""Flax models, NNX and Linen, whose parts are recorded while the model runs one operation at a time.

    NNX      a copy that shares the arrays; each recorded part of it gets a subclass whose `__call__` records the call
    Linen    `linen.intercept_methods`

Values inside a compiled function or a scan cannot be recorded; the part is then run without compilation.
"""

# JAX and Flax leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.adapters.named_outputs import named_outputs
from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run, filled


class FlaxModel(InstrumentedModel):
    """Common to NNX and Linen."""

    program: JaxProgram  # pyright: ignore[reportIncompatibleVariableOverride] - it is not replaced

    def record(self, call: Call, paths: set[str]) -> Run:
        run = self._recorded(call, paths, compiled=True)
        return self._recorded(call, paths, compiled=False) if run.hidden else run

    def _recorded(self, call: Call, paths: set[str], *, compiled: bool) -> Run:
        run = Run()
        with attributed_to(self.program.name), nullcontext() if compiled else jax.disable_jit():
            given = call.map(lambda _, leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf)
            run.outputs = _arrays(self.program.name, self._run(run, given, paths))
        return run

    def _run(self, run: Run, call: Call, paths: set[str]) -> Any:
        """Return the outputs of the model on a call of JAX arrays."""
        raise NotImplementedError


def _see(run: Run, path: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    run.calls[path] = run.calls.get(path, 0) + 1
    call = Call(tuple(args), dict(kwargs))
    traced: list[str] = []

    def keep(name: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer):
            traced.append(name)
            return leaf
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(leaf) if isinstance(leaf, jax.Array) and not is_key else leaf

    kept = call.map(keep)
    if traced:
        run.hidden.add(path)
    elif path not in run.received:
        run.received[path] = kept


def _arrays(name: str, made: Any) -> Arrays:
    found = named_outputs(name, made, lambda leaf: leaf if isinstance(leaf, jax.Array | np.ndarray | np.generic) else None)
    return {path: np.asarray(x) for path, x in found.items()}


class NnxModel(FlaxModel):
    """An NNX module.

    Args:
        module: its structure and arrays are read; a copy that shares the arrays runs.
    """

    def __init__(self, module: nnx.Module) -> None:
        self.program = JaxProgram(module, f"jax {type(module).__name__}")
        self.split = nnx.split(module)
        self.modules = {".".join(map(str, path)): part for path, part in nnx.iter_modules(self._copy())}

    def _copy(self) -> Any:
        # A copy of the variables: a run that writes to them writes to the copy.
        return nnx.merge(*self.split, copy=True)

    def _run(self, run: Run, call: Call, paths: set[str]) -> Any:
        module = self._copy()
        for path, part in nnx.iter_modules(module):
            name = ".".join(map(str, path))
            if name in paths:
                part.__class__ = _watched(type(part), run, name)
        return module(*call.args, **call.kwargs)

    def part(self, path: str, received: Call, slots: Sequence[str]) -> JaxProgram:
        # The part of a fresh copy: what a run writes to it is lost with it.
        inner = next(part for keys, part in nnx.iter_modules(self._copy()) if ".".join(map(str, keys)) == path)
        return JaxProgram(NnxPart(inner, received, slots), f"jax {path}")


def _watched(kind: type, run: Run, path: str) -> type:
    """Return a subclass of a module's class whose `__call__` writes down what it received."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _see(run, path, args, kwargs)
        return kind.__call__(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, "__doc__": kind.__doc__})


class NnxPart(nnx.Module):
    """A part of a model as a module of the arrays in its slots; what else it received is state, which follows to float64."""

    def __init__(self, block: nnx.Module, received: Call, slots: Sequence[str]) -> None:
        self.block, self.slots = block, tuple(slots)
        places = [path for path in received.leaves if path not in self.slots]
        self.places = tuple(places)
        for i, path in enumerate(places):
            setattr(self, f"constant_{i}", nnx.Variable(jnp.asarray(received.leaves[path])))
        # Options are part of the structure, and arrays are no options.
        self.received = _Options(received.map(lambda _, leaf: None if isinstance(leaf, np.ndarray) else leaf))

    def __call__(self, *given: Any) -> Any:
        values = {path: getattr(self, f"constant_{i}")[...] for i, path in enumerate(self.places)}
        call = filled(self.received.call, {**values, **dict(zip(self.slots, given, strict=True))})
        return self.block(*call.args, **call.kwargs)


class _Options:
    """A call without arrays, which NNX keeps as it is."""

    def __init__(self, call: Call) -> None:
        self.call = call


class LinenModel(FlaxModel):
    """A Linen module with its variables.

    Args:
        module: unbound.
        variables: collections by name.
        call: inputs, on which the modules within are listed, since Linen makes them while it runs.
    """

    def __init__(self, module: linen.Module, variables: Mapping[str, Any], call: Call) -> None:
        self.module, self.variables = module, variables
        self.program = JaxProgram((module, variables), f"jax {type(module).__name__}")
        self.modules = self._listed(call)

    def _listed(self, call: Call) -> dict[str, object]:
        found: dict[str, object] = {}

        def see(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__":
                _ = found.setdefault(".".join(context.module.path), context.module.clone(parent=None))
            return proceed(*args, **kwargs)

        # A compiled function that was traced once is not traced for the next block of the same shapes.
        with attributed_to(self.program.name), linen.intercept_methods(see), jax.disable_jit():
            _ = jax.eval_shape(self.program.pure, *self.program.arguments(call))
        return found

    def _run(self, run: Run, call: Call, paths: set[str]) -> Any:
        def see(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = ".".join(context.module.path)
            if context.method_name == "__call__" and path in paths:
                _see(run, path, args, kwargs)
            return proceed(*args, **kwargs)

        with linen.intercept_methods(see):
            return self.module.apply(self.variables, *call.args, mutable=False, **call.kwargs)

    def part(self, path: str, received: Call, slots: Sequence[str]) -> JaxProgram:
        module: Any = self.modules[path]
        held = {name: _within(inner, path) for name, inner in self.variables.items()}
        others = {name: inner for name, inner in held.items() if name != "params" and inner is not None}

        def run(tree: Any, *given: Any) -> Any:
            call = filled(received, dict(zip(slots, given, strict=True)))
            return module.apply({"params": tree["block"], **others}, *call.args, mutable=False, **call.kwargs)

        return JaxProgram((run, {"block": held["params"]}), f"jax {path}")


def _within(tree: Any, path: str) -> Any:
    """Return the variables of a module by its path; None if it has none of this collection."""
    for name in path.split(".") if path else ():
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree
