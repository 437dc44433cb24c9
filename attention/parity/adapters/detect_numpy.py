"""Detect functions that accept NumPy arrays only, and wrap them as NumPy programs.

A module, or a function with parameters of a framework, tells by itself and is left as it is: a bare call would lose them.
"""

# A side is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from attention.parity.adapters import Call, Program
from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.adapters.numpy_program import NumpyProgram
from attention.parity.adapters.pytree_paths import paths
from attention.spec.errors import SideFailed


def as_numpy_program(subject: Program, call: Call) -> Program:
    """Return a function of NumPy arrays, which its framework cannot run, as the NumPy program that it is.

    Args:
        subject: a program as `parity.program` made it.
        call: the inputs.
    """
    function, tree = _plain(subject)
    if function is None:
        return subject
    wants = _untraceable(subject, call) if isinstance(subject, JaxProgram) else _refuses_tensors(subject, call)
    return NumpyProgram(function, tree, subject.name.replace(f"{subject.framework} ", "numpy ", 1)) if wants else subject


def _plain(subject: Program) -> tuple[Callable[..., Any] | None, Any]:
    """Return the function and its tree of NumPy arrays, or None for a module, or where the arrays are a framework's."""
    bare = getattr(subject, "function", None), getattr(subject, "tree", None)
    side = subject.side if isinstance(subject, JaxProgram) else bare
    function, tree = side if isinstance(side, tuple) else (side, None)
    own = tree is None or all(not hasattr(leaf, "dtype") or isinstance(leaf, np.ndarray) for _, leaf in paths(tree))
    return (function, tree) if inspect.isroutine(function) and own else (None, None)


def _untraceable(subject: JaxProgram, call: Call) -> bool:
    try:
        _ = jax.eval_shape(subject.pure, *subject.arguments(call))
    except jax.errors.TracerArrayConversionError:
        return True
    except Exception:  # noqa: BLE001 - what else is wrong with it is told when it runs
        return False
    return False


def _refuses_tensors(subject: Program, call: Call) -> bool:
    if subject.framework != "torch":
        return False
    try:
        _ = subject.run(call)
    except SideFailed as error:
        # NumPy asks a tensor for its array, and one that requires grad declines.
        return "numpy() on Tensor" in str(error)
    return False
