"""Tests that `make test` must always run: every mutation, every contract in both backends, every kernel that runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attention.parity.mutations.cases import CASE_MUTATIONS
from attention.spec.cases import CASES
from parity_tests.kernels import test_derivatives, test_dot_product_attention
from parity_tests.parity.contracts import test_mutations, test_parity
from parity_tests.support.backends import KERNELS
from parity_tests.support.covering import pairwise


def always(test: Callable[..., Any], name: str) -> list[Any]:
    """Return the values of an argument with which a test runs in `make test`."""
    marks: list[pytest.Mark] = getattr(test, "pytestmark", [])
    if any(mark.name == "slow" for mark in marks):
        return []
    for names, params in (mark.args for mark in marks if mark.name == "parametrize"):
        order = [x.strip() for x in names.split(",")] if isinstance(names, str) else list(names)
        if name in order:
            rows = [x for x in params if not any(mark.name == "slow" for mark in getattr(x, "marks", ()))]
            return [_values(row, order)[order.index(name)] for row in rows]
    return []


def _values(row: Any, order: list[str]) -> Any:
    return getattr(row, "values", row if len(order) > 1 else (row,))


class TestLaws:
    def test_every_mutation_is_killed(self) -> None:
        assert always(test_mutations.TestLaws.test_every_mutation_is_killed, "mutation") == list(CASE_MUTATIONS)

    def test_every_contract_is_checked(self) -> None:
        laws = test_parity.TestLaws
        founded = {name for name, _ in always(laws.test_both_backends_agree_with_the_oracle, "named")}
        assert founded | {*always(laws.test_every_option_and_layer_agrees_with_the_oracle, "name")} == set(CASES)

    @pytest.mark.parametrize(
        "test",
        [
            test_dot_product_attention.TestValues.test_float64_is_the_formula_to_1e_14,
            test_dot_product_attention.TestLaws.test_what_nobody_sees_reaches_nothing,
            test_derivatives.TestFirst.test_float64_gradients_are_the_formulas_to_1e_13,
        ],
        ids=lambda test: test.__name__,
    )
    def test_every_kernel_runs(self, test: Callable[..., Any]) -> None:
        assert set(always(test, "kernel")) == set(KERNELS)


class TestValues:
    def test_what_is_marked_slow_does_not_count(self) -> None:
        @pairwise("kernel, name", ["a", "b"], ["x", "y"], strength=1)
        def some(kernel: str, name: str) -> None:
            del kernel, name

        assert always(some, "kernel") == ["a", "b"]
        assert always(pytest.mark.slow(some), "kernel") == []
        assert always(test_parity.TestLaws.test_a_compiled_layer_agrees_in_bfloat16, "name") == []
