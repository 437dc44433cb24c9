"""Every planted mistake is seen by the probes of its contract; the honest program passes them all."""

from dataclasses import replace

import numpy as np
import pytest

from attention.parity import sides
from attention.parity.checks import expect
from attention.parity.compare import judge
from attention.parity.mutants import MUTANTS, Mutant
from attention.parity.probes import Probe, probes
from attention.spec import cases


def survives(right: Probe, wrong: Probe, side: str) -> bool:
    """Return whether the output of the wrong call lies within the budget of the right one."""
    expected = expect(right)
    got = sides.find(side).run(wrong, "auto")["output"]
    return judge("output", got, expected.value["output"], expected.sigma["output"]).agrees


class TestLaws:
    @pytest.mark.parametrize("side", sides.BACKENDS)
    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
    def test_every_mutant_is_killed(self, mutant: Mutant, side: str) -> None:
        contract = cases.find(mutant.case).contract
        killers = [right.name for right in probes(contract) if not survives(right, mutant.plant(right), side)]
        assert killers, f"{mutant.name} survives every probe of {mutant.case}"

    @pytest.mark.parametrize("side", sides.BACKENDS)
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
