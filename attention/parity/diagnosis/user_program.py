"""Users' programs that are diagnosed, and which probes each supports.

A function receives the arguments in its signature: the arrays in the contract's order, canonical weights if its first parameter
is called `weights` or `params`, and those of `mask` (bool, True = may attend), positions and `bias` that it names.
"""

# A user's program has no types.
# pyright: standard

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.adapters.program import Call, Program
from attention.parity.contracts import backends
from attention.parity.contracts.probes import CALL, Probe
from attention.parity.diagnosis.library_program import BackendProgram, LibraryLayer, Outputs, ProbedProgram
from attention.spec.axes import Sizes
from attention.spec.errors import OptionError, ShapeError, SideFailed
from attention.spec.layers.contract import Contract
from attention.spec.masks.algebra import evaluate
from attention.spec.params import Weights

WEIGHTS = ("weights", "params")
"""Names of a function's first parameter that receives the canonical weights."""
MASKS = ("mask", "memory_mask")


@dataclass
class UserProgram(ProbedProgram):
    """A program that a user brought.

    Args:
        program: the program.
        contract: what it should compute.
        signature: its parameters, without those that the program fills itself.
        canonical: whether its first argument is the canonical weights.
        params: `(program.params) -> canonical weights`, or None where it has none or takes canonical ones.
    """

    program: Program
    contract: Contract
    signature: tuple[inspect.Parameter, ...]
    canonical: bool = False
    params: Callable[[Mapping[str, np.ndarray]], Weights] | None = None

    def __post_init__(self) -> None:
        self.name, self.framework = self.program.name, self.program.framework
        if self.params is not None:
            self.weights = self.params(self.program.params)

    @property
    def named(self) -> dict[str, inspect.Parameter]:
        """The parameters that can be given by name."""
        return {p.name: p for p in self.signature}

    @property
    def open(self) -> bool:
        """Whether it takes any keyword."""
        return any(p.kind is p.VAR_KEYWORD for p in self.signature)

    def takes(self, name: str) -> bool:
        """Return whether the program has this parameter, or one for all."""
        return name in self.named or self.open

    @property
    def arrays(self) -> int:
        """The number of the contract's inputs that it takes."""
        if any(p.kind is p.VAR_POSITIONAL for p in self.signature):
            return len(self.contract.inputs)
        positional = [p for p in self.signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        # A parameter with a default, such as deterministic=True, is an option and no array.
        places = [p for p in positional if p.default is p.empty or p.default is None]
        return min(sum(p.name not in (*CALL, "bias") for p in places), len(self.contract.inputs))

    def unsupported(self, probe: Probe) -> str:
        missing = [name for name in CALL if getattr(probe, name) is not None and not self.takes(name)]
        if "bias" in probe.arrays and not self.takes("bias"):
            missing.append("bias")
        if missing:
            return f"the program takes no {' and no '.join(missing)}"
        if self.arrays < len([name for name in probe.arrays if name != "bias"]):
            return f"the program takes {self.arrays} array{'s' if self.arrays > 1 else ''}"
        return ""

    def outputs(self, probe: Probe) -> Outputs:
        arrays = list(_inputs(probe).values())[: self.arrays]
        args = (dict(probe.weights), *arrays) if self.canonical else tuple(arrays)
        made = self.program.run(Call(args, self._options(probe)), dtype=None)
        outputs = list(made.outputs.values())
        named = dict(zip(probe.contract.outputs, outputs, strict=False))
        for name, shape in probe.contract.results(probe.arrays).items():
            if name in named and named[name].shape != shape:
                raise SideFailed(f"{self.name}: {name} {named[name].shape} must be {shape}")
        return named

    def _options(self, probe: Probe) -> dict[str, Any]:
        given: dict[str, Any] = {name: getattr(probe, name) for name in CALL if getattr(probe, name) is not None}
        given |= {"bias": probe.arrays["bias"]} if "bias" in probe.arrays else {}
        for name in MASKS:
            must = name in self.named and self.named[name].default is inspect.Parameter.empty
            if name in given or must:
                sizes = _sizes(probe, name)
                allowed = evaluate(given.get(name), sizes)
                given[name] = np.broadcast_to(True if allowed is None else allowed, sizes.scores).copy()
        return given


def _sizes(probe: Probe, mask: str) -> Sizes:
    """Return the sizes of the attention that a mask is for."""
    contract: Any = probe.contract
    if hasattr(contract, "block"):
        contract = contract.block
    if mask == "memory_mask":
        return contract.cross_attention.sizes(probe.arrays["x"], probe.arrays["memory"], probe.arrays["memory"])
    own = getattr(contract, "own_attention", None)
    if own is not None:
        return own.sizes(probe.arrays["x"], probe.arrays["x"], probe.arrays["x"])
    if "x" in probe.arrays:
        return contract.sizes(probe.arrays["x"])
    if hasattr(contract, "sizes_of"):
        return contract.sizes_of(probe.arrays)
    return contract.sizes(*_inputs(probe).values())


def _inputs(probe: Probe) -> dict[str, np.ndarray]:
    """Return the inputs of a call, those included that default to another."""
    made: dict[str, np.ndarray] = {}
    for name in probe.contract.inputs:
        made[name] = probe.arrays.get(name, next(reversed(made.values()), probe.arrays.get(name)))  # type: ignore[arg-type]
    return made


def probed_program(side: Any, framework: str, contract: Contract, params: Any = None) -> ProbedProgram:
    """Return a program that can be diagnosed.

    Args:
        side: "torch" or "jax", a `Backend`, a module of ours, or whatever `parity.program` takes.
        framework: "torch" or "jax": what a plain function is written in.
        contract: what the program should compute.
        params: `(its parameters by name) -> canonical weights`, or a `ParamMap` whose first side is canonical.

    Raises:
        OptionError: a program has parameters, and `params` does not map them to canonical weights.
    """
    if isinstance(side, str):
        _ = backends.find(side)
        return LibraryLayer(side) if side in backends.BACKENDS else BackendProgram(backends.find(side), side)
    if hasattr(side, "load_weights") and hasattr(side, "weights"):
        return LibraryLayer(framework, side)
    if isinstance(getattr(side, "name", None), str) and hasattr(side, "run") and not isinstance(side, Program):
        return BackendProgram(side, framework)
    return _program(side, framework, contract, params)


def _program(side: Any, framework: str, contract: Contract, params: Any) -> UserProgram:
    made = importlib.import_module("attention.parity.adapters").program(side, framework)
    function = side[0] if isinstance(side, tuple) else side
    signature = _signature(function)
    canonical = not isinstance(side, tuple) and not made.params and bool(signature) and signature[0].name in WEIGHTS
    # A pure function's parameters come first, and the program gives them.
    signature = signature[1:] if canonical or (isinstance(side, tuple) and not hasattr(function, "apply")) else signature
    if canonical or not made.params:
        return UserProgram(made, contract, signature, canonical)
    if params is None:
        raise OptionError(
            f"{framework}_params None must say which canonical weights {made.name} has:"
            f" a function of its {len(made.params)} parameters by name, or a ParamMap from canonical names to its own"
        )
    back: Any = params if callable(params) else params.backward
    return UserProgram(made, contract, signature, params=lambda own: _checked(back(dict(own)), contract))


def _signature(function: Any) -> tuple[inspect.Parameter, ...]:
    target = getattr(function, "forward", function) if hasattr(function, "named_parameters") else function
    try:
        return tuple(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        # A function without a signature receives the arrays alone.
        return (inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL),)


def _checked(weights: Mapping[str, np.ndarray], contract: Contract) -> Weights:
    """Return the weights, of the contract's names and shapes."""
    wanted = {name: param.shape for name, param in contract.params.items()}
    got = {name: tuple(x.shape) for name, x in weights.items()}
    if got != wanted:
        wrong = sorted(name for name in {*got, *wanted} if got.get(name) != wanted.get(name))
        raise ShapeError(f"params give {', '.join(wrong)} otherwise than the contract: its weights must be {wanted}")
    return {name: np.asarray(weights[name], np.float32) for name in wanted}
