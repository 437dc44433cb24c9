"""Locate: the line of each program at which the two part.

first:  y = f(x)  ...        second:  y = g(x)  ...        locate(first, second).torch.text = "y = f(x)", ...
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from attention.parity.tracing import Divergence, locate
from attention.spec.errors import OptionError, SideFailed

RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 5, 6))
Function = Callable[..., Any]


def parts(first: Function, second: Function, *inputs: np.ndarray, **more: Any) -> Divergence:
    found = locate(first, second, inputs or (X,), **more)
    assert found.found
    assert found.torch is not None
    assert found.jax is not None
    assert found.difference is not None
    assert found.torch.file == found.jax.file == __file__
    return found


def texts(found: Divergence) -> tuple[str, str]:
    assert found.torch is not None
    assert found.jax is not None
    return found.torch.text, found.jax.text


class TestForward:
    def test_an_epsilon(self) -> None:
        def first(x: Any) -> Any:
            y = functional.layer_norm(x, (6,), eps=1e-5)
            return y * 2

        def second(x: Any) -> Any:
            c = x - x.mean(-1, keepdims=True)
            y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-6)
            return y * 2

        found = parts(first, second)
        assert texts(found) == (
            "y = functional.layer_norm(x, (6,), eps=1e-5)",
            "y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-6)",
        )
        assert found.kind == "different"
        assert found.difference is not None
        assert found.difference.kind == "offset"
        assert found.difference.numbers["offset"] == pytest.approx(-9e-6)

    def test_a_scale_that_one_side_forgets(self) -> None:
        def first(x: Any) -> Any:
            s = x @ x.mT / math.sqrt(6)
            return functional.softmax(s, -1) @ x

        def second(x: Any) -> Any:
            s = x @ x.swapaxes(1, 2)
            return jax.nn.softmax(s, -1) @ x

        found = parts(first, second)
        assert texts(found) == ("s = x @ x.mT / math.sqrt(6)", "s = x @ x.swapaxes(1, 2)")
        assert found.kind == "absent in jax"
        assert found.difference is not None
        assert found.difference.kind == "factor"
        assert "sqrt 6" in found.difference.text

    def test_an_operation_that_only_jax_has(self) -> None:
        def first(x: Any) -> Any:
            y = x @ x.mT
            return y.exp()

        def second(x: Any) -> Any:
            y = jnp.tanh(x @ x.swapaxes(1, 2))
            return jnp.exp(y)

        found = parts(first, second)
        assert texts(found) == ("y = x @ x.mT", "y = jnp.tanh(x @ x.swapaxes(1, 2))")
        assert found.kind == "absent in torch"

    def test_an_axis_of_softmax(self) -> None:
        def first(x: Any) -> Any:
            s = x @ x.mT + x.sum(-1, keepdim=True)
            return functional.softmax(s, dim=-1) @ x

        def second(x: Any) -> Any:
            s = x @ x.swapaxes(1, 2) + x.sum(-1, keepdims=True)
            return jax.nn.softmax(s, axis=-2) @ x

        assert texts(parts(first, second)) == (
            "return functional.softmax(s, dim=-1) @ x",
            "return jax.nn.softmax(s, axis=-2) @ x",
        )

    def test_a_mask_of_the_wrong_diagonal(self) -> None:
        def first(x: Any) -> Any:
            s = (x @ x.mT).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
            return s.softmax(-1)

        def second(x: Any) -> Any:
            s = jnp.where(jnp.tri(5, k=1), x @ x.swapaxes(1, 2), -1e30)
            return jax.nn.softmax(s)

        found = parts(first, second)
        assert texts(found)[1].startswith("s = jnp.where")
        assert found.difference is not None
        assert found.difference.numbers["diagonals"] == [1]

    def test_a_split_of_heads(self) -> None:
        def first(x: Any) -> Any:
            q = x.view(2, 5, 3, 2).transpose(1, 2)
            return q @ q.mT

        def second(x: Any) -> Any:
            q = x.reshape(2, 5, 2, 3).transpose(0, 3, 1, 2)
            return q @ q.swapaxes(2, 3)

        assert texts(parts(first, second))[1] == "q = x.reshape(2, 5, 2, 3).transpose(0, 3, 1, 2)"

    def test_a_narrow_dtype(self) -> None:
        def first(x: Any) -> Any:
            y = x.to(torch.float32)
            return y.exp()

        def second(x: Any) -> Any:
            y = x.astype(jnp.bfloat16)
            return jnp.exp(y)

        found = parts(first, second)
        assert texts(found)[1] == "y = x.astype(jnp.bfloat16)"

    def test_a_line_that_runs_for_each_layer(self) -> None:
        w = RNG.normal(size=(3, 6, 6)) / 3

        def first(x: Any, w: Any) -> Any:
            for kernel in w:
                h = functional.gelu(x @ kernel)
                x = x + h
            return x

        def second(x: Any, w: Any) -> Any:
            def layer(x: Any, kernel: Any) -> Any:
                h = jax.nn.gelu(x @ kernel, approximate=True)
                return x + h, None

            return jax.lax.scan(layer, x, w)[0]

        found = parts(first, second, X, w)
        assert texts(found) == ("h = functional.gelu(x @ kernel)", "h = jax.nn.gelu(x @ kernel, approximate=True)")
        assert found.kind == "different"


class TestBackward:
    def test_a_stopped_gradient(self) -> None:
        def first(x: Any) -> Any:
            y = x.exp()
            return x * y.detach()

        def second(x: Any) -> Any:
            y = jnp.exp(x)
            return x * y

        found = parts(first, second, gradients=True)
        assert texts(found) == ("return x * y.detach()", "return x * y")
        assert found.kind == "absent in jax"
        assert set(found.outputs) == {"d input"}
        assert not locate(first, second, X).found

    def test_a_derivative_by_hand(self) -> None:
        def first(x: Any) -> Any:
            return x.sin() * 2

        @jax.custom_vjp
        def sine(x: Any) -> Any:
            return jnp.sin(x)

        def forward(x: Any) -> Any:
            return jnp.sin(x), x

        def backward(x: Any, c: Any) -> Any:
            d = -jnp.cos(x)
            return (c * d,)

        _ = sine.defvjp(forward, backward)

        def second(x: Any) -> Any:
            return sine(x) * 2

        found = parts(first, second, gradients=True)
        assert texts(found) == ("return x.sin() * 2", "d = -jnp.cos(x)")


class TestAgreement:
    def test_two_ways_to_the_same_thing_are_no_divergence(self) -> None:
        norm = nn.LayerNorm(6)

        def first(x: Any) -> Any:
            return functional.scaled_dot_product_attention(x, x, x, is_causal=True)

        def second(x: Any) -> Any:
            s = jnp.where(jnp.tri(5), x @ x.swapaxes(1, 2) / 6**0.5, -1e9)
            e = jnp.exp(s)
            return e / e.sum(-1, keepdims=True) @ x

        found = locate(first, second, X, gradients=True)
        assert not found.found
        assert found.torch is found.jax is found.difference is None
        assert not found.kind
        assert not locate(norm, lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5), X).found

    def test_coverage_says_what_was_compared(self) -> None:
        found = locate(lambda x: x.exp().tanh() + 1, lambda x: 1 + jnp.tanh(jnp.exp(x)), X)
        assert [(x.operations, x.matched) for x in found.coverage] == [(3, 3), (3, 3)]
        assert "3 of 3" in str(found)
        assert str(found).startswith("no divergence")
        short = locate(lambda x: (2 * x).exp(), lambda x: jnp.exp(x) ** 2, X)
        assert [(x.operations, x.matched) for x in short.coverage] == [(2, 1), (2, 1)]

    def test_a_transposed_output_is_a_divergence(self) -> None:
        x = RNG.normal(size=(5, 5))
        assert locate(lambda x: x.exp(), lambda x: jnp.exp(x).T, x).found


class TestTold:
    def test_the_text_and_the_data_hold_both_lines(self) -> None:
        def first(x: Any) -> Any:
            y = x.exp()
            return y.sin()

        def second(x: Any) -> Any:
            y = jnp.exp(x)
            return jnp.cos(y)

        found = parts(first, second)
        assert "return y.sin()" in str(found)
        assert "return jnp.cos(y)" in str(found)
        assert "y = jnp.exp(x)" in str(found)
        told = json.loads(json.dumps(found.to_dict()))
        assert told["torch"]["text"] == "return y.sin()"
        assert told["jax"]["line"] == found.jax.line if found.jax else False
        assert found.agreed is not None
        assert [event.op for event in found.agreed] == ["exp", "exp"]
        first_apart = [moment for moment in found.timeline if moment.first]
        parted = [event for moment in first_apart for event in (moment.torch, moment.jax) if event is not None]
        assert [event.op for event in parted] == ["sin", "cos"]
        assert [moment.matched for moment in found.timeline] == [True, False, False]


class TestRefusals:
    def test_a_numpy_side_is_refused(self) -> None:
        from attention.parity.adapters import program  # noqa: PLC0415 - only here

        with pytest.raises(OptionError, match="in numpy, and must be in torch or jax to be traced"):
            _ = locate(lambda x: x, program(lambda x: x, "numpy"), X)

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_an_error_of_a_side_is_told_as_theirs(self, wrong: int) -> None:
        sides: list[Function] = [lambda x: x, lambda x: x]
        sides[wrong] = lambda x: x @ x
        with pytest.raises(SideFailed, match=r"test_locate.py"):
            _ = locate(sides[0], sides[1], X)
