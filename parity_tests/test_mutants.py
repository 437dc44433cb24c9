"""Every planted mistake is seen by the probes of its contract; the honest program passes them all."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attention.parity import sides
from attention.parity.checks import expect
from attention.parity.compare import judge
from attention.parity.mutants import MUTANTS, Mutant
from attention.parity.probes import Probe, probes
from attention.spec import cases


# The mistake lies in the call, so that a compilation would show nothing more.
SIDES = ("torch", "jax_eager")


def survives(right: Probe, wrong: Probe, side: str) -> bool:
    """Return whether the output of the wrong call lies within the budget of the right one."""
    expected = expect(right)
    got = sides.find(side).run(wrong, "auto").results
    names = right.contract.outputs
    return all(judge(name, got[name], expected.value[name], expected.sigma[name]).agrees for name in names)


class TestLaws:
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
    def test_every_mutant_is_killed(self, mutant: Mutant, side: str, record_property: Callable[[str, Any], None]) -> None:
        contract = cases.find(mutant.case).contract
        killers = (right.name for right in probes(contract) if not survives(right, mutant.plant(right), side))
        killer = next(killers, None)
        assert killer, f"{mutant.name} survives every probe of {mutant.case}"
        # What conftest.py prints at the end of a run.
        record_property("kill", (mutant.name, mutant.case, side, killer))

    def test_every_case_has_a_mutant_or_is_the_twin_of_one_that_has(self) -> None:
        twins = {"cross", "multi_query", "local", "chunked", "prefix", "partial_bias"}
        assert {mutant.case for mutant in MUTANTS} | twins == set(cases.CASES)

    @pytest.mark.parametrize("side", SIDES)
    def test_an_unturned_knob_survives(self, side: str) -> None:
        # Without this, a comparison that condemns everything would kill every mutant.
        right = probes(cases.find("causal").contract)[0]
        assert survives(right, replace(right), side)


class TestValues:
    def test_every_mutant_changes_the_call(self) -> None:
        for mutant in MUTANTS:
            right = probes(cases.find(mutant.case).contract)[0]
            wrong = mutant.plant(right)
            same = wrong.contract == right.contract and wrong.mask is right.mask
            arrays = {**right.arrays, **right.weights}
            assert not same or any(
                not np.array_equal(x, {**wrong.arrays, **wrong.weights}[name]) for name, x in arrays.items()
            ), mutant.name
