"""Check one draw: whether the formula and both layers agree on values and gradients.

    |a - b| <= 2^-30 * largest        values: of that array; gradients: of all gradients of the call

2^-30 is 2^23 roundings of float64, far above the error of a call of a few thousand operations, and 1/64 of one rounding of
float32: a part that is computed in float32, or by another formula, shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from tools.evaluation.option_fuzzing import programs as run
from tools.evaluation.option_fuzzing.draws import Draw

LIMIT = 2.0**-30

Results = Mapping[str, np.ndarray]
Programs = Mapping[str, Callable[[Probe, str], Results]]
PROGRAMS: Programs = {"formula": run.formula, "torch": run.torch_layer, "jax": run.jax_layer}


@dataclass(frozen=True)
class Disagreement:
    """One result of which two programs say something else, or a program that raised.

    Attributes:
        programs: their names; one, if it raised.
        result: "output", an intermediate, or "d " and what the gradient is of; or what was raised.
        error: the largest difference, in units of the largest element; inf where one is not finite and the other is.
        index: where it is.
        values: what either has there.
    """

    programs: tuple[str, ...]
    result: str
    error: float = np.inf
    index: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def raised(self) -> bool:
        """Whether a program raised."""
        return len(self.programs) == 1

    def __str__(self) -> str:
        if self.raised:
            return f"{self.programs[0]} raised {self.result}"
        found = ", ".join(f"{name} {value:.9g}" for name, value in zip(self.programs, self.values, strict=True))
        return f"{self.result}[{', '.join(map(str, self.index))}]: {found}; apart by {self.error:.1e} of the largest"


def check_draw(draw: Draw, programs: Programs | None = None) -> tuple[Disagreement, ...]:
    """Return where the programs disagree on a draw; nothing if they agree.

    Args:
        draw: the call.
        programs: by name; the formula and both layers if None.
    """
    probe, made, raised = draw.probe(), dict[str, Results](), list[Disagreement]()
    for name, program in (programs or PROGRAMS).items():
        try:
            made[name] = program(probe, draw.implementation)
        # Whatever a program raises is its failure, and the others are still to be run.
        except Exception as error:  # noqa: BLE001
            text = " ".join(str(error).split())
            raised.append(Disagreement((name,), f"{type(error).__name__}: {text[:200]}"))
    pairs = combinations(made.items(), 2)
    return (*raised, *(found for one, other in pairs for found in compared(one, other)))


def compared(one: tuple[str, Results], other: tuple[str, Results]) -> Iterator[Disagreement]:
    """Yield the results of which two programs say something else.

    Args:
        one: a program's name and its results.
        other: the same of the second.
    """
    (first, a), (second, b) = one, other
    names = (first, second)
    for result in sorted(set(a) ^ set(b)):
        yield Disagreement(names, f"{result} (which one of them lacks)")
    gradients = max((_largest(x) for name, x in a.items() if name.startswith("d ")), default=0.0)
    for result in (name for name in a if name in b):
        x, y = np.asarray(a[result]), np.asarray(b[result])
        if x.shape != y.shape:
            yield Disagreement(names, f"{result} (shapes {x.shape} and {y.shape})")
            continue
        error = _apart(x, y, gradients if result.startswith("d ") else _largest(x))
        if error.size and not error.max() <= LIMIT:
            index: Any = np.unravel_index(int(np.argmax(error)), error.shape)
            at = tuple(int(i) for i in index)
            yield Disagreement(names, result, float(error[at]), at, (float(x[at]), float(y[at])))


def _largest(x: np.ndarray) -> float:
    """Return the largest finite magnitude."""
    return float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))


def _apart(x: np.ndarray, y: np.ndarray, largest: float) -> np.ndarray:
    """Return the distance of each element in units of the largest: inf where one alone is not finite."""
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(all="ignore"):
        error = np.abs(x - y) / largest
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
