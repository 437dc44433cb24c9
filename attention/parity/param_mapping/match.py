"""Entry point `match`: the parameter map of two programs.

match(first, second)                            solved: values, names, shapes
match(first, second, call)                      and, where these leave a question open, the outputs
match(first, second, given=...)                 a mapping of names, a saved map, or a weight map's table
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from attention.checkpoints.weight_map import WeightMap
from attention.parity.adapters import Program, program
from attention.parity.adapters.inputs import call_of
from attention.parity.param_mapping.explicit_map import Given, explicit
from attention.parity.param_mapping.param_map import ParamMap
from attention.parity.param_mapping.solver import solve
from attention.parity.param_mapping.weight_map_moves import table
from attention.spec.errors import ParamError
from attention.spec.layers.contract import Contract


def match(torch_side: Any, jax_side: Any, call: Any = None, given: Any = None) -> ParamMap:
    """Return the map between the parameters of two programs.

    Args:
        torch_side: a program, or what `parity.program` takes; of any framework, as in `compare`.
        jax_side: another.
        call: inputs to run both on, as `compare` takes them, where values, names and shapes leave a question open; None
            leaves it a tie.
        given: what is known. None: nothing. A mapping of the first's names to the second's, with patterns, in either
            direction, or a list of pairs (see `explicit_map.explicit`): what it does not name is solved. A `ParamMap`: it
            alone. `(WeightMap, Contract)` or `(WeightMap, WeightMap, Contract)`: the layers of the table; the rest is solved.

    Returns:
        A bijection of all that has a counterpart; the rest is in `left_over`. Programs that share nothing give an empty map.

    Raises:
        ParamError: what is given names unknown parameters, shapes that do not fit, or a parameter twice.
    """
    first, second = program(torch_side, "torch"), program(jax_side, "jax")
    call = None if call is None else call_of(call)
    if isinstance(given, ParamMap):
        return _fitting(first, second, given)
    if isinstance(given, Mapping) or _is_pairs(given):
        moves, apart = explicit(first, second, cast("Given", given))
        return solve(first, second, call, moves, apart)
    if given is None:
        return solve(first, second, call)
    *tables, contract = cast("tuple[Any, ...]", given if isinstance(given, tuple) and given else (None,))
    if not isinstance(contract, Contract) or not tables or not all(isinstance(each, WeightMap) for each in tables):
        raise ParamError("given must be a mapping of names, a ParamMap, or (WeightMap, Contract)")
    moves = table(first, second, tables, contract)
    return solve(first, second, call, tuple(replace(move, evidence=tables[0].name) for move in moves))


def _is_pairs(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _fitting(first: Program, second: Program, given: ParamMap) -> ParamMap:
    """Return a saved map, brought up to date in what it leaves over.

    Raises:
        ParamError: a program lacks a parameter of the map, or has it in another shape.
    """
    ends = [{m.first.name: m.first.shape for m in given.every}, {m.second.name: m.second.shape for m in given.every}]
    left: list[tuple[str, ...]] = []
    for each, end in zip((first, second), ends, strict=True):
        shapes = {name: array.shape for name, array in each.params.items()}
        wrong = [
            f"{name} {shapes.get(name, 'is missing')} must be {shape}"
            for name, shape in end.items()
            if shapes.get(name) != shape
        ]
        if wrong:
            raise ParamError(f"{each.name} does not fit the map: {'; '.join(wrong)}")
        left.append(tuple(name for name in shapes if name not in end))
    return replace(given, left_over=(left[0], left[1]))
