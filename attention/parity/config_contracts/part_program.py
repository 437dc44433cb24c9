"""An attention within its model, as a program of hidden states and canonical weights that can be diagnosed."""

# Programs come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attention.parity.adapters.program import Arrays, Call, Program
from attention.parity.blocks.received import apart
from attention.parity.config_contracts.layer_inputs import beside, calls
from attention.parity.config_contracts.transformers_layers import Layer
from attention.parity.contracts.probes import Probe
from attention.parity.diagnosis.library_program import Outputs, ProbedProgram
from attention.spec.errors import SideFailed
from attention.spec.params import Weights


@dataclass
class PartProgram(ProbedProgram):
    """A part of a model.

    Args:
        program: of the hidden states alone; its other inputs are those the part received.
        places: how many of its inputs are the hidden states.
        values: its own parameters of canonical weights.
    """

    program: Program
    places: int
    values: Callable[[Weights], Arrays]

    def __post_init__(self) -> None:
        self.name, self.framework = self.program.name, self.program.framework

    def outputs(self, probe: Probe) -> Outputs:
        x = probe.arrays["query"]
        params = {**self.program.params, **self.values(probe.weights)}
        made = self.program.run(Call((x,) * self.places), params=params, dtype="float32")
        wanted = probe.contract.results(probe.arrays)["output"]
        found = [output for output in made.outputs.values() if output.shape == wanted]
        if not found:
            shapes = ", ".join(str(output.shape) for output in made.outputs.values())
            raise SideFailed(f"{self.name}: outputs {shapes or 'none'} must hold one of shape {wanted}")
        return {"output": found[0]}


@dataclass(frozen=True, eq=False)
class Part:
    """An attention and its counterpart, each as a program.

    Attributes:
        layer: of transformers.
        other: the path of the counterpart.
        own: the module of transformers.
        theirs: the counterpart.
        weights: of both, canonical.
        x: the hidden states that the first received.
        received: all its inputs.
    """

    layer: Layer
    other: str
    own: PartProgram
    theirs: PartProgram
    weights: Weights
    x: np.ndarray
    received: Call

    @property
    def gap(self) -> float:
        """The relative RMS distance of the two outputs on the inputs of the first."""
        made = self.probes[0][0]
        return apart(self.own.outputs(made)["output"], self.theirs.outputs(made)["output"])

    @cached_property
    def probes(self) -> tuple[list[Probe], list[Probe]]:
        """The probes of both, and held-out ones on which a name must hold."""
        contract = self.layer.contract
        return calls(contract, self.weights, self.x, beside(contract, self.received, self.x))
