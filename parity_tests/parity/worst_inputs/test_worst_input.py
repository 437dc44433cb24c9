"""The worst input: ports that agree on an ordinary one and part on a rare one; right ones agree on the worst too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import parity
from attention.parity.adapters.program import Call
from attention.parity.worst_inputs.variations import variations
from attention.spec.errors import OptionError, ParamError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 4)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
IDS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 5]])
TABLE = RNG.normal(size=(16, 4)).astype(np.float32)


def torch_attention(x: Any, mask: Any) -> Any:
    scores = (x @ x.mT).masked_fill(~mask[:, None], -1e9)
    return torch.softmax(scores, -1) @ x


def jax_attention(x: Any, mask: Any) -> Any:
    scores = jnp.where(mask[:, None], x @ x.mT, -1e9)
    return jax.nn.softmax(scores, axis=-1) @ x


def jax_infinite(x: Any, mask: Any) -> Any:
    """A port that masks with -inf: NaN where everything is masked."""
    return jax.nn.softmax(jnp.where(mask[:, None], x @ x.mT, -jnp.inf), axis=-1) @ x


def torch_embedding(ids: Any) -> Any:
    return torch.from_numpy(TABLE)[ids]


class TestLaws:
    def test_a_right_port_agrees_on_the_worst_input(self) -> None:
        found = parity.worst_input(torch_attention, jax_attention, (X, MASK))
        assert found.ok, str(found)
        assert len(found.tried) > 12

    def test_masks_that_hide_everything_are_found(self) -> None:
        assert parity.compare(torch_attention, jax_infinite, (X, MASK), gradients=False).ok
        found = parity.worst_input(torch_attention, jax_infinite, (X, MASK))
        assert not found.ok
        assert found.name in ("input[1]: all False", "input[1]: first row all False")
        assert found.difference == np.inf
        assert "NaN" in str(found.report)

    def test_a_special_token_and_the_last_position_are_found(self) -> None:
        special = parity.worst_input(
            torch_embedding, lambda ids: jnp.where(ids[..., None] == 0, 0.0, jnp.asarray(TABLE)[ids]), IDS, limits={"input": 16}
        )
        assert not special.ok
        assert special.name == "input: smallest value alone"
        # One row short: an index beyond the end takes the last row, as JAX does in silence.
        short = parity.worst_input(torch_embedding, lambda ids: jnp.asarray(TABLE[:15])[ids], IDS, limits={"input": 16})
        assert not short.ok
        assert short.name == "input: largest value alone"

    def test_a_side_that_alone_refuses_length_1_is_found(self) -> None:
        def port(x: Any, mask: Any) -> Any:
            assert x.shape[1] > 1
            return jax_attention(x, mask)

        found = parity.worst_input(torch_attention, port, (X, MASK))
        assert (found.ok, found.name, found.difference) == (False, "length 1", np.inf)

    def test_the_search_is_seeded_and_bounded(self) -> None:
        first, again = (parity.worst_input(torch_attention, jax_attention, (X, MASK), tries=9, seed=3) for _ in range(2))
        assert first.tried == again.tried
        assert len(first.tried) == 9


class TestValues:
    def test_lengths_are_cut_along_the_axes_of_the_sequence(self) -> None:
        square = np.ones((2, 1, 5, 5), bool)
        call = Call((X, square), {"ids": IDS})
        made = dict(variations(call, np.random.default_rng(0), {}))["length 1"]
        assert [x.shape for x in made.leaves.values()] == [(2, 1, 4), (2, 1, 1, 1), (2, 1)]
        same = Call((RNG.normal(size=(2, 5, 5)),), {})
        assert dict(variations(same, np.random.default_rng(0), {}))["length 1"].args[0].shape == (2, 1, 5)

    def test_integers_stay_in_their_limits_and_positions_are_moved(self) -> None:
        call = Call((), {"ids": IDS, "positions": np.arange(5)[None]})
        made = dict(variations(call, np.random.default_rng(0), {"ids": 9, "positions": 100}))
        assert all(0 <= other.kwargs["ids"].min() <= other.kwargs["ids"].max() < 9 for other in made.values())
        assert made["positions: shifted to the largest"].kwargs["positions"].tolist() == [[95, 96, 97, 98, 99]]
        inside = dict(variations(call, np.random.default_rng(0), {}))
        assert {int(other.kwargs["ids"].max()) for other in inside.values()} <= set(range(1, 7))


class TestRefusals:
    @pytest.mark.parametrize(("option", "value"), [("tries", 0), ("seed", -1), ("limits", {"input": 0}), ("load", "third")])
    def test_an_option_out_of_its_range_is_refused(self, option: str, value: Any) -> None:
        options: dict[str, Any] = {option: value}
        with pytest.raises(OptionError, match=option):
            _ = parity.worst_input(torch_embedding, jax_attention, IDS, **options)

    def test_unequal_parameters_are_refused(self) -> None:
        first, second = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        with pytest.raises(ParamError, match="pass load="):
            _ = parity.worst_input(first, second, X)
        assert parity.worst_input(first, second, X, load="first", tries=6).ok
