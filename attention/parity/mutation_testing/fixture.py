"""The pytest fixture `parity`, which applies a mutation to the reference that a user's test compares with.

    mutation score = killed / applied        killed: the test fails when its reference is wrong in that one way

The mutation is applied to the reference and not to the user's program: a test that cannot tell its program from a wrong
reference cannot tell a wrong program from the right reference either.
"""

# The frameworks leave many of their types unknown.
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
from attention.parity.mutation_testing.reference_layer import Layer
from attention.parity.mutations.cases import CASE_MUTATIONS
from attention.parity.mutations.mutation import Mutation
from attention.parity.numerics.comparison import Verdict
from attention.parity.numerics.error_budget import Budget
from attention.parity.results.report import Report
from attention.spec import cases
from attention.spec.errors import OptionError, UnknownName, shown
from attention.spec.layers.contract import Contract
from attention.spec.params import Weights

UNFIT = (AttributeError, KeyError, TypeError, ValueError, IndexError)
"""Errors of an operator on a call to which it does not apply."""
NOISE = 1e-9
"""Relative change of float64 outputs below which two programs are the same mathematics."""
COLLECTED = frozenset({"check_probe", "full_comparison", "compare", "diagnose", "judge", "locate"})


class ParityFixture:
    """The names of `attention.parity`, whose reference functions return wrong results under a mutation.

    These are `layer`, `expect` and `check`. Reports and verdicts are kept, so that a failing test can show them.

    Args:
        mutation: the one to apply, or None.
    """

    def __init__(self, mutation: Mutation | None = None) -> None:
        self.mutation = mutation
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
        return Layer(contract, Drawer(contract, "float32").weights() if weights is None else weights, backend, self.operator)

    def expect(self, probe: Probe, rounds: tuple[str, ...] = (), runs: int = 8) -> Budget:
        """Return the outputs of a correct program on a probe, and their error budget; see `parity.expect`."""
        wrong = self.operator(probe)
        made = expect(wrong, rounds, runs)
        # A program without a parameter has no gradient for it.
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
        observations = [probe for dtype in dtypes for probe in probes(contract, dtype)]
        rows = [
            row for probe in observations for row in check_probe(name, probe, backends, implementation, expected=self.expect)
        ]
        self.found.append(Report(tuple(rows)))
        return self.found[-1]

    def operator(self, right: Probe) -> Probe:
        """Return the call with the mutation applied, or unchanged where it does not apply."""
        self.contracts[right.contract] = None
        wrong = mutated(self.mutation, right)
        self.moved = max(self.moved, moved(right, wrong))
        return wrong

    @property
    def outcome(self) -> str:
        """Why a mutation survived.

        "unused": the test used no reference. "tolerated": outputs changed, and the test passed. "hidden": the test's data do
        not reveal it, though other data would. "equal": no call of the contract reveals it.
        """
        if not self.contracts:
            return "unused"
        return "tolerated" if self.moved > NOISE else "hidden" if self.feature else "equal"

    @property
    def feature(self) -> str:
        """The inputs that would reveal the mutation, or "" if none of our probes does."""
        if self.mutation is None or not any(revealing(self.mutation, contract) for contract in self.contracts):
            return ""
        return self.mutation.revealed_by

    def verdicts(self) -> list[Verdict]:
        """Return every verdict that the test received."""
        judged = [x for x in self.found if isinstance(x, Verdict)]
        rows = [row for x in self.found for row in getattr(x, "rows", x if isinstance(x, list) else ())]
        return judged + [verdict for row in rows for verdict in row.verdicts]


def select(words: Sequence[str]) -> list[Mutation]:
    """Return the mutations whose name, case or kind contains one of the words; all without words.

    Raises:
        UnknownName: none does.
    """
    found = [
        m for m in CASE_MUTATIONS if not words or any(word.lower() in f"{m.name} {m.case} {m.kind}".lower() for word in words)
    ]
    if not found:
        raise UnknownName(
            f"mutations {shown(', '.join(words))} must be part of one of: {'; '.join(m.name for m in CASE_MUTATIONS)}"
        )
    return found


def mutated(mutation: Mutation | None, right: Probe) -> Probe:
    """Return the wrong call, or the right one where the mutation does not apply."""
    if mutation is None or not _fits(mutation, right.contract):
        return right
    try:
        wrong = mutation.operator(right)
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
def revealing(mutation: Mutation, contract: Contract) -> str:
    """Return the name of the first of our probes of a contract that reveals the mutation, or "" if none does."""
    return next((right.name for right in _probes(contract) if moved(right, mutated(mutation, right)) > NOISE), "")


_probes = cache(probes)


def _outputs(probe: Probe) -> dict[str, np.ndarray]:
    made = backends.NumpyBackend().run(probe, "auto").results
    return {name: made[name] for name in probe.contract.outputs}


@cache
def _fits(mutation: Mutation, contract: Contract) -> bool:
    """Return whether a mutation applies to a contract: the fields it changes have the same types as in its case."""
    case = cases.find(mutation.case).contract
    alike = (type(getattr(case, name, None)) is type(getattr(contract, name, None)) for name in _changed(mutation, case))
    return type(case) is type(contract) and all(alike)


def _changed(mutation: Mutation, case: Contract) -> set[str]:
    """Return the fields of a contract that a mutation changes; positions of the call count as the contract's."""
    for right in _probes(case):
        wrong = mutation.operator(right)
        if moved(right, wrong) > NOISE:
            kinds = {f.name for f in fields(case) if getattr(right.contract, f.name) != getattr(wrong.contract, f.name, None)}  # type: ignore[arg-type]
            placed = any(getattr(right, name) is not getattr(wrong, name) for name in CALL if "positions" in name)
            # The type of a mask does not say which part of its expression is changed.
            return (kinds | ({"positions"} if placed else set())) - {"mask"}
    return set()
