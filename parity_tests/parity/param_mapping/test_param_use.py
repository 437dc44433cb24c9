"""How programs use their parameters: views, roles of axes, and the order in both frameworks."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention.parity.adapters import Call, program
from attention.parity.param_mapping import jax_param_use, torch_param_use
from attention.parity.param_mapping.param_use import Uses, View
from parity_tests.support.matching_pairs import PAIRS


def uses(side: Any, framework: str, *inputs: np.ndarray) -> Uses:
    found = torch_param_use if framework == "torch" else jax_param_use
    return found.uses_of(program(side, framework), Call.of(inputs))  # pyright: ignore[reportArgumentType]


X = np.ones((2, 3, 6), np.float32)


class TestLaws:
    @pytest.mark.parametrize("shape", [(2, 3, 4), (6, 1, 4), (4, 6)])
    @pytest.mark.parametrize("target", [(6, 4), (24,), (4, 3, 2), (3, 1, 8), (2, 2, 6)])
    def test_a_reshaped_view_has_the_strides_of_numpy(self, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
        array = np.zeros(shape)
        for order in permutations(range(len(shape))):
            turned = array.transpose(order)
            strides = tuple(step // array.itemsize for step in turned.strides)
            made = View("w", 0, turned.shape, strides).reshaped(target)
            wanted = turned.reshape(target)
            if made.strides is not None:
                assert np.shares_memory(wanted, array)
                steps = [step // array.itemsize for step in wanted.strides]
                assert [s for s, n in zip(made.strides, target, strict=True) if n > 1] == [
                    s for s, n in zip(steps, target, strict=True) if n > 1
                ]
            else:
                assert not np.shares_memory(wanted, array)

    @pytest.mark.parametrize("name", ["clip_text_tower", "mixture_of_top_two_experts"])
    def test_tensors_without_memory_are_used_as_others_are(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        _ = torch.manual_seed(0)
        module, _other, inputs = PAIRS[name]()
        real = uses(module, "torch", *inputs).found
        monkeypatch.setattr(torch_param_use, "MOST_ELEMENTS", 0)
        assert uses(module, "torch", *inputs).found == real


class TestValues:
    def test_both_frameworks_sum_over_the_inputs_of_a_kernel(self) -> None:
        [ours, _bias] = uses(torch.nn.Linear(6, 5), "torch", X).found
        [theirs, _bias] = uses((lambda p, x: x @ p["k"] + p["b"], {"k": jnp.ones((6, 5)), "b": jnp.ones(5)}), "jax", X).found
        assert (ours.roles["in"], ours.roles["out"]) == (((6, 1),), ((5, 6),))
        assert (theirs.roles["in"], theirs.roles["out"]) == (((6, 5),), ((5, 1),))
        assert (ours.kind, theirs.kind) == ("product", "product")

    def test_heads_are_summed_over_in_the_order_of_the_other_operand(self) -> None:
        """(H, D) of the kernel count as the one axis that torch has."""
        kernel = {"o": jnp.ones((2, 3, 5))}
        [use] = uses((lambda p, x: jnp.einsum("bthd,hdm->btm", x.reshape(2, 3, 2, 3), p["o"]), kernel), "jax", X).found
        assert use.roles["in"] == ((2, 15), (3, 5))

    def test_a_scan_uses_its_layers_one_after_another(self) -> None:
        def run(p: Any, x: Any) -> Any:
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]

        found = uses((run, {"w": jnp.ones((3, 6, 6))}), "jax", X).found
        assert [(use.view.span, set(use.after)) for use in found] == [((0, 36), set()), ((36, 72), {0}), ((72, 108), {1})]

    def test_one_plus_a_scale_is_the_scale_and_a_residual_comes_after_its_branch(self) -> None:
        def run(p: Any, x: Any) -> Any:
            x = x + jnp.tanh(x * (1 + p["s"])) @ p["w"]
            return x @ p["v"]

        found = uses((run, {"s": jnp.ones(6), "w": jnp.ones((6, 6)), "v": jnp.ones((6, 6))}), "jax", X).found
        assert [(use.view.name, use.kind, set(use.after)) for use in found] == [
            ("s", "scale", set()),
            ("w", "product", {0}),
            ("v", "product", {1}),
        ]

    def test_the_modules_own_values_and_the_random_state_stay(self) -> None:
        module = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
        before = {name: x.clone() for name, x in module.state_dict().items()}
        state = torch.get_rng_state()
        _ = uses(module, "torch", X)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
