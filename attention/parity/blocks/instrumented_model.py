"""A model whose parts are recorded while it runs, and can then be run by themselves.

run = model.record(call, {"layers.0", ...})        run.outputs        run.received["layers.0"]
model.part("layers.0", received, slots)            a program of the arrays in the slots; everything else as it was received
"""

# Modules come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.parity.adapters.program import Arrays, Call, Program
from attention.parity.blocks.units import parts
from attention.parity.numerics.dtype_rounding import Rounding


@dataclass
class Run:
    """The outputs of one run of a model, and the inputs of its parts.

    Attributes:
        outputs: of the model, by path.
        received: the first call of each part, with NumPy arrays.
        calls: how often each part was called.
        hidden: parts whose values cannot be recorded, such as inside of a compiled function.
    """

    outputs: Arrays = field(default_factory=dict[str, np.ndarray])
    received: dict[str, Call] = field(default_factory=dict[str, Call])
    calls: dict[str, int] = field(default_factory=dict[str, int])
    hidden: set[str] = field(default_factory=set[str])


class InstrumentedModel(ABC):
    """One model of a pair.

    Attributes:
        program: the model, for its name and its parameters.
        modules: every module of it by its path, "" the model itself.
        perturbs: whether it has `perturbed`.
    """

    program: Program
    modules: Mapping[str, object]
    perturbs: bool = False

    @property
    def parts(self) -> list[str]:
        """The paths of the parts that are compared one by one."""
        return list(parts(self.modules, self.program.params))

    def perturbed(self, call: Call, draws: np.random.Generator | None, unit: Rounding) -> Arrays:
        """Return the outputs in float64, each operation rounded at random; parameters are widened one operation at a time.

        Raises:
            SideFailed: the model raised.
        """
        raise NotImplementedError

    @abstractmethod
    def record(self, call: Call, paths: set[str]) -> Run:
        """Run the model, restore its state, and return the inputs of these parts.

        Raises:
            SideFailed: the model raised.
        """

    @abstractmethod
    def part(self, path: str, received: Call, slots: Sequence[str]) -> Program:
        """Return a part as a program of the arrays in `slots`; its other inputs are those it received.

        Args:
            path: of the part.
            received: its call.
            slots: paths within the call, in the order of the program's inputs. Parameters are called "block.NAME".
        """


def filled(received: Call, values: Mapping[str, Any]) -> Call:
    """Return a call with values in the place of the leaves of these paths."""
    return received.map(values.get)
