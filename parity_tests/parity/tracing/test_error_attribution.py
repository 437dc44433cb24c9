"""Error attribution: every place at which two programs part, what share of the error each explains, and what is benign.

two mistakes in each of three layers        locate(...).all = (the scale, the eps), named both
sqrt(30) in float32 beside float64          no divergence, a note
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from attention.parity.diagnosis.rules import name_mistake
from attention.parity.full_comparison import full_comparison
from attention.parity.tracing import Divergence, locate

RNG = np.random.default_rng(4)
X = RNG.normal(size=(2, 5, 6)).astype(np.float32)
KERNELS = RNG.normal(size=(3, 6, 6)).astype(np.float32) / 2


def names(found: Divergence) -> list[str]:
    return [finding.name for each in found.all for finding in name_mistake(each)]


def stack(eps: float, scale: float) -> tuple[Any, Any]:
    """Return three layers of a norm and an attention, the JAX side with this eps and this scale."""

    def first(x: Any, kernels: Any) -> Any:
        for kernel in kernels:
            h = functional.layer_norm(x, (6,), eps=1e-5)
            scores = (h @ kernel) @ h.mT / math.sqrt(6)
            x = x + scores.softmax(-1) @ h
        return x

    def norm(x: Any) -> Any:
        c = x - x.mean(-1, keepdims=True)
        return c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps)

    def second(x: Any, kernels: Any) -> Any:
        def layer(x: Any, kernel: Any) -> tuple[Any, None]:
            h = norm(x)
            scores = (h @ kernel) @ h.swapaxes(1, 2) * scale
            return x + jax.nn.softmax(scores) @ h, None

        return jax.lax.scan(layer, x, kernels)[0]

    return first, second


class TestLaws:
    def test_a_small_mistake_does_not_hide_a_large_one(self) -> None:
        found = locate(*stack(1e-6, 0.5), (X, KERNELS))
        told = names(found)
        assert told == ["scale 1 / sqrt(6) on torch, 1 / 2 on jax", "eps 1e-05 on torch, 1e-06 on jax"]
        assert found.torch is not None
        assert "scores" in found.torch.text
        large, small = (each.share for each in found.all)
        assert large > 0.99
        assert 0 < small < 0.01
        assert large + small == pytest.approx(1.0, abs=1e-3)
        assert "explains" in str(found)

    def test_the_comparison_names_both(self) -> None:
        told = str(full_comparison(*stack(1e-6, 0.5), (X, KERNELS), gradients=False))
        assert "scale 1 / sqrt(6) on torch, 1 / 2 on jax" in told
        assert "eps 1e-05 on torch, 1e-06 on jax" in told
        assert "none of the known" not in told

    def test_one_mistake_in_every_layer_is_one_divergence(self) -> None:
        found = locate(*stack(1e-5, 0.5), (X, KERNELS))
        assert len(found.all) == 1
        assert found.share == pytest.approx(1.0)
        assert found.kind == "different"
        assert found.runs

    def test_the_right_programs_do_not_part(self) -> None:
        assert not locate(*stack(1e-5, 6**-0.5), (X, KERNELS)).found


class Gemma(nn.Module):
    """An embedding times a float32 buffer, which float64 shows to be no root of 30."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.tensor(30.0**0.5))

    def forward(self, x: Any) -> Any:
        x = x * self.scale
        y = x @ x.mT
        return 5 * torch.tanh(y / 5)


class TestBenign:
    def test_a_constant_in_float32_is_a_note(self) -> None:
        def right(x: Any) -> Any:
            x = x * jnp.sqrt(jnp.asarray(30.0, x.dtype))
            return 5 * jnp.tanh(x @ x.swapaxes(1, 2) / 5)

        found = locate(Gemma(), right, X)
        assert not found.found
        assert any("within a rounding" in note for note in found.notes)

    def test_it_does_not_hide_the_mistake_behind_it(self) -> None:
        def uncapped(x: Any) -> Any:
            x = x * jnp.sqrt(jnp.asarray(30.0, x.dtype))
            y = x @ x.swapaxes(1, 2)
            return y * 1

        found = locate(Gemma(), uncapped, X)
        assert names(found) == ["a soft cap of 5 on torch, no soft cap on jax"]
        assert any("within a rounding" in note for note in found.notes)

    @pytest.mark.parametrize("approximate", [False, True])
    def test_the_machine_epsilon_is_that_of_the_programs_dtype(self, approximate: bool) -> None:
        def first(x: Any) -> Any:
            y = functional.rms_norm(x, (6,))
            return functional.gelu(y)

        def second(x: Any) -> Any:
            y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 2.0**-23)
            return jax.nn.gelu(y, approximate=approximate)

        found = locate(first, second, X * 1e-3)
        assert found.found == approximate
        if approximate:
            assert names(found) == ["another activation: gelu by erf on torch, gelu by tanh on jax"]

    def test_a_difference_that_the_dtype_shows_is_none_of_these(self) -> None:
        assert locate(lambda x: x * 1.0, lambda x: x * (1 + 2e-6), X).found


class TestValues:
    def test_another_rotary_base_is_named_from_either_table(self) -> None:
        class First(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inv = nn.Buffer(1 / 1e4 ** (torch.arange(0, 8, 2) / 8))

            def forward(self, x: Any) -> Any:
                angles = torch.outer(torch.arange(5.0), self.inv)
                return x * angles.cos()

        def second(x: Any) -> Any:
            inv = 1 / 5e5 ** (jnp.arange(0, 8, 2) / 8)
            return x * jnp.cos(jnp.outer(jnp.arange(5.0), inv))

        assert names(locate(First(), second, X[..., :4])) == ["rotary base 10000 on torch, 500000 on jax"]

    def test_a_causal_mask_that_one_side_forgets(self) -> None:
        def first(x: Any) -> Any:
            scores = (x @ x.mT).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
            return scores.softmax(-1)

        def second(x: Any) -> Any:
            scores = x @ x.swapaxes(1, 2)
            return jax.nn.softmax(scores)

        assert names(locate(first, second, X)) == ["causal mask missing on jax"]

    def test_a_mask_before_the_cap(self) -> None:
        hidden = np.triu(np.ones((5, 5), bool), 1)

        def first(x: Any) -> Any:
            s = 2 * torch.tanh(x @ x.mT / 2)
            return s.masked_fill(torch.tensor(hidden), -torch.inf).softmax(-1)

        def second(x: Any) -> Any:
            s = jnp.where(hidden, -jnp.inf, x @ x.swapaxes(1, 2))
            return jax.nn.softmax(2 * jnp.tanh(s / 2))

        assert names(locate(first, second, X)) == ["mask applied before the soft cap on jax, after it on torch"]

    def test_one_magnitude_is_no_cap(self) -> None:
        mask = np.sign(RNG.normal(size=(4, 6))).astype(np.float32)

        def first(z: Any, m: Any) -> Any:
            return torch.relu(0.2 * m - z)

        def second(z: Any, m: Any) -> Any:
            return jax.nn.relu(0.5 * m - z)

        found = locate(first, second, (X[0, :4], mask))
        assert names(found) == ["scale 0.2 on torch, 1 / 2 on jax"]
        assert not name_mistake(found)[0].sure

    @pytest.mark.parametrize(
        ("first", "second", "name"),
        [
            (
                lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
                lambda x: jax.image.resize(x, (*x.shape[:2], 10, 12), "bilinear"),
                "align_corners=True on torch, align_corners=False on jax",
            ),
            (
                lambda x: functional.avg_pool2d(x, 3, 1, 1),
                lambda x: (
                    jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")
                    / jax.lax.reduce_window(jnp.ones_like(x), 0.0, jax.lax.add, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")
                ),
                "count_include_pad=True on torch, count_include_pad=False on jax",
            ),
        ],
    )
    def test_an_option_of_a_torch_operation(self, first: Any, second: Any, name: str) -> None:
        assert names(locate(first, second, X[None])) == [name]

    def test_typed_keys_are_traced(self) -> None:
        def second(x: Any) -> Any:
            first, rest = jax.random.split(jax.random.key(0))
            noise = jax.random.normal(jax.random.fold_in(rest, 3), x.shape, x.dtype)
            return jax.nn.gelu(x + 0 * noise * jax.random.uniform(first), approximate=True)

        assert names(locate(functional.gelu, second, X)) == ["another activation: gelu by erf on torch, gelu by tanh on jax"]

    def test_whole_numbers_of_two_widths_are_traced_in_float32(self) -> None:
        def second(x: Any) -> Any:
            at = jnp.asarray(2, jnp.int32)
            cache = jax.lax.dynamic_update_slice(jnp.zeros_like(x), x[:, :1], (0, at, 0))
            return 2 * cache

        def first(x: Any) -> Any:
            cache = torch.zeros_like(x)
            cache[:, 2] = x[:, 0]
            return 3 * cache

        found = locate(first, second, X)
        assert found.jax is not None
        assert found.jax.text == "return 2 * cache"

    def test_the_line_is_the_operations_own_and_not_its_callers(self) -> None:
        def tables(base: float) -> Any:
            inv = 1 / base ** (jnp.arange(0, 4, 2) / 4)
            return jnp.cos(jnp.outer(jnp.arange(5.0), inv))

        def second(x: Any) -> Any:
            return turned(x, tables(100.0)) + turned(x, tables(100.0))

        def turned(x: Any, table: Any) -> Any:
            return x * table

        def first(x: Any) -> Any:
            inv = 1 / 10.0 ** (torch.arange(0, 4, 2) / 4)
            return 2 * x * torch.outer(torch.arange(5.0), inv).cos()

        found = locate(first, second, X[..., :2])
        assert found.jax is not None
        assert found.jax.text.startswith("inv = 1 / base")

    def test_a_helper_that_is_called_wrongly_once_is_not_shown_itself(self) -> None:
        def norm(x: Any, eps: float) -> Any:
            return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)

        def second(x: Any) -> Any:
            y = jnp.tanh(norm(x, 1e-5))
            return norm(y, 1e-2)

        def first(x: Any) -> Any:
            y = functional.rms_norm(x, (6,), eps=1e-5).tanh()
            return functional.rms_norm(y, (6,), eps=1e-5)

        found = locate(first, second, X)
        assert found.jax is not None
        assert found.jax.text == "return norm(y, 1e-2)"

    def test_another_mask_is_shown_where_it_is_made(self) -> None:
        def first(x: Any) -> Any:
            i = torch.arange(5)
            seen = i[:, None] - i < 3
            scores = x @ x.mT
            return scores.masked_fill(~seen, -torch.inf).softmax(-1)

        def second(x: Any) -> Any:
            i = jnp.arange(5)
            seen = i[:, None] - i <= 3
            scores = x @ x.swapaxes(1, 2)
            return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))

        found = locate(first, second, X)
        assert found.torch is not None
        assert found.jax is not None
        assert (found.torch.text, found.jax.text) == ("seen = i[:, None] - i < 3", "seen = i[:, None] - i <= 3")

    def test_a_pool_of_another_kind_is_named(self) -> None:
        def second(x: Any) -> Any:
            return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4

        found = locate(lambda x: functional.max_pool2d(x, 2), second, X[None])
        assert names(found) == ["max pooling on torch, average pooling on jax"]

    def test_a_cap_between_other_changes_is_named_by_its_own_side(self) -> None:
        def first(x: Any) -> Any:
            return (x @ x.mT).softmax(-1)

        def second(x: Any) -> Any:
            scores = 2 * jnp.tanh(x @ x.swapaxes(1, 2) / 2)
            return jax.nn.softmax(scores * scores)

        [found] = name_mistake(locate(first, second, X))
        assert found.name == "a soft cap of 2 on jax, none on torch"
        assert found.torch == "2 * torch.tanh(x / 2)"
        assert not found.sure
