"""Search for the input on which two programs differ most, since ports often differ on rare inputs only.

    difference = largest relative RMS difference of an output        every variation alone, then the worst of them together

The worst input is then compared as any other is, within its rounding budget: its difference alone decides nothing.
"""

# A program is of any type, which strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from attention.parity.adapters import Call, Program, program
from attention.parity.adapters.inputs import LOAD, call_of
from attention.parity.compare.compare import compare
from attention.parity.param_mapping import result_pairing
from attention.parity.param_mapping.parameter_values import resolve_values
from attention.parity.results.report import Report
from attention.parity.worst_inputs.variations import Variation, replaced, variations
from attention.spec.errors import ParamError, ShapeError, SideFailed
from attention.spec.numbers import is_count
from attention.spec.options import SEED, Option, checked, whole

LIMITS = Option(
    "positive ints by path, or None",
    lambda value: (
        value is None or (isinstance(value, Mapping) and all(type(key) is str and is_count(n, 1) for key, n in value.items()))
    ),
)
COMBINED = 4
"""How many of the worst variations are then tried in pairs."""


@dataclass(frozen=True, eq=False)
class WorstInput:
    """The worst input that was found.

    Attributes:
        name: what was varied: "mask: all False"; "as given" if nothing was worse.
        inputs: the call; pass it on to `compare`, `locate` or `full_comparison`.
        difference: the largest relative RMS difference of an output; inf where one side alone fails or is not finite.
        tried: every variation with its difference, the worst first; NaN where both programs fail.
        report: of the comparison on this input.
    """

    name: str
    inputs: Call
    difference: float
    tried: tuple[tuple[str, float], ...]
    report: Report = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether the programs agree even there."""
        return self.report.ok

    def __str__(self) -> str:
        rows = "\n".join(f"  {difference:9.2e}  {name}" for name, difference in self.tried[:10])
        return f"worst of {len(self.tried)} inputs: {self.name}\n{rows}\n{self.report}"


@checked(load=LOAD, limits=LIMITS, tries=whole(1, 10_000), seed=SEED)
def worst_input(
    torch_side: Any,
    jax_side: Any,
    inputs: Any,
    *,
    params: Any = None,
    load: str | None = None,
    limits: Mapping[str, int] | None = None,
    tries: int = 48,
    seed: int = 0,
) -> WorstInput:
    """Return the input, among variations of an ordinary one, on which two programs differ most, and their comparison on it.

    The variations are length 1, masks that hide everything, padding on either side, one token repeated, the smallest and the
    largest value, positions at their end, zeros, outliers, other draws; then the worst of these in pairs.

    Args:
        torch_side: a side, as `compare` takes it.
        jax_side: another.
        inputs: an ordinary input of both, as `compare` takes it.
        params: how parameters belong together, as `compare` takes it.
        load: "first" or "second", whose parameter values both use.
        limits: by path ("input_ids", "input[0]"), exclusive bounds of integers, such as the size of the vocabulary; without one
            they stay between the smallest and the largest of `inputs`.
        tries: the largest number of inputs that are run.
        seed: of the variations.

    Raises:
        OptionError: the inputs hold no array, or an option is out of its range.
        ParamError: the map that is given does not fit, or the values of the parameters differ and `load` is None.
    """
    call = call_of(inputs)
    pair = program(torch_side, "torch"), program(jax_side, "jax")
    known = resolve_values(pair, ("torch", "jax"), call, params, load)
    if known.failure:
        raise ParamError(known.failure)
    loaded = pair[0].loaded(known.values[0]), pair[1].loaded(known.values[1])
    found = _searched(loaded, call, np.random.default_rng(seed), limits or {}, tries)
    (name, worst_call), difference = max(found, key=lambda each: -1.0 if np.isnan(each[1]) else each[1])
    order = sorted(found, key=lambda each: -np.nan_to_num(each[1], nan=-1.0, posinf=np.inf))
    tried = tuple((other, value) for (other, _), value in order)
    report = compare(*loaded, worst_call, params=known.map, gradients=False, name=name)
    return WorstInput(name, worst_call, difference, tried, report)


def _searched(
    pair: tuple[Program, Program], call: Call, draws: np.random.Generator, limits: Mapping[str, int], tries: int
) -> list[tuple[Variation, float]]:
    """Return the variations that ran, with their sizes."""
    alone = chain([("as given", call)], variations(call, draws, limits))
    found = [(each, output_difference(pair, each[1])) for each in islice(alone, tries)]
    known = {each[0] for each, _ in found}
    pairs = [each for each in _combined(call, found) if each[0] not in known]
    return found + [(each, output_difference(pair, each[1])) for each in pairs[: tries - len(found)]]


def _combined(call: Call, found: list[tuple[Variation, float]]) -> Iterator[Variation]:
    """Yield the worst variations of two different arrays together."""
    before = call.leaves
    changed = [
        (name, {path: x for path, x in other.leaves.items() if x is not before[path]})
        for (name, other), difference in sorted(found, key=lambda each: -np.nan_to_num(each[1], nan=-1.0))
        if name not in ("as given", "length 1") and not np.isnan(difference)
    ][: 2 * COMBINED]
    for i, (name, values) in enumerate(changed):
        for other, more in changed[i + 1 :]:
            if not values.keys() & more.keys():
                yield f"{name}; {other}", replaced(call, {**values, **more})


def output_difference(pair: tuple[Program, Program], call: Call) -> float:
    """Return the largest relative RMS difference of an output; inf where one program alone fails, NaN where both do."""
    made: list[Any] = []
    for each in pair:
        try:
            made.append(each.run(call).outputs)
        except SideFailed:
            made.append(None)
    if made[0] is None or made[1] is None:
        return np.nan if made[0] is made[1] else np.inf
    try:
        names = result_pairing.outputs(made[0], made[1], ("torch", "jax"))
    except ShapeError:
        return np.inf
    return max((_apart(made[0][one], made[1][other]) for one, other in names), default=0.0)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, one - other)
        rms = float(np.sqrt(np.mean(apart**2))) if apart.size else 0.0
        scale = float(np.sqrt(np.mean(np.where(np.isfinite(other), other, 0.0) ** 2))) if other.size else 0.0
    return 0.0 if rms == 0 else np.inf if not np.isfinite(rms) or scale == 0 else rms / scale
