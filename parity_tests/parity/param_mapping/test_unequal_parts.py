"""Maps of arrays that join unequal parts: a projection and a gate, heads of a convolution, two tables."""

# torch and JAX leave many of their types unknown.
# pyright: standard

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import parity
from attention.parity.param_mapping import match
from attention.parity.param_mapping.fused_layouts import fusions
from parity_tests.parity.param_mapping.test_map_kinds import drawn, told

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
Arrays = list[jax.Array]


class Heads(torch.nn.Module):
    """Heads of other widths on one array, defined in the order of `sizes`; they are used in the order of their names."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name, size in sizes.items():
            setattr(self, name, torch.nn.Linear(8, size))
        self.names = sorted(sizes)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [(at + 1) * torch.tanh(getattr(self, name)(x)) for at, name in enumerate(self.names)]


def joined(params: Any, x: jax.Array, cuts: dict[str, int]) -> Arrays:
    """The same with the heads one after another, in the order of `cuts`."""
    made = jnp.split(x @ params["out"]["kernel"] + params["out"]["bias"], np.cumsum([*cuts.values()])[:-1], axis=-1)
    parts = dict(zip(cuts, made, strict=True))
    return [(at + 1) * jnp.tanh(parts[name]) for at, name in enumerate(sorted(cuts))]


def whole(width: int) -> Any:
    return drawn({"out": {"kernel": jnp.zeros((8, width)), "bias": jnp.zeros(width)}})


MEL = {"mel": 4, "stop": 1}
THREE = {"stop": 1, "mel": 4, "pitch": 2}


class TestHeads:
    @pytest.mark.parametrize("sizes", [MEL, {"stop": 1, "mel": 4}, THREE])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_gate_of_one_output_is_a_part(self, sizes: dict[str, int], turned: bool) -> None:
        cuts = dict(reversed(sizes.items())) if turned else sizes
        side = (lambda p, x: joined(p, x, cuts)), whole(sum(sizes.values()))
        found = match(Heads(sizes), side, X)
        assert (found.open, found.left_over) == ((), ((), ()))
        start = 0
        for name, size in cuts.items():
            assert told(found)[f"{name}.weight"] == f"out.kernel columns {start}:{start + size}"
            assert told(found)[f"{name}.bias"] == f"out.bias rows {start}:{start + size}"
            start += size
        assert parity.compare(Heads(sizes), side, X, load="first").verdict == "agrees"

    def test_the_first_may_hold_the_whole(self) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.out = torch.nn.Linear(8, 5)

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                mel, stop = torch.tanh(self.out(x)).split([4, 1], dim=-1)
                return [mel, 2 * stop]

        def theirs(p: Any, x: jax.Array) -> Arrays:
            mel, stop = (jnp.tanh(x @ p[name]["kernel"] + p[name]["bias"]) for name in ("mel", "gate"))
            return [mel, 2 * stop]

        sizes = {"mel": 4, "gate": 1}
        tree = {name: {"kernel": jnp.zeros((8, size)), "bias": jnp.zeros(size)} for name, size in sizes.items()}
        found = match(Ours(), (theirs, drawn(tree)), X)
        assert (found.open, found.left_over) == ((), ((), ()))
        assert parity.compare(Ours(), (theirs, drawn(tree)), X, load="second").verdict == "agrees"

    def test_a_part_of_one_output_may_be_a_vector_with_a_number_for_a_bias(self) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.out = torch.nn.Linear(8, 4)

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                made = self.out(torch.tanh(x))
                return [made[:, :3], made[:, 3]]

        def theirs(p: Any, x: jax.Array) -> Arrays:
            return [jnp.tanh(x) @ p[name]["w"] + p[name]["b"] for name in ("policy", "value")]

        tree = {"policy": {"w": jnp.zeros((8, 3)), "b": jnp.zeros(3)}, "value": {"w": jnp.zeros(8), "b": jnp.zeros(())}}
        found = match(Ours(), (theirs, drawn(tree)), X)
        assert (found.open, found.left_over) == ((), ((), ()))
        assert parity.compare(Ours(), (theirs, drawn(tree)), X, load="first").verdict == "agrees"

    def test_a_wrong_port_stays_open(self) -> None:
        def wrong(p: Any, x: jax.Array) -> Arrays:
            return [jnp.sin(each) for each in joined(p, x, MEL)]

        report = parity.compare(Heads(MEL), (wrong, whole(5)), X, load="first")
        assert report.verdict == "cannot tell"
        assert match(Heads(MEL), (wrong, whole(5)), X).open


class TestOtherKinds:
    def test_heads_of_a_convolution(self) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.box, self.score = torch.nn.Conv1d(3, 4, 3), torch.nn.Conv1d(3, 1, 3)

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                return [self.box(x), torch.sigmoid(self.score(x))]

        def theirs(p: Any, x: jax.Array) -> Arrays:
            made = jax.lax.conv_general_dilated(x, p["kernel"], (1,), "VALID", dimension_numbers=("NCW", "WIO", "NCW"))
            made = made + p["bias"][:, None]
            return [made[:, 1:], jax.nn.sigmoid(made[:, :1])]

        x = np.random.default_rng(1).standard_normal((2, 3, 9)).astype(np.float32)
        side = theirs, drawn({"kernel": jnp.zeros((3, 3, 5)), "bias": jnp.zeros(5)})
        found = match(Ours(), side, x)
        assert (found.open, found.left_over) == ((), ((), ()))
        assert parity.compare(Ours(), side, x, load="first").verdict == "agrees"

    def test_tables_that_are_looked_up_by_other_numbers(self) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.user, self.item = torch.nn.Embedding(5, 4), torch.nn.Embedding(7, 4)

            def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
                return (self.user(user) * torch.tanh(self.item(item))).sum(-1)

        def theirs(p: Any, user: jax.Array, item: jax.Array) -> jax.Array:
            return jnp.sum(p["factors"][user] * jnp.tanh(p["factors"][5 + item]), axis=-1)

        ids = {"user": np.array([0, 1, 4, 2]), "item": np.array([6, 3, 0, 1])}
        side = theirs, drawn({"factors": jnp.zeros((12, 4))})
        found = match(Ours(), side, ids)
        assert (found.open, found.left_over) == ((), ((), ()))
        assert told(found)["item.weight"] == "factors rows 5:12"


def test_a_square_part_beside_a_thin_one_is_joined_where_both_have_their_outputs() -> None:
    ways = [*fusions("w", (4, 5), {"square": (4, 4), "thin": (1, 4)}, lambda found, _start, _end: found)]
    square, thin = np.arange(16.0).reshape(4, 4), np.arange(4.0).reshape(1, 4)
    made = set()
    for square_move, thin_move in ways:
        array = np.zeros((4, 5))
        square_move.second.of(array)[...] = square_move.forward(square)
        thin_move.second.of(array)[...] = thin_move.forward(thin)
        made.add(array.tobytes())
    wanted = [np.concatenate(each, axis=1) for each in ((square.T, thin.T), (thin.T, square.T))]
    assert made == {each.tobytes() for each in wanted}
