"""Any call: right programs agree whatever they compute with, and what a framework does not define is no difference.

random keys, exact constants, complex values, bfloat16 inside, caches in results, masks, ties, frozen rows, statistics
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
from flax import nnx
from torch import nn

from attention.parity import compare

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
KEY = jax.random.key(0)


def noted(report: Any, text: str) -> bool:
    return any(text in note for note in report.notes)


def nothing(shape: Any, key: Any) -> Any:
    return 0 * jax.random.normal(key, shape)


def keyless(x: Any, key: Any = None) -> Any:
    del key
    return torch.tanh(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(5))

    def forward(self, x: Any) -> Any:
        return x * self.w


class ScaledPort(nnx.Module):
    def __init__(self) -> None:
        self.w = nnx.Param(jnp.ones(5))

    def __call__(self, x: Any) -> Any:
        return x * self.w[...]


class TestRandomKeys:
    @pytest.mark.parametrize(
        ("port", "call"),
        [
            (lambda x: jnp.tanh(x + nothing(x.shape, jax.random.key(0))), X),
            (lambda x: jnp.tanh(x + nothing(x.shape, jax.random.PRNGKey(0))), X),
            (lambda x, key: jnp.tanh(x + nothing(x.shape, key)), {"x": X, "key": KEY}),
            (lambda x, key: jnp.tanh(x + nothing(x.shape, key)), {"x": X, "key": jax.random.PRNGKey(0)}),
            (lambda x: jnp.tanh(x + sum(nothing(x.shape, k) for k in jax.random.split(KEY, 2))), X),
            (
                lambda x: jax.lax.scan(lambda c, k: (c, jnp.tanh(x + nothing(x.shape, k))), 0, jax.random.split(KEY, 2))[1][0],
                X,
            ),
        ],
        ids=["typed", "raw", "typed, given", "raw, given", "split", "scanned"],
    )
    def test_a_program_with_a_random_key_is_traced(self, port: Any, call: Any) -> None:
        report = compare(keyless, port, call)
        report.assert_ok()
        assert not noted(report, "because")

    def test_a_recurrent_layer_of_flax_is_traced(self) -> None:
        cell = nnx.SimpleCell(5, 4, rngs=nnx.Rngs(0))
        layer, kernel, hidden = nnx.RNN(cell), np.asarray(cell.dense_i.kernel[...]), np.asarray(cell.dense_h.kernel[...])

        def recurrent(x: Any) -> Any:
            h, found = torch.zeros(1, 4, dtype=x.dtype), []
            for i in range(3):
                h = torch.tanh(x[:, i] @ torch.tensor(kernel).to(x) + h @ torch.tensor(hidden).to(x))
                found.append(h)
            return torch.stack(found, 1)

        report = compare(recurrent, layer, X[None])
        report.assert_ok()
        assert noted(report, "traced in float64")


class TestExactConstants:
    @pytest.mark.parametrize("budget", ["jax", "torch"])
    @pytest.mark.parametrize("power", [2.0, 3.0, -1.0])
    def test_a_whole_exponent_in_a_float_stays_whole(self, budget: str, power: float) -> None:
        right = compare(
            lambda x: torch.pow(x, torch.tensor(power)).mean(-1),
            lambda x: jnp.mean(jnp.power(x, jnp.asarray(power, jnp.float32)), -1),
            X,
            budget=budget,
        )
        right.assert_ok()
        wrong = compare(lambda x: x.pow(power).mean(-1), lambda x: jnp.mean(jnp.power(x, jnp.asarray(power)), -1) * 1.0001, X)
        assert not wrong.ok

    def test_an_exponent_that_is_an_input_may_be_whole_too(self) -> None:
        compare(torch.pow, jnp.power, (X, np.full((3, 5), 2.0, np.float32)), gradients=False).assert_ok()

    def test_constants_made_of_constants_are_not_rounded_where_the_dtype_holds_them(self) -> None:
        # 3.0 - 1.0 picks a row; were it rounded, floor would pick another one in half of the runs.
        def picked(x: Any) -> Any:
            return x * jnp.floor(jnp.asarray(3.0) - jnp.asarray(1.0))

        compare(lambda x: x * 2.0, picked, X).assert_ok()

    def test_results_of_data_are_rounded_however_whole_they_are(self) -> None:
        threes = np.full((3, 5), 3.0, np.float32)
        compare(lambda x: x.sum(-1) / 5, lambda x: jnp.sum(x, -1) * np.float32(1 / 5), threes).assert_ok()


class TestNumbers:
    @pytest.mark.parametrize("budget", ["jax", "torch"])
    def test_complex_outputs_are_compared_in_both_parts(self, budget: str) -> None:
        right = compare(torch.fft.fft, jnp.fft.fft, X, budget=budget)
        right.assert_ok()
        assert {v.name for v in right.rows[0].verdicts} == {"output.real", "output.imag", "d input"}
        assert not compare(torch.fft.fft, lambda x: jnp.conj(jnp.fft.fft(x)), X, budget=budget).ok

    def test_complex_numbers_inside_and_among_the_inputs(self) -> None:
        angles = np.exp(1j * X).astype(np.complex64)

        def turned(x: Any, angle: Any) -> Any:
            return torch.view_as_real(torch.complex(x, 2 * x) * angle)

        def ported(x: Any, angle: Any) -> Any:
            made = jax.lax.complex(x, 2 * x) * angle
            return jnp.stack([made.real, made.imag], -1)

        compare(turned, ported, (X, angles)).assert_ok()
        assert not compare(turned, lambda x, angle: ported(x, angle.conj()), (X, angles)).ok

    def test_a_part_in_bfloat16_is_allowed_its_own_rounding(self) -> None:
        def torch_side(x: Any) -> Any:
            return (torch.tanh(x.to(torch.bfloat16)) * 3).float() + x

        def jax_side(x: Any) -> Any:
            return (jnp.tanh(x.astype(jnp.bfloat16)) * 3).astype(jnp.float32) + x

        compare(torch_side, jax_side, X).assert_ok()
        assert not compare(torch_side, lambda x: jax_side(x) * 1.1, X).ok

    def test_options_of_every_kind_pass_through(self) -> None:
        class Config:
            times = 2

        def scaled(x: Any, *, flag: bool, name: str, none: Any, config: Any, count: int) -> Any:
            return x * config.times * count if flag and name == "a" and none is None else x

        compare(scaled, scaled, {"x": X, "flag": True, "name": "a", "none": None, "config": Config(), "count": 3}).assert_ok()


class TestWrappers:
    @pytest.mark.parametrize(
        "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "parallel"]
    )
    def test_a_wrapped_module_is_compared_under_the_names_of_the_one_inside(self, wrap: Any) -> None:
        report = compare(wrap(Scaled()), ScaledPort(), X)
        report.assert_ok()
        assert {v.name for v in report.rows[0].verdicts} == {"output", "d input", "d w"}

    def test_a_container_without_length_or_without_parts_is_a_module(self) -> None:
        compare(nn.Sequential(), lambda x: x, X).assert_ok()
