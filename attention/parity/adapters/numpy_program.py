"""Programs in NumPy: a function of arrays, or of parameters and arrays. They have no gradients.

program(f)(x) = f(x)        program((f, params))(x) = f(params, x)
"""

# As `program`.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from attention.parity.adapters.named_outputs import Choice, named_outputs
from attention.parity.adapters.program import Arrays, Call, Made, Program
from attention.parity.adapters.pytree_paths import mapped, paths
from attention.parity.adapters.untouched import own_draws, owners, untouched
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import OptionError


@dataclass(eq=False)
class NumpyProgram(Program):
    """A NumPy function.

    Args:
        function: `function(*inputs)`, or `function(params, *inputs)` where there is a tree.
        tree: nested dicts, lists and tuples of arrays; None if the function takes no parameters.
        name: what reports call it.
    """

    function: Callable[..., Any]
    tree: Any = None
    name: str = "numpy"
    params: Arrays = field(init=False)
    choice: Choice = field(init=False, default_factory=Choice)
    framework: ClassVar[str] = "numpy"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        leaves = paths(self.tree) if self.tree is not None else ()
        self.params = {path: leaf for path, leaf in leaves if isinstance(leaf, np.ndarray)}

    @property
    def differentiable(self) -> bool:
        return False

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        if cotangents is not None:
            raise OptionError(f"cotangents of {self.name} must be None: NumPy has no gradients")

        def given(leaf: Any) -> Any:
            # A copy, because a program may write to what it is given.
            array = isinstance(leaf, np.ndarray)
            return leaf.astype(dtype) if array and dtype and is_float(leaf) else leaf.copy() if array else leaf

        values = self.params if params is None else params
        call = call.map(lambda _, leaf: given(leaf))
        learned = () if self.tree is None else (mapped(lambda path, leaf: given(values.get(path, leaf)), self.tree),)
        with own_draws(), untouched(*owners(self.function)), attributed_to(self.name):
            return Made(named_outputs(self.name, self.function(*learned, *call.args, **call.kwargs), _to_numpy, self.choice))


def _to_numpy(leaf: Any) -> np.ndarray | None:
    return np.array(leaf) if isinstance(leaf, np.ndarray | np.generic) else None
