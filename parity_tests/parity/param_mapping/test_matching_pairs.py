"""Parameter maps of right pairs of many kinds: models of both frameworks under the names that their authors gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attention.parity.adapters import Arrays, Call, Program, program
from attention.parity.param_mapping import ParamMap, match
from attention.parity.param_mapping.trial_runs import difference
from parity_tests.support.matching_pairs import PAIRS

KINDS = {"frozen_and_integer_parameters": ("order",)}
"""What the torch module alone holds."""


def sides(name: str) -> tuple[Program, Any, Call]:
    _ = torch.manual_seed(0)
    module, other, inputs = PAIRS[name]()
    return program(module, "torch"), other, Call.of(inputs)


def distinct(params: Arrays) -> Arrays:
    """Values that hide no exchange: norms of ones and biases of zeros are moved apart."""
    rng = np.random.default_rng(1)
    return {
        name: np.asarray(x + 0.3 * rng.standard_normal(x.shape), x.dtype) if x.dtype.kind == "f" else x
        for name, x in params.items()
    }


def carries(found: ParamMap, first: Program, second: Program, call: Call) -> float:
    """How far the second's outputs are from the first's, with the first's values."""
    values = distinct(first.params)
    wanted = first.run(call, params=values).outputs
    return difference(wanted, second.run(call, params={**second.params, **found.forward(values)}).outputs)


class TestValues:
    @pytest.mark.parametrize("name", PAIRS)
    def test_a_right_pair_is_mapped_rightly(self, name: str) -> None:
        first, other, call = sides(name)
        second = program(other, "jax")
        found = match(first, second, call)
        assert carries(found, first, second, call) < 1e-5
        assert (found.open, found.ties) == ((), ())
        assert found.left_over == (KINDS.get(name, ()), ())

    @pytest.mark.parametrize(
        "name",
        [
            "bert_of_two_layers_and_two_token_types",
            "clip_text_tower",
            "norms_of_ones_under_misleading_names",
            "mixture_of_top_two_experts",
            "unet_of_square_channels",
        ],
    )
    def test_a_mistake_of_one_program_does_not_open_the_map(self, name: str) -> None:
        first, (function, params), call = sides(name)
        right = program((function, params), "jax")
        wrong = program((lambda p, *x: 1.3 * function(p, *x) ** 2 - 0.1, params), "jax")
        found = match(first, wrong, call)
        assert found.open == ()
        assert carries(found, first, right, call) < 1e-5


class TestLaws:
    def test_programs_whose_parameters_are_used_alike_need_no_words(self) -> None:
        """The names are those of a list and of a dict in another order; the order of use tells."""
        first, other, call = sides("lists_whose_names_say_nothing")
        told = {m.first.name: m.second.name for m in match(first, program(other, "jax"), call).moves}
        assert told == {"p.0": "zeta", "p.1": "alpha", "p.2": "mid", "p.3": "end"}

    def test_a_port_that_exchanges_what_its_names_tell_apart_is_not_mended_by_the_map(self) -> None:
        """The names say norm1 and norm2; a program that uses one for the other is wrong."""
        import jax.numpy as jnp  # noqa: PLC0415 - one test alone computes in JAX

        class Two(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm1, self.norm2 = torch.nn.LayerNorm(5), torch.nn.LayerNorm(5)
                self.fc = torch.nn.Linear(5, 5)

            def forward(self, x: Any) -> Any:
                return self.norm2(torch.tanh(self.fc(self.norm1(x))))

        def exchanged(p: Any, x: Any) -> Any:
            def norm(q: Any, x: Any) -> Any:
                return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * q["scale"] + q["bias"]

            return norm(p["norm1"], jnp.tanh(norm(p["norm2"], x) @ p["fc"]["kernel"] + p["fc"]["bias"]))

        ones = {"scale": np.ones(5, np.float32), "bias": np.zeros(5, np.float32)}
        fc = {"kernel": np.eye(5, dtype=np.float32) + 0.1, "bias": np.zeros(5, np.float32)}
        side = program((exchanged, {"norm1": ones, "norm2": ones, "fc": fc}), "jax")
        found = match(
            program(Two(), "torch"), side, Call.of(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32))
        )
        told = {move.first.name: move.second.name for move in found.moves}
        assert (told["norm1.weight"], told["norm2.bias"]) == ("norm1.scale", "norm2.bias")
