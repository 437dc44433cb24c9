"""Programs in JAX: an NNX module, a Linen module with its variables, a pytree that is callable, or a function.

    outputs = pure(params, args, kwargs)        d x = d sum(cotangent * output) / d x        by `jax.vjp`

It runs compiled as a whole, or one operation at a time if `jax.jit` cannot trace it, as when it branches on a value.
"""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from attention.parity.adapters.jax_callables import Form, form
from attention.parity.adapters.named_outputs import Choice, named_outputs
from attention.parity.adapters.program import Arrays, Call, Made, Program
from attention.parity.adapters.pytree_paths import mapped
from attention.parity.adapters.untouched import own_draws, owners, untouched
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.adapters.xla_options import known
from attention.parity.numerics.array_kinds import is_float

Array = Any


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Static:
    """An option among the inputs, which tracing must not turn into an array: a pytree without leaves."""

    value: Any

    def tree_flatten(self) -> tuple[tuple[()], Static]:
        return (), self

    @classmethod
    def tree_unflatten(cls, static: Static, _: Any) -> Static:
        return static

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        # Two arrays are equal element by element, which is no answer.
        return self.value is other.value or (not hasattr(self.value, "shape") and bool(self.value == other.value))

    def __hash__(self) -> int:
        try:
            return hash((type(self.value), self.value))
        except TypeError:
            return hash(type(self.value))


@dataclass(eq=False)
class JaxProgram(Program):
    """A program in JAX.

    Args:
        side: an NNX module, `(linen_module, variables)`, `(function, params)`, a pytree that is callable, or a function.
        name: what reports call it.
    """

    side: Any
    name: str = "jax"
    params: Arrays = field(init=False)
    choice: Choice = field(init=False, default_factory=Choice)
    form: Form = field(init=False)
    compiled: bool = field(default=True, init=False)
    framework: ClassVar[str] = "jax"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        self.form = form(self.side)
        self.params = {name: np.asarray(x) for name, x in self.form.params.items()}
        self._compile = self._compiled()

    def _compiled(self) -> Any:
        # XLA may leave out a rounding that the program asks for, and so hide a softmax in bfloat16 from a comparison.
        return jax.jit(self._make, compiler_options=known({"xla_allow_excess_precision": False}))

    @property
    def state(self) -> Arrays:
        return {name: np.asarray(x) for name, x in self.form.state.items()}

    def changed(self, **fields: Any) -> Self:
        other = super().changed(**fields)
        other._compile = other._compiled()  # noqa: SLF001 - of this class
        return other

    def holding(self, state: Arrays) -> Self:
        kept = {name: jnp.asarray(state[name], x.dtype) if name in state else x for name, x in self.form.state.items()}
        return self.changed(form=replace(self.form, state=kept))

    def pure(self, params: Mapping[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the outputs as the program returns them: a pure function that JAX can trace.

        Args:
            params: by name, all of them.
            args: positional inputs; options as `Static`, as `arguments` gives them.
            kwargs: the same by keyword.
        """
        return self._applied(params, args, kwargs)[0]

    def results(self, params: Mapping[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Array]:
        """Return the outputs by path, and the state that is watched as the call left it."""
        outputs, after = self._applied(params, args, kwargs)
        return {**self.outputs(outputs), **{label: after[name] for name, label in self.watched.items() if name in after}}

    def _applied(
        self, params: Mapping[str, Array], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Array]]:
        # What the program holds besides its parameters follows them to float64.
        wide = any(x.dtype == np.float64 for x in jax.tree.leaves((dict(params), args, dict(kwargs))) if hasattr(x, "dtype"))
        state = {name: x.astype(np.float64) if wide else x for name, x in self.form.state.items()}
        args, kwargs = mapped(_opened, (args, dict(kwargs)))
        try:
            with own_draws(), untouched(*owners(self.subject)):
                return self.form.apply(dict(params), state, args, kwargs)
        except SystemExit as error:
            # Whoever traces this catches errors, and must not end with the user's script.
            raise RuntimeError(f"the program called sys.exit({error.code})") from None

    def arguments(
        self, call: Call, params: Arrays | None = None, dtype: str | None = None
    ) -> tuple[dict[str, np.ndarray], tuple[Any, ...], dict[str, Any]]:
        """Return what `pure` takes: every leaf a NumPy array, every option a `Static`, which is a pytree without leaves.

        Args:
            call: the inputs.
            params: values to use instead of the program's own, all of them.
            dtype: what float parameters and inputs are cast to; None leaves them as they are given.
        """
        values = self.params if params is None else {name: params[name] for name in self.params}
        given = call.map(lambda _, leaf: _cast(leaf, dtype) if isinstance(leaf, np.ndarray) else Static(leaf))
        return {name: _cast(x, dtype) for name, x in values.items()}, given.args, dict(given.kwargs)

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        with width(dtype), attributed_to(self.name):
            learned, args, kwargs = self.arguments(call, params)
            # One array at a time, so that no copy in another dtype outlives its cast.
            learned = {name: _cast(self._on_device(name, x), dtype) for name, x in learned.items()}
            args, kwargs = jax.tree.map(lambda x: jnp.asarray(_cast(x, dtype)), (args, kwargs))
            given = learned, args, kwargs, jax.tree.map(jnp.asarray, cotangents)
            if self.compiled:
                try:
                    return Made(*map(_numpy, self._compile(*given)))
                except Exception:  # noqa: BLE001 - what is wrong with the program itself is told by the run below
                    self.compiled = False
            return Made(*map(_numpy, self._make(*given)))

    def _on_device(self, name: str, x: np.ndarray) -> Array:
        """Return a parameter as JAX has it: the own array of the program where the values are its own, not a copy."""
        own = self.form.params[name]
        is_own = x is self.params[name] and isinstance(own, jax.Array) and not own.weak_type
        return own if is_own and own.devices() == {jnp.zeros(()).device} else jnp.asarray(x)

    def _make(
        self, learned: dict[str, Array], args: tuple[Any, ...], kwargs: dict[str, Any], cotangents: dict[str, Array] | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return outputs and gradients by name."""
        if cotangents is None:
            return self.results(learned, args, kwargs), {}
        given = Call(args, kwargs)
        floats = {path: x for path, x in leaves(given).items() if is_float(x)}

        def forward(learned: dict[str, Array], floats: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
            filled = given.map(floats.get)
            outputs = self.results(learned, filled.args, filled.kwargs)
            return {name: outputs[name] for name in cotangents}, outputs

        reached, pull_back, outputs = jax.vjp(forward, learned, floats, has_aux=True)
        d_learned, d_floats = pull_back({name: x.astype(reached[name].dtype) for name, x in cotangents.items()})
        return outputs, {f"d {name}": x for name, x in [*d_learned.items(), *d_floats.items()]}

    def outputs(self, made: Any) -> dict[str, Array]:
        """Return what `pure` made by path.

        Raises:
            SideFailed: a leaf is no array.
        """
        return named_outputs(self.name, made, _array, self.choice)


def leaves(call: Call) -> dict[str, Array]:
    """Return the arrays of a call by path, whatever framework they are of; options are left out."""
    found: dict[str, Array] = {}

    def keep(path: str, leaf: Any) -> Any:
        if hasattr(leaf, "dtype"):
            found[path] = leaf
        return leaf

    _ = call.map(keep)
    return found


@contextmanager
def width(dtype: str | None) -> Iterator[None]:
    """Let JAX keep float64 where it is asked for, and otherwise what the user configured."""
    with jax.enable_x64(dtype == "float64" or jax.dtypes.canonicalize_dtype(np.float64) == np.float64):
        yield


def _opened(_: str, leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Static) else leaf


def _cast(x: np.ndarray, dtype: str | None) -> np.ndarray:
    if dtype in ("float32", "float64") and x.dtype.kind == "c":
        return x.astype(np.complex128 if dtype == "float64" else np.complex64)
    return x.astype(dtype) if dtype and is_float(x) else x


def _numpy(arrays: Mapping[str, Array]) -> Arrays:
    return {name: np.asarray(x) for name, x in arrays.items()}


def _array(leaf: Any) -> Array | None:
    if isinstance(leaf, np.ndarray | np.generic | jax.Array):
        return leaf
    return jnp.asarray(leaf) if hasattr(leaf, "__jax_array__") else None
