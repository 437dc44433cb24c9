"""Every named mutation is killed by the probes of its contract; the right program passes them all."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from attention.parity.contracts import backends
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import Probe, probes
from attention.parity.mutations.cases import CASE_MUTATIONS, MULTI_HEAD
from attention.parity.mutations.mutation import Mutation
from attention.parity.numerics.comparison import judge
from attention.spec import cases

# The mistake lies in the call, so that a compilation would show nothing more.
SIDES = ("torch", "jax_eager")


@cache
def asked(case: str) -> list[Probe]:
    return probes(cases.find(case).contract)


# A probe is hashed by identity, so that all mutations of a contract share its budget.
expected_of = cache(expect)


def survives(right: Probe, wrong: Probe, side: str) -> bool:
    """Return whether the output of the wrong call lies within the budget of the right one."""
    expected = expected_of(right)
    got = backends.find(side).run(wrong, "auto").results
    names = right.contract.outputs
    return all(judge(name, got[name], expected.value[name], expected.sigma[name]).agrees for name in names)


class TestLaws:
    @pytest.mark.parametrize("mutation", CASE_MUTATIONS, ids=lambda mutation: mutation.name)
    def test_every_mutation_is_killed(self, mutation: Mutation, record_property: Callable[[str, Any], None]) -> None:
        killer = next((right for right in asked(mutation.case) if not survives(right, mutation.operator(right), "torch")), None)
        assert killer, f"{mutation.name} survives every probe of {mutation.case}"
        # What conftest.py prints at the end of a run.
        record_property("kill", (mutation.name, mutation.case, "torch", killer.name))
        if mutation in MULTI_HEAD:
            # A mistake of the call is the same for both backends, and so is the probe that shows it.
            assert not survives(killer, mutation.operator(killer), "jax_eager"), (
                f"{mutation.name} survives {killer.name} in jax"
            )
            record_property("kill", (mutation.name, mutation.case, "jax_eager", killer.name))

    def test_every_case_has_a_mutation_or_is_like_one_that_has(self) -> None:
        like_others = {"cross", "multi_query", "local", "chunked", "prefix", "partial_bias"}
        assert {mutation.case for mutation in CASE_MUTATIONS} | like_others == set(cases.CASES)

    @pytest.mark.parametrize("side", SIDES)
    def test_an_unchanged_call_survives(self, side: str) -> None:
        # Without this, a comparison that condemns everything would kill every mutation.
        right = asked("causal")[0]
        assert survives(right, replace(right), side)


def changes(right: Probe, wrong: Probe) -> bool:
    """Return whether the wrong call differs from the right one in anything that it says."""
    before, after = right.call(), wrong.call()
    arrays = {**right.arrays, **right.weights}
    others = {**wrong.arrays, **wrong.weights}
    return (
        wrong.contract != right.contract
        or any(after[name] is not value for name, value in before.items())
        or any(not np.array_equal(x, others[name], equal_nan=True) for name, x in arrays.items())
    )


class TestValues:
    @pytest.mark.parametrize("mutation", CASE_MUTATIONS, ids=lambda mutation: mutation.name)
    def test_every_mutation_changes_a_call(self, mutation: Mutation) -> None:
        assert any(changes(right, mutation.operator(right)) for right in asked(mutation.case))
