"""The submodules of a program and their settings, read the same way for every library.

    parts(program, call) = [Submodule("encoder.norm1", "LayerNorm", {"eps": 1e-5, ...}), ...]

Torch modules are listed in the order in which they were registered, NNX modules and callable pytrees in the order of their
attributes. Linen makes its modules while it runs, so that they are listed as they are first called.
"""

# Modules of every library are read through their attributes, which have no types.
# pyright: standard

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from attention.parity.adapters import Call, Program

EPS = ("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "layer_norm_epsilon")
KINDS = ("RMS", "Layer", "Group", "Batch", "Instance")


@dataclass(frozen=True)
class Submodule:
    """A module within a program.

    Attributes:
        path: where it stands in the program.
        kind: the name of its class.
        values: its public attributes, and in Linen the keywords that it was called with.
    """

    path: str
    kind: str
    values: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.path or 'itself'} ({self.kind})"

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the first of these settings that the part has and that is not None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    @property
    def norm(self) -> str:
        """The kind of norm: "RMSNorm", "LayerNorm", ...; "Norm" if its name does not tell, "" if the part is none."""
        if "norm" not in self.kind.lower() or not any(name in self.values for name in EPS):
            return ""
        # A class of T5 is called LayerNorm and is none, which its eps does not tell.
        return next((f"{kind}Norm" for kind in KINDS if kind.lower() in self.kind.lower()), "Norm")

    @property
    def eps(self) -> float:
        """The epsilon of a norm; torch's RMSNorm takes the machine epsilon of float32 for None."""
        value = self.get(*EPS)
        return 2.0**-23 if value is None else float(value)

    @property
    def drop_rate(self) -> float:
        """The probability with which the part drops something, or 0."""
        named = [value for name, value in self.values.items() if "drop" in name.lower()]
        own = [self.get("p", "rate")] if "drop" in self.kind.lower() else []
        return max((float(x) for x in (*named, *own) if _is_number(x)), default=0.0)

    @property
    def trains(self) -> bool:
        """Whether the part behaves as while training."""
        if "training" in self.values:
            return bool(self.values["training"])
        if "use_running_average" in self.values:
            return not self.values["use_running_average"]
        if "inference" in self.values:
            return not self.values["inference"]
        return "deterministic" in self.values and not self.values["deterministic"]


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def parts(program: Program, call: Call) -> list[Submodule]:
    """Return the parts of a program; a plain function shows none but the Linen modules that it calls.

    Args:
        program: a user's.
        call: inputs on which Linen modules are listed; nothing is computed.
    """
    module = getattr(program, "module", None)
    if module is not None:
        return [Submodule(path, type(part).__name__, _public(part)) for path, part in module.named_modules()]
    side = getattr(program, "side", None)
    if side is None:
        return []
    held = list(_walked(side, "", set()))
    return held if any(part.path or part.values for part in held) and not _is_linen(side) else _called(program, call)


def _is_linen(side: Any) -> bool:
    first = side[0] if isinstance(side, tuple) and side else side
    return any(base.__module__.startswith("flax.linen") for base in type(first).__mro__)


def _public(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(owner, "__dict__", {}).items() if not name.startswith("_")}


def _walked(owner: Any, path: str, seen: set[int]) -> Iterator[Submodule]:
    """Yield an object and all objects within it that have settings: NNX modules, dataclasses, and their containers."""
    if id(owner) in seen or isinstance(owner, (str, bytes, type)) or callable(getattr(owner, "__array__", None)):
        return
    seen.add(id(owner))
    if isinstance(owner, Mapping):
        inner = {str(name): value for name, value in owner.items()}
    elif isinstance(owner, (list, tuple)):
        inner = {str(number): value for number, value in enumerate(owner)}
    elif _holds_settings(owner):
        inner = _public(owner)
        yield Submodule(path, type(owner).__name__, inner)
    else:
        return
    for name, value in inner.items():
        yield from _walked(value, f"{path}.{name}" if path else name, seen)


def _holds_settings(owner: Any) -> bool:
    """Return whether an object is a module: callable with attributes, and neither a function nor an array of Flax."""
    home = type(owner).__module__
    library = home.startswith(("jax.", "jaxlib", "numpy", "functools", "builtins", "flax.nnx.variablelib", "flax.nnx.rnglib"))
    return hasattr(owner, "__dict__") and not library and (callable(owner) or home.startswith("flax.nnx"))


def _called(program: Program, call: Call) -> list[Submodule]:
    """Return the Linen modules that a program calls, in the order of their calls, from shapes alone."""
    import jax  # noqa: PLC0415 - only for a program in JAX
    from flax import linen  # noqa: PLC0415

    from attention.parity.adapters.jax_program import JaxProgram  # noqa: PLC0415

    if not isinstance(program, JaxProgram):
        return []
    found: dict[str, Submodule] = {}

    def see(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__":
            said = {name: value for name, value in kwargs.items() if isinstance(value, (bool, int, float))}
            path = ".".join(context.module.path)
            # One module that is called twice is one module.
            part = Submodule(path, type(context.module).__name__, {**_public(context.module), **said})
            found.setdefault(path, part)
        return proceed(*args, **kwargs)

    # A user's program may raise anything; the comparison will say what.
    with suppress(Exception), linen.intercept_methods(see):
        _ = jax.eval_shape(program.pure, *program.arguments(call))
    return list(found.values())


def activations(program_parts: list[Submodule]) -> dict[str, str]:
    """Return the flavour of GELU, "tanh" or "erf", by the path of each part that shows one."""
    found: dict[str, str] = {}
    for part in program_parts:
        if "gelu" in part.kind.lower():
            rough = part.get("approximate") in ("tanh", True) or any(word in part.kind for word in ("New", "Tanh", "Fast"))
            found[part.path or part.kind] = "tanh" if rough else "erf"
        for name, value in part.values.items():
            if flavour := _flavour(value):
                found[f"{part.path}.{name}" if part.path else name] = flavour
    return found


def _flavour(function: Any) -> str:
    """Return which GELU a function is: JAX's approximates unless told not to, torch's is exact unless told to."""
    told: Any = None
    while isinstance(function, functools.partial):
        told = function.keywords.get("approximate", told)
        function = function.func
    name, home = getattr(function, "__name__", ""), str(getattr(function, "__module__", ""))
    if name != "gelu" or isinstance(function, type):
        return ""
    if told is None:
        told = home.startswith(("jax", "flax"))
    return "tanh" if told in (True, "tanh") else "erf"
