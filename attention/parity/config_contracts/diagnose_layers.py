"""Diagnose the attention of a port of a transformers model against the contract that the model's config gives.

    config -> contract        transformers' module against it        if it agrees: the module of the port against it

Both modules run within their models: on hidden states of our choice, everything else as they received it. A mutation is
reported only if the contract's formula with it reproduces the outputs of the port on every input.
"""

# Programs come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention.checkpoints.weight_map import read, write
from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.untouched import own_draws
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run
from attention.parity.blocks.layerwise import SMALL, instrumented
from attention.parity.blocks.received import FARTHEST, apart
from attention.parity.blocks.units import counterparts, within
from attention.parity.config_contracts.layer_inputs import hidden
from attention.parity.config_contracts.part_program import Part, PartProgram
from attention.parity.config_contracts.result import LayerDiagnosis
from attention.parity.config_contracts.transformers_layers import Layer, is_theirs, layers
from attention.parity.diagnosis.diagnose import diagnose_program
from attention.parity.numerics.array_kinds import is_float
from attention.parity.param_mapping import ParamMap, match
from attention.spec.errors import AttentionError, ParamError
from attention.spec.params import Weights

NOT_ASKED = "no contract was built from the config: "
MOST_ASKED = 2**25
"""Parameters of an attention above which its contract's formula takes too long."""
MOST_STATES = 2**18
"""Elements of its hidden states, likewise."""
PATIENCE = 5.0
"""Seconds for the search among pairs of mistakes, of one layer."""

Found = tuple[tuple[LayerDiagnosis, ...], tuple[str, ...]]


def diagnose_layers(torch_side: Any, jax_side: Any, call: Call, *, params: Any = None, load: str | None = None) -> Found:
    """Return how the attention of one model differs from the config of the other, and why layers were not diagnosed.

    Args:
        torch_side: as `compare` takes it.
        jax_side: the same.
        call: the inputs of both.
        params: how parameters belong together, as `compare` takes it.
        load: whose parameter values both use, or None where they have the same.

    Returns:
        A diagnosis for each contract among the layers, and notes. Both are empty where no side is a transformers model.
    """
    brought = [_users_model(side) for side in (torch_side, jax_side)]
    index = next((i for i, model in enumerate(brought) if is_theirs(model)), None)
    if index is None:
        return (), ()
    found, notes = layers(brought[index])
    if not found:
        return (), tuple(f"{NOT_ASKED}{note}" for note in notes)
    try:
        with own_draws():
            sides = instrumented(brought[0], call), instrumented(brought[1], call)
            known = _map(sides, call, params)
            pair = Pair((sides[1], sides[0]), known.inverse, load == "first") if index else Pair(sides, known, load == "second")
            made, more = pair.diagnosed(found, call)
    except AttentionError as error:
        return (), (f"{NOT_ASKED}{error}",)
    return made, (*(f"{NOT_ASKED}{note}" for note in (*notes, *more)),)


def _users_model(side: Any) -> Any:
    """Return the user's own model, also of a program that wraps it."""
    side = getattr(side, "side", getattr(side, "function", side))
    return getattr(side, "_orig_mod", side)


def _map(sides: tuple[InstrumentedModel, InstrumentedModel], call: Call, given: Any) -> ParamMap:
    first, second = (side.program for side in sides)
    size = sum(x.size for x in first.params.values())
    found = match(first, second, call if size <= SMALL else None, given=given)
    if found.open:
        raise ParamError(f"the parameter map is open: {found.open[0]}")
    return found


@dataclass(frozen=True, eq=False)
class Pair:
    """A transformers model and another.

    Attributes:
        sides: both, that of transformers first.
        map: of their parameters.
        backward: whether both use the values of the second.
    """

    sides: tuple[InstrumentedModel, InstrumentedModel]
    map: ParamMap
    backward: bool

    def diagnosed(self, found: Sequence[Layer], call: Call) -> tuple[tuple[LayerDiagnosis, ...], list[str]]:
        """Return the diagnosis of one layer of each contract: the one that differs most from its counterpart."""
        every = {move.second.name for move in self.map.moves}
        others = {layer.path: self._counterparts(layer, every) for layer in found}
        paths = {layer.path for layer in found}, {path for each in others.values() for path in each}
        runs = [side.record(call, wanted) for side, wanted in zip(self.sides, paths, strict=True)]
        groups: dict[Any, list[Layer]] = {}
        for layer in found:
            groups.setdefault(layer.contract, []).append(layer)
        made: list[LayerDiagnosis] = []
        notes: list[str] = []
        for group in groups.values():
            few = group if sum(map(_size, group)) <= SMALL else group[:1]
            parts = [self._part(layer, others[layer.path], (runs[0], runs[1])) for layer in few]
            chosen = [part for part in parts if isinstance(part, Part)]
            if not chosen:
                notes.append(str(parts[0]))
                continue
            outcome = self._diagnosed(max(chosen, key=lambda part: part.gap) if len(chosen) > 1 else chosen[0])
            if isinstance(outcome, str):
                notes.append(outcome)
            else:
                made.append(replace(outcome, alike=len(group)))
        return tuple(made), notes

    def _diagnosed(self, part: Part) -> LayerDiagnosis | str:
        """Return the diagnosis of a counterpart, or why there is none."""
        contract, probes = part.layer.contract, part.probes
        own = diagnose_program(part.own, contract, pairs=False, calls=(probes[0], ()))
        if not own.agrees:
            what = own.notes[0] if own.state in ("failed", "unsteady") and own.notes else "it does otherwise in this call"
            return f"{part.layer.path} is not what its config says: {what}"
        theirs = diagnose_program(part.theirs, contract, patience=PATIENCE, calls=probes)
        return LayerDiagnosis(part.layer.path, part.other, part.layer.kind, contract, own, theirs)

    def _counterparts(self, layer: Layer, every: set[str]) -> list[str]:
        """Return the modules of the other model that hold a layer's parameters and no others, the outermost first."""
        names = {move.second.name for move in self._moves(layer)}
        whole = [""] if names == every and "" in self.sides[1].modules else []
        return [*whole, *counterparts(names, every, self.sides[1].modules)]

    def _moves(self, layer: Layer) -> list[Any]:
        wanted = {f"{layer.path}.{name}".removeprefix(".") for name in layer.tensors}
        return [move for move in self.map.moves if move.first.name in wanted]

    def _part(self, layer: Layer, others: Sequence[str], runs: tuple[Run, Run]) -> Part | str:
        """Return a layer and its counterpart as programs, or why there are none."""
        said = f"{layer.path} has no counterpart that can be run by itself: "
        if not others:
            return f"{said}no module of {self.sides[1].program.name} holds its parameters and no others"
        first = runs[0].received.get(layer.path)
        slot = hidden(first, layer.contract.embed_dim) if first is not None else None
        if first is None or slot is None:
            return f"{layer.path} received no hidden states (B, T, {layer.contract.embed_dim})"
        x = first.leaves[slot]
        if _size(layer) > MOST_ASKED or x.size > MOST_STATES:
            return f"{layer.path} is too large: {_size(layer)} parameters, hidden states {x.shape}; give shorter inputs"
        for other in others:
            second = runs[1].received.get(other)
            slots = _slots(second, x) if second is not None else []
            if second is not None and slots:
                return self._programs(layer, other, (first, second), ([slot], slots), x)
        called = [other for other in others if other in runs[1].received]
        return f"{said}{called[0]} received no array of shape {x.shape}" if called else f"{said}{others[0]} was not called"

    def _programs(
        self, layer: Layer, other: str, received: tuple[Call, Call], slots: tuple[list[str], list[str]], x: np.ndarray
    ) -> Part:
        params = within(self.map, layer.path, other, self._moves(layer))
        first = self._own_part(layer, received[0], slots[0])
        second = self.sides[1].part(other, received[1], slots[1])
        second.name = second.name if other else self.sides[1].program.name

        def own(weights: Weights) -> Arrays:
            return write(weights, layer.weight_map, layer.contract, at="block.")

        def theirs(weights: Weights) -> Arrays:
            return params.forward({name: x for name, x in own(weights).items() if name in params.firsts})

        values = {**first.params, **(params.backward(_of(params, second.params)) if self.backward else {})}
        weights = read(values, layer.weight_map, layer.contract, at="block.")
        return Part(
            layer, other, PartProgram(first, 1, own), PartProgram(second, len(slots[1]), theirs), weights, x, received[0]
        )

    def _own_part(self, layer: Layer, received: Call, slots: list[str]) -> Any:
        if not layer.output:
            return self.sides[0].part(layer.path, received, slots)
        from attention.parity.adapters.torch_program import TorchProgram  # noqa: PLC0415 - needs torch
        from attention.parity.config_contracts.torch_tapped import TappedPart  # noqa: PLC0415

        module: Any = self.sides[0].modules[layer.path]
        return TorchProgram(TappedPart(layer.output, module, received, slots), None, f"torch {layer.path}")


def _size(layer: Layer) -> int:
    return sum(int(np.prod(param.shape)) for param in layer.contract.params.values())


def _of(params: ParamMap, arrays: Arrays) -> Arrays:
    return {name: x for name, x in arrays.items() if name in params.seconds}


def _slots(call: Call, x: np.ndarray) -> list[str]:
    """Return where a counterpart received the hidden states: the nearest array of their shape, and those equal to it."""
    same = {path: leaf for path, leaf in call.leaves.items() if is_float(leaf) and leaf.shape == x.shape}
    if not same:
        return []
    far = {path: apart(x, leaf) for path, leaf in same.items()}
    nearest = min(far, key=lambda path: far[path])
    if len(same) > 1 and far[nearest] > FARTHEST:
        # They come first in every call.
        nearest = next(iter(same))
    return [path for path, leaf in same.items() if np.array_equal(leaf, same[nearest], equal_nan=True)]
