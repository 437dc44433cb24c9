"""`Program`: the protocol of every model that can be compared, whatever its framework.

    made = program.run(call, cotangents={"output": c})
    made.outputs["output"]      made.gradients["d x"]      made.gradients["d layer.weight"]

A program is a function of its parameters and of its inputs. Arrays cross this border as NumPy arrays, by name, in the
program's own layout; the leaves of a pytree are named by their path: "output", "output[1]", "output.hidden", "cache.key[0]".
"""

# A pytree holds whatever its user put there, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from attention.parity.adapters.named_outputs import Choice
from attention.parity.adapters.pytree_paths import mapped, paths
from attention.spec.errors import OptionError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Call:
    """The inputs of one call: pytrees (tuples, lists, dicts) whose leaves are NumPy arrays; other leaves are options.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, inputs: Any) -> Call:
        """Return the call that a user means: a mapping is keyword arguments, a tuple or list positional ones, an array one."""
        if isinstance(inputs, Call):
            return inputs
        if isinstance(inputs, Mapping):
            return cls((), dict(inputs))
        return cls(tuple(inputs)) if isinstance(inputs, (tuple, list)) else cls((inputs,))

    @property
    def leaves(self) -> Arrays:
        """The arrays by path: "input" for a lone positional argument, "input[1]" for one of several, "x" for a keyword."""
        named = {**self._positional(), **self.kwargs}
        return {path: leaf for path, leaf in paths(named) if isinstance(leaf, np.ndarray)}

    def map(self, function: Callable[[str, Any], Any]) -> Call:
        """Return the call with `function(path, leaf)` in the place of every leaf, options included."""
        args = mapped(function, self._positional()).get("input", ())
        return Call((args,) if len(self.args) == 1 else args, mapped(function, dict(self.kwargs)))

    def _positional(self) -> dict[str, Any]:
        return {"input": self.args[0]} if len(self.args) == 1 else {"input": self.args} if self.args else {}


@dataclass(frozen=True, eq=False)
class Made:
    """What one run made.

    Attributes:
        outputs: by path; a lone output is "output".
        gradients: "d " and the name of an input or of a parameter; integers and bools have none.
    """

    outputs: Arrays
    gradients: Arrays = field(default_factory=dict[str, np.ndarray])


class Program(ABC):
    """A function of parameters and inputs, in one framework.

    Attributes:
        name: what reports call it, such as "torch model.py:Block".
        framework: "torch", "jax" or "numpy".
        params: the learned arrays, by the program's own names, in its own layout; tied ones stand once.
        choice: which of its outputs are compared, see `named_outputs`; None for all.
        watched: state whose values after a call are among the outputs: its names, and what they are called there.
        runs_here: whether it runs on this machine, in a framework that is installed here.
    """

    name: str
    framework: str
    params: Arrays
    choice: Any = None
    watched: Mapping[str, str] = MappingProxyType({})
    runs_here: ClassVar[bool] = True

    @property
    def subject(self) -> Any:
        """What the user brought: a module or a function, without its parameters; the program itself if it was none of these."""
        side = getattr(self, "side", getattr(self, "function", self))
        return side[0] if isinstance(side, tuple) else side

    @property
    def differentiable(self) -> bool:
        """Whether `run` can return gradients."""
        return True

    @property
    def state(self) -> Arrays:
        """The float arrays that the program holds and does not learn, such as running statistics, by its own names."""
        return {}

    def changed(self, **fields: Any) -> Self:
        """Return the same program with other values of these attributes."""
        other = copy(self)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    def picking(self, patterns: tuple[str, ...]) -> Self:
        """Return the same program with these outputs alone, by names or patterns; all of them if empty."""
        return self.changed(choice=Choice(patterns))

    def watching(self, state: Mapping[str, str]) -> Self:
        """Return the same program with state as a call leaves it among its outputs: names in `state`, and what to call them."""
        return self.changed(watched=dict(state))

    def holding(self, state: Arrays) -> Self:
        """Return the same program with other values of its state; what is not among them stays."""
        if state:
            raise OptionError(f"state {', '.join(state)} must be of a program that holds it, not of {self.name}")
        return self

    def loaded(self, params: Arrays) -> Self:
        """Return the same program with other values of its parameters, all of them."""
        return self.changed(params=params)

    @abstractmethod
    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        """Run the program, which is left as it was.

        Args:
            call: the inputs.
            params: values to use instead of the program's own, all of them.
            cotangents: by the names of float outputs; None asks for no gradients.
            dtype: what float parameters and inputs are cast to; None leaves them as they are given.

        Raises:
            SideFailed: the program raised or returned what is no pytree of arrays; the message names the program, the
                user's file and line, and the error.
        """
