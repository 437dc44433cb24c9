"""Convert whatever a user passes (module, pytree, function) to a program of its framework.

nn.Module -> TorchProgram        NNX, Linen, a callable pytree -> JaxProgram        a function -> as it is told
"""

# A side is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from attention._extras import require
from attention.parity.adapters.program import Program
from attention.parity.adapters.pytree_paths import paths
from attention.spec.errors import OptionError, UnknownName
from attention.spec.options import TEXT, checked, one_of

FRAMEWORKS = ("torch", "jax", "numpy")


@checked(name=TEXT)
def program(side: Any, framework: str | None = None, name: str = "") -> Program:
    """Return the program that a user's side is.

    Args:
        side: an `nn.Module`, of transformers or wrapped by torch.compile too; an NNX module; `(linen_module, variables)`; a
            Keras model on the JAX backend; `(transformed, params)` or `(transformed, params, state)` of Haiku;
            `(function, params)` where `function(params, *inputs)` is pure; a pytree that is callable, as Equinox makes them; or
            a function of arrays. A program is returned as it is.
        framework: what a plain function is written in: "torch", "jax" or "numpy"; JAX if None. Modules tell by themselves,
            and so do parameters that are tensors.
        name: what reports call it; the framework, file and class or function if "".

    Raises:
        UnknownName: no such framework.
        MissingExtra: the framework is not installed.
        OptionError: the side is nothing that can be called.
    """
    if isinstance(side, Program):
        return side
    one_of(*FRAMEWORKS, none=True, wanted=f"one of {', '.join(FRAMEWORKS)}").raising(UnknownName).check("framework", framework)
    if isinstance(side, type):
        raise OptionError(f"side {side.__name__} is a class, and must be an instance of it, or a function")
    kind = _framework_of(side) or framework or "jax"
    if kind == "jax" and _is_haiku(side):
        from attention.parity.adapters.jax_program import JaxProgram  # noqa: PLC0415 - as below

        return JaxProgram(side, name or "jax Haiku")
    function, tree = side if _is_pair(side) else (side, None)
    if not callable(function):
        raise OptionError(f"side {type(side).__name__} must be callable, or a pair (function, params) or (module, variables)")
    called = name or f"{kind} {_where(function)}"
    # A framework is imported when a program of it is made, not before.
    if kind == "torch":
        require("torch", extra="torch", wanted_by=called)
        from attention.parity.adapters.torch_program import TorchProgram  # noqa: PLC0415

        return TorchProgram(function, tree, called)
    if kind == "numpy":
        from attention.parity.adapters.numpy_program import NumpyProgram  # noqa: PLC0415

        return NumpyProgram(function, tree, called)
    from attention.parity.adapters.jax_program import JaxProgram  # noqa: PLC0415

    return JaxProgram(side, called)


def _is_pair(side: Any) -> bool:
    return isinstance(side, tuple) and len(side) == 2 and callable(side[0])  # pyright: ignore[reportUnknownArgumentType]


def _is_haiku(side: Any) -> bool:
    """Return whether a side is `(transformed, params)` or `(transformed, params, state)` of Haiku."""
    pure = side[0] if isinstance(side, tuple) and len(side) in (2, 3) else None
    return type(pure).__name__.startswith("Transformed") and {"init", "apply"} <= {*getattr(pure, "_fields", ())}


def _framework_of(side: Any) -> str:
    """Return the framework that a side shows by itself, or ""."""
    if _is_haiku(side):
        return "jax"
    function, tree = side if _is_pair(side) else (side, None)
    # What is not imported yet cannot have made the side.
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    flax = tuple(sys.modules[name].Module for name in ("flax.nnx", "flax.linen") if name in sys.modules)
    if torch and (isinstance(function, torch.nn.Module) or any(isinstance(leaf, torch.Tensor) for _, leaf in paths(tree))):
        return "torch"
    # Keras on torch's backend makes modules of torch, and on JAX's no pytree.
    keras = any(kind.__module__.partition(".")[0] == "keras" for kind in type(function).__mro__)
    if isinstance(function, flax) or keras:
        return "jax"
    if jax and callable(function) and (tree is not None or not jax.tree_util.all_leaves([function])):
        arrays = jax.tree.leaves(function if tree is None else tree)
        return "jax" if tree is None or any(isinstance(leaf, jax.Array) for leaf in arrays) else ""
    return ""


def _where(function: Any) -> str:
    """Return "model.py:Block" for what a user wrote, or its bare name where no file is known."""
    owner = function if inspect.isroutine(function) else getattr(function, "func", type(function))
    owner = inspect.unwrap(owner)
    called = getattr(owner, "__qualname__", type(owner).__name__).replace("<locals>.", "")
    try:
        return f"{Path(inspect.getsourcefile(owner) or '').name}:{called}"
    except TypeError:
        return called.rpartition(".")[2]
