"""Mutation score: how many known mistakes would a user's own parity test notice?

    score = killed / planted        killed: the test fails once what it compares with is wrong in that one way

The mistake is planted in the reference and not in the user's program, which stays untouched: a test that cannot tell its
program from a wrong reference could not tell a wrong program from the right one either.
"""

# The frameworks leave many of their types unknown, and which call a plant can turn only the plant knows.
# pyright: standard

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np

from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect
from attention.parity.contracts.probes import CALL, Drawer, Probe, probes
from attention.parity.mutation_testing import MUTANTS, Mutant
from attention.parity.mutation_testing.reference_layer import Layer
from attention.parity.numerics.comparison import Verdict
from attention.parity.numerics.error_budget import Budget
from attention.parity.results.report import Report
from attention.spec import cases
from attention.spec.errors import OptionError, UnknownName, shown
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights

UNFIT = (AttributeError, KeyError, TypeError, ValueError, IndexError)
"""What a plant raises on a call that lacks what it would turn."""
NOISE = 1e-9
"""Relative change of float64 outputs below which two programs are the same mathematics."""
COLLECTED = frozenset({"check_probe", "full_comparison", "compare", "diagnose", "judge", "locate"})


class ParityFixture:
    """`attention.parity` as a test sees it: all of its names; under a mutant, a reference that is wrong in one way.

    Wrong are `layer`, `expect` and `check`, which stand for the right answer. Reports and verdicts are kept, so that a test
    that fails can show them.

    Args:
        mutant: what is planted, or None.
    """

    def __init__(self, mutant: Mutant | None = None) -> None:
        self.mutant = mutant
        self.contracts: dict[Contract, None] = {}
        self.moved = 0.0
        self.found: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module("attention.parity"), name)
        return self._kept(value) if name in COLLECTED else value

    def _kept(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.found.append(function(*args, **kwargs))
            return self.found[-1]

        return call

    def layer(self, contract: Contract, weights: Weights | None = None, *, backend: str = "numpy") -> Layer:
        """Return the contract's layer, a function of arrays to compare with.

        Args:
            contract: the layer.
            weights: canonical; drawn, with random biases and norm weights, if None.
            backend: "numpy" (the float64 formula), "torch" or "jax", through whose arrays gradients flow.

        Raises:
            OptionError: `contract` is no layer's contract.
            UnknownName: no such backend.
        """
        if not isinstance(contract, Contract):
            raise OptionError(f"contract {shown(contract)} must be a layer's contract")
        if backend not in ("numpy", *backends.BACKENDS):
            raise UnknownName.among("backend", backend, ("numpy", *backends.BACKENDS))
        _ = backends.find(backend)
        return Layer(contract, Drawer(contract, "float32").weights() if weights is None else weights, backend, self.plant)

    def expect(self, probe: Probe, rounds: tuple[str, ...] = (), runs: int = 8) -> Budget:
        """Return what a correct program makes of a probe, and how far it may stray; see `parity.expect`."""
        wrong = self.plant(probe)
        made = expect(wrong, rounds, runs)
        # A program that forgot a parameter has no gradient for it.
        lost = {f"d {n}": np.zeros(x.shape) for n, x in {**probe.arrays, **probe.weights}.items() if f"d {n}" not in made.value}
        return Budget({**made.value, **lost}, {**made.sigma, **lost})

    def check(
        self,
        contract: Contract,
        *,
        name: str = "contract",
        dtypes: Iterable[str] = ("float32",),
        backends: Iterable[str] = backends.BACKENDS,
        implementation: str = "auto",
    ) -> Report:
        """Return the report of every probe of a contract; see `parity.check`."""
        asked = [probe for dtype in dtypes for probe in probes(contract, dtype)]
        rows = [row for probe in asked for row in check_probe(name, probe, backends, implementation, expected=self.expect)]
        self.found.append(Report(tuple(rows)))
        return self.found[-1]

    def plant(self, right: Probe) -> Probe:
        """Return the call with the mistake in it, or as it is where the mistake cannot be made."""
        self.contracts[right.contract] = None
        wrong = planted(self.mutant, right)
        self.moved = max(self.moved, moved(right, wrong))
        return wrong

    @property
    def outcome(self) -> str:
        """What a mutant's survival means.

        "unasked": the test asked for no reference. "tolerated": outputs moved, and the test let them. "hidden": the test's
        data do not show it, though other data would. "equal": nothing that this contract is asked would show it.
        """
        if not self.contracts:
            return "unasked"
        return "tolerated" if self.moved > NOISE else "hidden" if self.feature else "equal"

    @property
    def feature(self) -> str:
        """What a test's data need so that the mistake shows, or "" if none of our probes shows it."""
        if self.mutant is None or not any(revealing(self.mutant, contract) for contract in self.contracts):
            return ""
        return self.mutant.probe

    def verdicts(self) -> list[Verdict]:
        """Return every verdict that the test was given."""
        judged = [x for x in self.found if isinstance(x, Verdict)]
        rows = [row for x in self.found for row in getattr(x, "rows", x if isinstance(x, list) else ())]
        return judged + [verdict for row in rows for verdict in row.verdicts]


def select(words: Sequence[str]) -> list[Mutant]:
    """Return the mutants whose name, case or knob contains one of the words; all without words.

    Raises:
        UnknownName: none does.
    """
    found = [m for m in MUTANTS if not words or any(word.lower() in f"{m.name} {m.case} {m.knob}".lower() for word in words)]
    if not found:
        raise UnknownName(f"mutants {shown(', '.join(words))} must be part of one of: {'; '.join(m.name for m in MUTANTS)}")
    return found


def planted(mutant: Mutant | None, right: Probe) -> Probe:
    """Return the wrong call, or the right one where the mistake cannot be made in it."""
    if mutant is None or not _fits(mutant, right.contract):
        return right
    try:
        wrong = mutant.plant(right)
        _ = _outputs(wrong)
    except UNFIT:
        return right
    return wrong


def moved(right: Probe, wrong: Probe) -> float:
    """Return the largest change of an output, in units of the output's root mean square; inf where one is not finite."""
    if wrong is right:
        return 0.0
    most, made = 0.0, _outputs(wrong)
    for name, before in _outputs(right).items():
        after = made[name]
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        if before.shape != after.shape or not np.all(same | (np.isfinite(before) & np.isfinite(after))):
            return np.inf
        size = float(np.sqrt(np.mean(np.square(before[np.isfinite(before)])))) or 1.0
        with np.errstate(invalid="ignore"):
            most = max(most, float(np.max(np.where(same, 0.0, np.abs(after - before)), initial=0.0)) / size)
    return most


@cache
def revealing(mutant: Mutant, contract: Contract) -> str:
    """Return the name of the plainest of our probes of a contract that shows the mistake, or "" if none does."""
    return next((right.name for right in _probes(contract) if moved(right, planted(mutant, right)) > NOISE), "")


_probes = cache(probes)


def _outputs(probe: Probe) -> dict[str, np.ndarray]:
    made = backends.NumpySide().run(probe, "auto").results
    return {name: made[name] for name in probe.contract.outputs}


@cache
def _fits(mutant: Mutant, contract: Contract) -> bool:
    """Return whether a mistake keeps its name here: what it turns is of the same kind as in the contract it was made for."""
    case = cases.find(mutant.case).contract
    alike = (type(getattr(case, name, None)) is type(getattr(contract, name, None)) for name in _turned(mutant, case))
    return type(case) is type(contract) and all(alike)


def _turned(mutant: Mutant, case: Contract) -> set[str]:
    """Return the fields of a contract that a mutant turns; positions of the call count as the contract's."""
    for right in _probes(case):
        wrong = mutant.plant(right)
        if moved(right, wrong) > NOISE:
            knobs = {f.name for f in fields(case) if getattr(right.contract, f.name) != getattr(wrong.contract, f.name, None)}  # type: ignore[arg-type]
            placed = any(getattr(right, name) is not getattr(wrong, name) for name in CALL if "positions" in name)
            # Masks are algebra: which part of one is turned, its type does not tell.
            return (knobs | ({"positions"} if placed else set())) - {"mask"}
    return set()
