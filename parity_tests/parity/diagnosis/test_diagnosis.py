"""The diagnosis names each mutation, two at once, and none that is in no catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from attention import spec
from attention.parity.contracts.backends import NumpyBackend
from attention.parity.contracts.probes import Probe
from attention.parity.diagnosis import KINDS, diagnose, diagnose_program, hypotheses
from attention.parity.diagnosis.diagnose import observe
from attention.parity.diagnosis.evidence import Observation, explains
from attention.parity.diagnosis.library_program import LibraryLayer, Outputs, ProbedProgram
from attention.parity.diagnosis.probe_inputs import diagnostic_probes
from attention.parity.diagnosis.search import Search
from attention.parity.diagnosis.user_program import probed_program
from attention.parity.mutations.cases import CASE_MUTATIONS
from attention.parity.mutations.formula_hooks import HookedProbe, formula_outputs
from attention.parity.mutations.locations import locations
from attention.parity.mutations.mutation import Mutation
from attention.spec import cases
from attention.spec.errors import OptionError, SideFailed
from attention.spec.layers.contract import Contract
from tools.evaluation.diagnosis_accuracy import MutatedProgram, pair, random_pairs, single, unlisted
from tools.evaluation.unlisted_mutations import unlisted_mutations

SMALL = spec.MultiHeadAttention(embed_dim=6, num_heads=2, head_dim=5)
WHOLE = ("scale forgotten", "qk-norm with another eps", "norms of a block exchanged", "rotary positions in bfloat16")
"""Mutations that go through the whole diagnosis, budgets and held-out probes included; the others through the search alone."""


def of(name: str) -> Mutation:
    return next(mutation for mutation in CASE_MUTATIONS if mutation.name == name)


def torch_port(
    weights: Mapping[str, torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """`SMALL` as a stranger writes it in torch."""
    q, k, v = (
        torch.einsum("btm,mhd->bhtd", x, weights[f"{n}_proj.kernel"]) + weights[f"{n}_proj.bias"][:, None]
        for n, x in zip("qkv", (query, key, value), strict=True)
    )
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    rows = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    probabilities = torch.softmax(rows, -1).nan_to_num()
    # An empty row is 0, as the house has it.
    context = torch.einsum("bhts,bhsd->bthd", probabilities, v)
    return torch.einsum("bthd,hdm->btm", context, weights["out_proj.kernel"]) + weights["out_proj.bias"]


def jax_port(weights: Mapping[str, jax.Array], query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`SMALL` in JAX, its heads split (d h) for (h d), of a stranger who has no use for masks."""

    def heads(name: str, x: jax.Array) -> jax.Array:
        kernel = weights[f"{name}_proj.kernel"]
        m, h, d = kernel.shape
        columns = x @ kernel.reshape(m, h * d)
        return columns.reshape(*x.shape[:-1], d, h).swapaxes(-1, -2) + weights[f"{name}_proj.bias"]

    q, k, v = (heads(n, x) for n, x in zip("qkv", (query, key, value), strict=True))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    context = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v)
    return jnp.einsum("bthd,hdm->btm", context, weights["out_proj.kernel"]) + weights["out_proj.bias"]


@dataclass
class Fickle(ProbedProgram):
    """Draws a random number each time."""

    name: str = "fickle"
    framework: str = "torch"

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def outputs(self, probe: Probe) -> Outputs:
        return {name: x * self.rng.normal() for name, x in formula_outputs(probe).items()}


@dataclass
class Broken(ProbedProgram):
    """Raises where T != S, or always."""

    always: bool
    name: str = "broken"
    framework: str = "jax"

    def outputs(self, probe: Probe) -> Outputs:
        if self.always or len({x.shape[-2] for x in probe.arrays.values()}) > 1:
            raise SideFailed("broken: model.py:7: IndexError")
        return {name: x.astype(np.float32) for name, x in formula_outputs(probe).items()}


class TestLaws:
    @pytest.mark.parametrize("mutation", CASE_MUTATIONS, ids=lambda mutation: mutation.name)
    def test_every_mutation_is_told_from_every_other_hypothesis(self, mutation: Mutation) -> None:
        # The right program's own budgets do for the search: they are shared by all mutations of a contract.
        contract = cases.find(mutation.case).contract
        observations = observe(MutatedProgram(mutation.name, mutation.operator), _few(contract, mutation)).observations
        search = Search(observations, patience=1.0)
        mutations, scalars = hypotheses(contract)
        own = [x for x in mutations if x.kind == mutation.kind]
        explanations = search.singles(mutations) or search.fits([x for x in scalars if x.kind == mutation.kind])
        assert explanations, f"{mutation.name} is not among {[x.name for x in own]}"
        assert mutation.kind in explanations[0].kinds
        assert all(_same(observation, explanations[0].mutation.operator, mutation.operator) for observation in observations)

    @pytest.mark.parametrize("name", WHOLE)
    def test_a_mutation_in_torch_is_named_alone(self, name: str) -> None:
        assert single(of(name), "torch").good

    @pytest.mark.parametrize("seed", range(6))
    def test_two_mistakes_are_among_the_first_three(self, seed: int) -> None:
        (drawn,) = random_pairs(1, seed, names=("self", "additive"))
        trial = pair(*drawn)
        assert trial.good, str(trial)

    @pytest.mark.parametrize("mutation", unlisted_mutations(cases.find("self").contract)[:3], ids=lambda x: x.name)
    def test_an_unknown_mistake_is_given_no_name(self, mutation: Any) -> None:
        trial = unlisted("self", mutation)
        assert trial.good, str(trial)
        assert "none of the known mistakes fits" in str(trial.diagnosis)

    @pytest.mark.parametrize("case", ["self", "causal", "cross"])
    def test_an_honest_program_agrees(self, case: str) -> None:
        assert diagnose_program(LibraryLayer("torch"), cases.find(case).contract).agrees

    @pytest.mark.parametrize("case", ["self", "rotary", "decoder", "differential"])
    def test_the_oracle_of_no_mistake_is_the_formula(self, case: str) -> None:
        for probe in diagnostic_probes(cases.find(case).contract):
            made = formula_outputs(HookedProbe(**{name: getattr(probe, name) for name in probe.__dataclass_fields__}))
            wanted = NumpyBackend().run(probe, "auto").results
            assert all(np.array_equal(made[name], wanted[name], equal_nan=True) for name in made)


def _few(contract: Contract, mutation: Mutation) -> list[Probe]:
    """Return the question that shows the mistake most, and the plain one: the budget of each is a trace."""
    observations = diagnostic_probes(contract)
    shown = [_shown(probe, mutation) for probe in observations]
    return [observations[0], *([observations[int(np.argmax(shown))]] if np.argmax(shown) else [])]


def _shown(probe: Probe, mutation: Mutation) -> float:
    right, wrong = formula_outputs(probe), formula_outputs(mutation.operator(probe))
    return max(float(np.nanmax(np.abs(right[name] - wrong[name]))) for name in right)


def _same(observation: Observation, first: Any, second: Any) -> bool:
    return observation.apart(observation.made(first), observation.made(second)) <= 1.0


class TestValues:
    def test_a_port_of_ones_own_is_named_by_side(self) -> None:
        def unscaled(weights: Any, query: Any, key: Any, value: Any, mask: Any = None, bias: Any = None) -> Any:
            return torch_port(weights, query, key, value, mask, bias, scale=1.0)

        found = diagnose(unscaled, jax_port, SMALL)
        assert found.torch.names[0] == "scale forgotten"
        assert found.torch.unique
        assert not found.torch.skipped
        assert "heads split (d h) for (h d)" in found.jax.names
        assert found.jax.skipped["padding"] == "the program takes no mask"
        text = str(found)
        assert "F.scaled_dot_product_attention(q, k, v, scale=D**-0.5)" in text
        assert "on the probes that the program supports" in text
        told = found.to_dict()
        assert told["sides"][0]["explanations"][0]["fix"]["scale"]["torch"] == KINDS["scale"].fix_torch
        before, after = told["sides"][0]["explanations"][0]["z before and after"]["plain"]
        assert before > 1000
        assert after < 4

    def test_a_right_port_agrees(self) -> None:
        assert diagnose_program(probed_program(torch_port, "torch", SMALL), SMALL).agrees

    def test_a_fitted_number_is_told(self) -> None:
        found = single(of("scale wrong by 0.003 %"), "numpy").diagnosis
        assert "1.00003 times" in found.names[0]

    def test_two_runs_that_differ_are_said_to(self) -> None:
        found = diagnose_program(Fickle(), SMALL)
        assert found.state == "unsteady"
        assert "dropout" in str(found)

    def test_what_raised_is_listed_and_has_not_agreed(self) -> None:
        found = diagnose_program(Broken(always=False), SMALL)
        assert found.state == "failed"
        assert "failed on a probe, and agrees with the contract on" in str(found)
        assert set(found.skipped) == {"few queries", "few keys"}
        assert "IndexError" in str(found)

    def test_a_program_that_always_raises_is_not_judged(self) -> None:
        found = diagnose_program(Broken(always=True), SMALL)
        assert found.state == "failed"
        assert not found.explanations

    def test_nan_is_said(self) -> None:
        def nan_heads(weights: Any, query: Any, key: Any, value: Any) -> Any:
            return functional.dropout(torch_port(weights, query, key, value), 0.0) * torch.nan

        found = diagnose_program(probed_program(nan_heads, "torch", SMALL), SMALL, pairs=False)
        assert found.state == "unknown"
        assert "NaN" in str(found)

    def test_locations_are_the_parts_of_a_stack(self) -> None:
        found = {location.path: location for location in locations(cases.find("encoder").contract)}
        attention = found["block.attention"]
        assert attention.names("q_proj.bias") == ["layers.0.self_attn.q_proj.bias", "layers.1.self_attn.q_proj.bias"]
        assert attention.calls == (0, 1)
        decoder = {location.path: location for location in locations(cases.find("decoder").contract)}
        assert decoder["cross_attention"].calls == (1,)

    def test_every_mutation_has_a_kind(self) -> None:
        assert {mutation.kind for mutation in CASE_MUTATIONS} <= set(KINDS)

    def test_a_false_hypothesis_explains_nothing(self) -> None:
        observations = observe(
            MutatedProgram("bias", of("bias of one projection dropped").operator), diagnostic_probes(SMALL)[:1]
        ).observations
        mutations, _ = hypotheses(SMALL)
        named = {mutation.name: mutation for mutation in mutations}
        assert explains(named["v_proj.bias dropped"], observations, strict=True)
        assert explains(named["k_proj.bias dropped"], observations, strict=True) is None
        assert explains(named["scale forgotten"], observations, strict=True) is None


class TestRefusals:
    def test_a_contract_must_be_one(self) -> None:
        with pytest.raises(OptionError, match="contract 3 must be a layer's"):
            _ = diagnose("torch", "jax", 3)  # type: ignore[arg-type]

    def test_parameters_of_ones_own_must_be_said_to_be_which(self) -> None:
        with pytest.raises(OptionError, match="params None must say which canonical weights"):
            _ = probed_program(torch.nn.Linear(6, 6), "torch", SMALL)

    def test_parameters_of_the_wrong_shape_are_named(self) -> None:
        bad = replace(SMALL, out_bias=False)
        with pytest.raises(ValueError, match=r"params give .*out_proj\.kernel"):
            _ = probed_program(torch.nn.Linear(6, 6), "torch", bad, lambda own: {"out_proj.kernel": own["weight"]})
