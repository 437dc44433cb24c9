"""Compare two models block by block, each block on the inputs it receives, and their whole outputs.

    torch block on what it received            against the float64 run of one of them
    jax block on the same hidden states        a row each

Errors of earlier blocks do not count against later ones, so that the rows that fail are those of the wrong blocks. Only one
block is in float64 at a time: a model of a billion parameters fits in memory where two copies of it do.
"""

# Models come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attention.parity.adapters.inputs import call_of
from attention.parity.adapters.program import Call
from attention.parity.adapters.untouched import own_draws
from attention.parity.blocks.instrumented_model import InstrumentedModel
from attention.parity.blocks.pair import Pair, with_one_budget
from attention.parity.blocks.recorded_blocks import ReplayedModel
from attention.parity.blocks.units import Unit, units, within
from attention.parity.blocks.whole import whole
from attention.parity.compare.recorded_model import RecordedModel, one_recording
from attention.parity.contracts.backends import BACKENDS
from attention.parity.param_mapping import ParamMap, match
from attention.parity.pretrained.layerwise import layerwise as seen_layers
from attention.parity.results.report import OWN, Report, Row
from attention.spec.errors import OptionError, ParamError, UnknownName, shown
from attention.spec.options import FUNCTION, ITERABLE, SWITCH, Option, checked
from attention.spec.options import whole as int_from

BLOCKS = Option(
    '"auto" or pairs of paths',
    lambda value: (
        (type(value) is str and value == "auto")
        or (
            isinstance(value, (list, tuple))
            and all(isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(p) is str for p in pair) for pair in value)
        )
    ),
)
SMALL = 2**24
"""Parameters up to which a map that names and values leave open is settled by running both models."""
MOST_NAMED = 3


@checked(blocks=BLOCKS, gradients=SWITCH, backends=ITERABLE, runs=int_from(1, 2**16), progress=FUNCTION)
def layerwise(
    torch_model: Any,
    jax_model: Any = None,
    inputs: Any = None,
    *,
    blocks: Any = "auto",
    params: Any = None,
    gradients: bool = False,
    progress: Callable[[str], object] = lambda _: None,
    backends: Sequence[str] = BACKENDS,
    runs: int = 16,
) -> Report:
    """Return the report of two models, block by block, each on what it really received, and of their whole outputs.

    Args:
        torch_model: an `nn.Module`. Or, without `jax_model` and `inputs`, an iterable of `parity.RecordedLayer`: layers of a
            trained model with our contracts, each compared with both of our backends (see `pretrained.layerwise`).
        jax_model: an NNX module, or `(linen_module, variables)`; either model may be of any of these kinds. Both have equal
            parameters and are in evaluation mode. One of the two may be a `parity.RecordedModel`.
        inputs: of both models, as `compare` takes them; None for those of a recorded model. A model that takes `use_cache` is
            called with False.
        blocks: "auto", or pairs of paths such as `("model.layers.3", "layers.3")`. "auto" takes the numbered submodules of the
            first model and what stands beside them, such as embedding, last norm and head; the parameter map gives the
            counterpart of each.
        params: how parameters belong together, as `compare` takes it; None if it is to be solved.
        gradients: whether the gradients of each block are compared too, by its hidden states and parameters.
        progress: called with the path of each block before it is compared.
        backends: of the layers of contracts alone: their names.
        runs: of the layers of contracts alone: of each layer's budget.

    Returns:
        Rows of the subject "whole model", and two for each block. Notes say which parts could not be compared by themselves.

    Raises:
        OptionError: a model is of no kind whose parts can be seen, or the inputs hold no array.
        ParamError: the parameters cannot be matched, or a map that is given does not fit.
        UnknownName: a model has no module of a path in `blocks`.
        SideFailed: a model raised.
    """
    index = one_recording((torch_model, jax_model))
    if index is not None:
        if gradients:
            raise OptionError("gradients True must be False beside a recorded model, which has none")
        inputs = (torch_model, jax_model)[index].program.call if inputs is None else inputs
    if jax_model is None and inputs is None:
        return seen_layers(torch_model, backends, runs, gradients=gradients, progress=progress)
    # A part of either model may draw from the generators of Python and NumPy.
    with own_draws():
        return _compared(torch_model, jax_model, call_of(inputs), blocks, params, gradients, progress)


def _compared(
    torch_model: Any, jax_model: Any, call: Call, blocks: Any, params: Any, gradients: bool, progress: Callable[[str], object]
) -> Report:
    sides = instrumented(torch_model, call), instrumented(jax_model, call)
    names = sides[0].program.framework, sides[1].program.framework
    labels = names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")
    found = _matched(sides, call, params)
    if isinstance(jax_model, RecordedModel):
        # The blocks are those that were recorded, and the counterparts are found in the model that is here.
        sides, labels, found = (sides[1], sides[0]), (labels[1], labels[0]), found.inverse
        blocks = blocks if blocks == "auto" else [(second, first) for first, second in blocks]
    chosen, notes = _chosen(sides, found) if blocks == "auto" else ([[unit] for unit in _given(sides, found, blocks)], [])
    notes += [side.model.note for side in sides if isinstance(side, ReplayedModel)]
    recorded = [
        side.record(call, {(unit.second if index else unit.first) for alternatives in chosen for unit in alternatives})
        for index, side in enumerate(sides)
    ]
    pair = Pair(sides, labels, call, (recorded[0], recorded[1]), gradients)
    _ = progress("whole model")
    report = Report(
        tuple(whole(sides, labels, call, pair.runs, Row("whole model", "inputs", "", OWN, pair.dtype))), tuple(notes)
    )
    same = bool(report.rows) and all(row.agrees and row.verdicts for row in report.rows)
    for alternatives in chosen:
        _ = progress(alternatives[0].first)
        part = pair.compared(alternatives)
        report += _bounded(part, alternatives[0].first) if same else part
    paths = [alternatives[0].first for alternatives in chosen]
    return _concluded(Report(report.rows, with_one_budget(report.notes)), paths)


def _bounded(part: Report, path: str) -> Report:
    """Return the report of a part of two models that agree as a whole: the part cannot be wrong then."""
    outputs = [v for row in part.rows for v in row.verdicts if not v.name.startswith("d ")]
    if all(v.agrees for v in outputs) and not any(row.failure for row in part.rows):
        return part
    failures = [row.failure for row in part.rows if row.failure]
    why = failures[0] if failures else "it begins or ends elsewhere in the other model"
    return Report((), (f"{path} was not compared by itself: {why}", *part.notes))


def instrumented(model: Any, call: Call) -> InstrumentedModel:
    """Return a model whose parts can be recorded.

    Raises:
        OptionError: it is of no kind whose parts can be seen.
    """
    if isinstance(model, RecordedModel):
        return ReplayedModel(model)
    torch, flax = sys.modules.get("torch"), sys.modules.get("flax")
    if torch and isinstance(model, torch.nn.Module):
        from attention.parity.blocks.torch_model import TorchModel  # noqa: PLC0415 - needs torch

        return TorchModel(model)
    if flax:
        from attention.parity.blocks.flax_model import LinenModel, NnxModel, linen, nnx  # noqa: PLC0415 - needs Flax

        if isinstance(model, nnx.Module):
            return NnxModel(model)
        if (
            isinstance(model, tuple)
            and len(model) == 2
            and isinstance(model[0], linen.Module)
            and isinstance(model[1], Mapping)
        ):
            return LinenModel(*model, call)
    raise OptionError(f"model {_kind(model)} must be an nn.Module, an NNX module, or (linen module, variables)")


def _kind(model: Any) -> str:
    """Return what a message calls a model: of a tuple the types alone, because its parameters would fill pages."""
    return f"({', '.join(type(each).__name__ for each in model)})" if isinstance(model, tuple) else shown(model)


def _matched(sides: tuple[InstrumentedModel, InstrumentedModel], call: Call, given: Any) -> ParamMap:
    """Return the map of the parameters.

    Raises:
        ParamError: there is none.
    """
    first, second = (side.program for side in sides)
    size = sum(x.size for x in first.params.values())
    if not first.params or not second.params:
        raise ParamError(f"parameters of {first.name} and {second.name} must be there: blocks are found from their map")
    found = match(first, second, call if size <= SMALL else None, given=given)
    if not found.moves:
        raise ParamError(f"no parameter of {first.name} fits any of {second.name}")
    return found


def _chosen(sides: tuple[InstrumentedModel, InstrumentedModel], found: ParamMap) -> tuple[list[list[Unit]], list[str]]:
    return units(sides[0].parts, found, sides[1].modules)


def _given(sides: tuple[InstrumentedModel, InstrumentedModel], found: ParamMap, blocks: Sequence[Sequence[str]]) -> list[Unit]:
    """Return the parts that the user names.

    Raises:
        UnknownName: there is no such module.
    """
    made: list[Unit] = []
    for first, second in blocks:
        for path, side in ((first, sides[0]), (second, sides[1])):
            if not path or path not in side.modules:
                raise UnknownName(f"blocks {shown(path)} must be a module of {side.program.name}")
        inside = [
            move
            for move in found.moves
            if move.first.name.startswith(f"{first}.") and move.second.name.startswith(f"{second}.")
        ]
        made.append(Unit(first, second, within(found, first, second, inside)))
    return made


def _concluded(report: Report, chosen: Sequence[str]) -> Report:
    """Return the report with a summary of its rows."""
    failed = {row.subject for row in report.rows if not all(verdict.agrees for verdict in row.verdicts)}
    wrong = [path for path in chosen if path in failed]
    apart = "whole model" in failed
    if wrong:
        told = f"of {len(chosen)} parts, {len(wrong)} differ on what they received: {', '.join(wrong[:MOST_NAMED])}"
        told += " ..." if len(wrong) > MOST_NAMED else ""
        advice = f"parity.locate of {wrong[0]} alone finds the first operation at which they part"
        return Report(report.rows, (told, *report.notes), advice)
    if apart:
        told = "every part agrees on what it received, and the whole models differ: look at what passes between the parts"
        return Report(report.rows, (told, *report.notes))
    return report
