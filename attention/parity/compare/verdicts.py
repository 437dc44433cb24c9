"""Verdicts: every result of one program against the oracle, and failures such as NaN in words.

row.verdicts = judge(got, value, sigma)        row.failure = "NaN in output of torch: 3 of 12 elements, first at [0, 1]"
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attention.parity.adapters import Made
from attention.parity.compare.conventions import Triple
from attention.parity.compare.oracle import Oracle
from attention.parity.numerics.comparison import Verdict, judge
from attention.parity.param_mapping.result_pairing import Pairing

MOST = 3
"""Arrays that a failure names: the rest are its consequences."""


def held(of: int, made: Made, oracle: Oracle, pairing: Pairing) -> dict[str, Triple]:
    """Return every result that the oracle has: what the program made, what it should be, and its budget.

    Args:
        of: 0 for the first program, 1 for the second.
        made: its results.
        oracle: values and budgets.
        pairing: of the names of both programs.

    Raises:
        ParamError: a gradient is not shaped as its parameter is.
    """
    results, expected = {**made.outputs, **made.gradients}, oracle.budgets[of]
    values = pairing.onto(of, oracle.side, results, expected.value)
    sigmas = pairing.onto(of, oracle.side, results, expected.sigma)
    return {name: (got.astype(np.float64), wanted, sigmas[name][1]) for name, (got, wanted) in values.items()}


def judged(label: str, triples: Mapping[str, Triple]) -> tuple[tuple[Verdict, ...], str]:
    """Return a verdict on every result, and what is wrong with the program itself, or "".

    Args:
        label: what the report calls it.
        triples: as `held` returns them.
    """
    verdicts = tuple(judge(name, *triple) for name, triple in triples.items())
    failures = [line for name, (got, wanted, _) in triples.items() for line in broken(name, label, got, wanted)]
    return verdicts, "; ".join(failures[:MOST])


def without(triple: Triple, out: np.ndarray) -> Triple | None:
    """Return a result without some of its elements, which then agree; None if no element is left."""
    got, wanted, sigma = triple
    return None if out.all() else (np.where(out, wanted, got), wanted, sigma)


def broken(name: str, label: str, got: np.ndarray, wanted: np.ndarray) -> list[str]:
    """Return what is wrong with an array whatever its budget: not finite where the oracle is, or an oracle of NaN."""
    if wanted.size and np.isnan(wanted).all():
        return [f"{name} is NaN in float64 too, all of it: nothing was compared with {label}"]
    found: list[str] = []
    for kind, where in (("NaN", np.isnan(got)), ("inf", np.isinf(got))):
        bad = where & np.isfinite(wanted)
        if bad.any():
            index = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
            found.append(f"{kind} in {name} of {label}: {int(bad.sum())} of {bad.size} elements, first at [{index}]")
    return found


def nan_warnings(label: str, made: Made) -> list[str]:
    """Return a line for each result that holds NaN, which agrees with a NaN of the oracle without saying anything."""
    lost = {name: int(np.isnan(x.astype(np.float64)).sum()) for name, x in {**made.outputs, **made.gradients}.items()}
    return [
        f"warning: {count} elements of {name} of {label} are NaN, which agree with a NaN of the oracle and prove nothing"
        for name, count in lost.items()
        if count
    ]
