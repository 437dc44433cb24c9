"""Open questions that hide one another: asked one by one none is settled, answered together the outputs agree."""

# torch and JAX leave many of their types unknown.
# pyright: standard

from __future__ import annotations

from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - F in everybody's models

from attention import parity
from attention.parity.param_mapping import joint_search, match, output_disambiguation
from attention.parity.param_mapping.trial_runs import Trial
from parity_tests.parity.param_mapping.test_map_kinds import drawn, told

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


class Differences(torch.nn.Module):
    """Two differences: where the two kernels of one are made equal, nothing of the other is left."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in ("p", "q", "r", "s"):
            setattr(self, name, torch.nn.Parameter(torch.randn(*((8, 6) if name in "pq" else (6, 5)))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p, q, r, s = (getattr(self, name) for name in "pqrs")
        x = F.silu(x @ p) - F.silu(x @ q)
        return F.silu(x @ r) - F.silu(x @ s)


def differences(params: Any, x: jax.Array) -> jax.Array:
    first, second = params
    x = -jax.nn.silu(x @ first[0]) + jax.nn.silu(x @ first[1])
    return -jax.nn.silu(x @ second[0]) + jax.nn.silu(x @ second[1])


TREE = drawn([(jnp.zeros((8, 6)),) * 2, (jnp.zeros((6, 5)),) * 2])


class Halves(torch.nn.Module):
    """The same with both kernels of a difference in one array."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.out = torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(6, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.down, self.out):
            # Every other output is taken away.
            a, b = torch.unbind(layer(x).unflatten(-1, (-1, 2)), -1)
            x = F.silu(b) - F.silu(a)
        return x


class TestHidden:
    @pytest.mark.parametrize(("ours", "names"), [(Differences, "pqrs"), (Halves, ("down.weight", "out.weight"))])
    def test_questions_that_hide_one_another_are_answered_together(self, ours: Any, names: Any) -> None:
        found = match(ours(), (differences, TREE), X)
        assert (found.open, found.left_over) == ((), ((), ()))
        assert {*told(found)} == {*names}
        assert parity.compare(ours(), (differences, TREE), X, load="first").verdict == "agrees"

    def test_the_map_is_the_right_one(self) -> None:
        found = match(Differences(), (differences, TREE), X)
        assert told(found) == {"p": "[0][1]", "q": "[0][0]", "r": "[1][1]", "s": "[1][0]"}
        assert {move.evidence for move in found.moves} == {"outputs agree"}

    @pytest.mark.parametrize("ours", [Differences, Halves])
    @pytest.mark.parametrize(
        "wrong", [lambda p, x: differences(p, 1.1 * x), lambda p, x: jnp.sin(differences(p, x))], ids=["scaled", "sine"]
    )
    def test_a_wrong_port_stays_open(self, ours: Any, wrong: Any) -> None:
        assert match(ours(), (wrong, TREE), X).open
        assert parity.compare(ours(), (wrong, TREE), X, load="first").verdict == "cannot tell"

    def test_no_more_is_run_than_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        runs: list[int] = []
        whole = Trial.distance

        def counted(self: Trial, *given: Any) -> float:
            runs.append(1)
            return whole(self, *given)

        monkeypatch.setattr(Trial, "distance", counted)
        _ = match(Halves(), (lambda p, x: jnp.sin(differences(p, x)), TREE), X)
        assert len(runs) <= output_disambiguation.MOST_RUNS + 2 * joint_search.MOST_RUNS

    def test_a_large_program_is_run_less_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joint_search, "MOST_WORK", 156)
        assert match(Halves(), (differences, TREE), X).open


class Gates(torch.nn.Module):
    """A cell with four gates, in an order of its own, in one array for the input and one for the state."""

    def __init__(self, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.W, self.R = torch.nn.Linear(8, 24), torch.nn.Linear(6, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(1, 6)
        for each in x.split(1):
            i, f, g, o = (dict(zip(self.order, (self.W(each) + self.R(h)).chunk(4, -1), strict=True))[n] for n in "ifgo")
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


def gated(p: Any, x: jax.Array) -> jax.Array:
    h = c = jnp.zeros((1, 6))
    for each in jnp.split(x, len(x)):
        i, f, g, o = (each @ p[n]["kernel"] + p[n]["bias"] + h @ p[n]["state"] for n in ("write", "keep", "new", "show"))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h


GATE = {"kernel": jnp.zeros((8, 6)), "state": jnp.zeros((6, 6)), "bias": jnp.zeros(6)}
GATES = drawn(dict.fromkeys(("write", "keep", "new", "show"), GATE))


class TestTogether:
    @pytest.mark.parametrize("order", ["".join(each) for each in permutations("ifgo")][3::5])
    @pytest.mark.parametrize("alone", [True, False])
    def test_gates_stand_in_one_order_in_all_their_arrays(
        self, order: str, alone: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not alone:
            monkeypatch.setattr(output_disambiguation, "MOST_ROUNDS", 0)
        found = match(Gates(order), (gated, GATES), X)
        assert found.open == ()
        places = {move.second.name: move.first.spans[0][0] // 6 for move in found.moves}
        gates = dict(zip("ifgo", ("write", "keep", "new", "show"), strict=True))
        assert all(places[f"{gates[n]}.{leaf}"] == at for at, n in enumerate(order) for leaf in GATE)

    def test_wrong_gates_stay_open(self) -> None:
        def wrong(p: Any, x: jax.Array) -> jax.Array:
            return gated({**p, "show": {**p["show"], "bias": p["show"]["bias"] + 1.0}}, x)

        assert match(Gates("ifgo"), (wrong, GATES), X).open


def test_one_bias_of_two_kernels_by_name_belongs_to_neither() -> None:
    """`beta` within a name means a bias, so that `gamma.kernel` and `beta.kernel` would share `gamma.bias`."""

    class Ours(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.W = torch.nn.Linear(8, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.W(x).chunk(2, -1)
            return torch.tanh(a) * b

    def theirs(p: Any, x: jax.Array) -> jax.Array:
        a, b = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("gamma", "beta"))
        return jnp.tanh(a) * b

    tree = drawn({name: {"kernel": jnp.zeros((8, 6)), "bias": jnp.zeros(6)} for name in ("gamma", "beta")})
    assert parity.compare(Ours(), (theirs, tree), X, load="first").verdict != "differs"
