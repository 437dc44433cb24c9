"""Tolerances: numbers for anybody's own test, which right results keep and wrong ones do not.

assert_close(actual, expected, budget=tolerances(program, inputs))
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: basic

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from attention import parity
from attention.parity import assert_close, compare, tolerances
from attention.parity.compare import oracle
from attention.spec.errors import DTypeError, OptionError, ParityError, ShapeError

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def softmax(x: Any) -> Any:
    return jax.nn.softmax(3 * x, -1)


def torch_softmax(x: Any) -> Any:
    return torch.softmax(3 * x, -1)


class TestLaws:
    @pytest.mark.parametrize(("side", "framework"), [(softmax, "jax"), (torch_softmax, "torch"), (nn.Softmax(-1), None)])
    def test_a_program_is_within_its_own_tolerance_and_a_wrong_one_is_not(self, side: Any, framework: str | None) -> None:
        close = tolerances(side, X, framework=framework)
        times = 1 if framework is None else 3
        right = torch.softmax(torch.tensor(X) * times, -1)
        assert_close(right, close["output"].value, budget=close)
        assert_close(right, close["output"].value, budget=close["output"])
        np.testing.assert_allclose(right, close["output"].value, rtol=0, atol=close["output"].atol)
        with pytest.raises(ParityError, match="1 of 1 arrays differ beyond rounding; worst: output: z rms"):
            assert_close(right * (1 + 1e-4), close["output"].value, budget=close)
        assert set(close) == {"output", "d input"}

    def test_a_rounded_reference_is_allowed_its_own_rounding(self) -> None:
        one = np.ones(1000, np.float32)
        assert_close(one + np.float32(5e-7), one, budget=1e-7)
        with pytest.raises(ParityError):
            assert_close(one + np.float32(5e-7), one.astype(np.float64), budget=1e-7)

    def test_trees_are_compared_by_name(self) -> None:
        close = tolerances(lambda x: {"a": softmax(x), "b": (x * 2,)}, X, gradients=False)
        made = {"a": softmax(jnp.asarray(X)), "b": (jnp.asarray(X) * 2,)}
        assert_close(made, {"a": torch_softmax(torch.tensor(X)), "b": [torch.tensor(X) * 2]}, budget=close)
        with pytest.raises(ShapeError, match=r"actual output\.a must have the arrays of expected"):
            assert_close({"a": X}, {"a": X, "b": X}, budget=close)

    def test_a_coarser_dtype_is_allowed_more(self) -> None:
        fine, coarse = (
            tolerances(softmax, X, dtype=dtype, gradients=False)["output"].atol for dtype in ("float32", "bfloat16")
        )
        assert 1e4 < coarse / fine < 1e6

    def test_the_text_has_a_line_for_each_array(self) -> None:
        text = str(tolerances(softmax, X))
        assert text.startswith("float32, traced in float64")
        assert "d input: atol " in text


class TestCheaperBudgets:
    def test_a_large_pair_is_judged_by_the_ratio_and_the_report_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(oracle, "LARGE", 40)
        torch.manual_seed(0)
        one = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3))
        table, kernel, bias = (x.detach().numpy() for x in one.parameters())

        def port(params: Any, ids: Any) -> Any:
            return params["table"][ids] @ params["kernel"] + params["bias"]

        params = {"table": jnp.asarray(table), "kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}
        right = compare(one, (port, params), np.array([[1, 2, 3]]))
        right.assert_ok()
        assert any("a cheaper budget" in note and "allowed 4 times the RMS error" in note for note in right.notes)
        wrong = compare(one, (lambda p, ids: port(p, ids) * 1.0001, params), np.array([[1, 2, 3]]))
        assert wrong.verdict == "differs"
        asked = compare(one, (port, params), np.array([[1, 2, 3]]), budget="jax")
        assert any("traced in float64" in note for note in asked.notes)

    def test_a_pair_of_medium_size_is_perturbed_less_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(oracle, "MEDIUM", 2)
        right = compare(nn.Linear(8, 3), (lambda p, x: x @ p["w"].T + p["b"], {"w": np.zeros((3, 8)), "b": np.zeros(3)}), X,
                        load="first")  # fmt: skip
        right.assert_ok()
        assert any("in 4 runs instead of 8" in note for note in right.notes)


class TestRefusals:
    def test_what_is_no_budget(self) -> None:
        for budget in ("x", -1.0, True, None, [1e-6]):
            with pytest.raises(OptionError, match=r"budget .* must be what parity"):
                assert_close(X, X, budget=budget)
        with pytest.raises(OptionError, match="budget of output, d input must have"):
            assert_close({"a": X}, {"a": X}, budget=tolerances(softmax, X))
        with pytest.raises(ShapeError, match=r"budget \(5,\) must fit output \(3, 8\)"):
            assert_close(X, X, budget=np.ones(5))

    def test_what_is_no_number(self) -> None:
        with pytest.raises(DTypeError):
            assert_close(np.array(["a"]), np.array(["a"]), budget=1e-6)

    def test_a_program_of_numpy_has_none(self) -> None:
        with pytest.raises(OptionError, match="operations of NumPy cannot be perturbed"):
            _ = tolerances(parity.program(np.tanh, "numpy"), X)
