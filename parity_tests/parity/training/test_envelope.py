"""The envelope: two correct runs stay inside it, and every wrong optimiser leaves it within 50 steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from attention.parity.training import Training, envelope, optimizer_rounding, recipe_for, train
from attention.parity.training.optimizer_names import OPTIMIZERS
from attention.spec.cases import CASES
from attention.spec.errors import ParityError
from attention.spec.optimizers.optimizer import Step
from attention.spec.optimizers.schedules import Clip
from attention.spec.optimizers.steps import Adam

UNIT = 2.0**-24
LAYER = CASES["additive"].contract
ADAMW, COSINE = OPTIMIZERS["adamw"], OPTIMIZERS["adamw_cosine"]


def trained(contract: Any, optimizer: Step, torch_side: Any = None, steps: int = 50, **options: Any) -> Training:
    """Return a run whose torch side has an optimiser of its own."""
    own = {} if torch_side is None else {"optimizers": {"torch": torch_side}}
    return train(recipe_for(contract, optimizer=optimizer, steps=steps, **own, **options))


def runs(**changed: Any) -> envelope.Runs:
    """Return runs of one parameter of one element, compared after each of three steps."""
    flat = {"p": np.ones(3)}
    given: dict[str, Any] = {
        "counts": {"p": 1}, "watched": np.arange(3), "apart": flat, "spread": {"p": np.array([1.0, 3.0, 2.0])},
        "size": {"p": np.array([4.0, 2.0, 2.0])}, "gone": {"p": np.array([8.0, 8.0, 8.0])}, "first": {"p": 1.0},
        "share": np.zeros(3), "leak": np.zeros(3), "unit": 0.25,
    }  # fmt: skip
    return envelope.Runs(**{**given, **changed})


class TestLaws:
    @pytest.mark.parametrize("name", ["adamw", "momentum", "adafactor", "lion"])
    def test_two_correct_runs_stay_inside(self, name: str) -> None:
        trained(LAYER, OPTIMIZERS[name], steps=30).assert_ok()

    def test_a_parameter_that_moves_by_noise_alone_stays_inside(self) -> None:
        # A key's bias adds the same to all scores of a query, which softmax forgets: its gradient is rounding, and Adam
        # makes steps of full length of it.
        found = trained(CASES["self"].contract, COSINE, steps=20)
        found.assert_ok()
        assert found.apart["k_proj.bias"].max() > 100 * found.apart["k_proj.kernel"].max()

    def test_without_the_rounding_of_its_numbers_a_correct_adam_is_an_alarm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(envelope, "OWN", 0.0)
        assert not trained(LAYER, ADAMW).ok

    @pytest.mark.parametrize(
        ("optimizer", "wrong", "steps"),
        [
            pytest.param(ADAMW, replace(ADAMW, eps=1e-7), 2, id="eps 1e-7"),
            pytest.param(ADAMW, replace(ADAMW, eps=1e-6), 2, id="eps 1e-6"),
            pytest.param(ADAMW, replace(ADAMW, eps=0.0, eps_root=1e-8), 2, id="eps inside the root"),
            pytest.param(ADAMW, replace(ADAMW, bias_correction=False), 2, id="no bias correction"),
            pytest.param(ADAMW, replace(ADAMW, weight_decay=0.0101), 40, id="decay 0.0101"),
            pytest.param(ADAMW, replace(ADAMW, decoupled=False), 2, id="coupled decay"),
            pytest.param(COSINE, replace(COSINE, first_count=1), 2, id="warm-up one step early"),
            pytest.param(replace(COSINE, clip=Clip(0.01)), replace(COSINE, clip=None), 5, id="no clip"),
        ],
    )
    def test_a_wrong_step_leaves_it(self, optimizer: Step, wrong: Step, steps: int) -> None:
        assert trained(LAYER, optimizer, wrong, steps=steps).outside

    def test_one_mask_of_another_seed_leaves_it(self) -> None:
        recipe = recipe_for(CASES["dropout"].contract, steps=3)
        right = recipe.losses["torch"]

        def wrong(model: Any, batch: Any, seed: int) -> Any:
            # From the second step on the masks are right again, but the weights are no longer.
            return right(model, batch, seed + 1 if seed == recipe.dropout_seed(1) else seed)

        found = train(replace(recipe, losses={"torch": wrong, "jax": recipe.losses["jax"]}))
        assert (found.outside[0].step, found.outside[0].what) == (2, "loss")

    def test_the_optimisers_that_a_user_brings_are_named(self) -> None:
        brought = {
            "torch": lambda params: torch.optim.AdamW(params, lr=1e-3, eps=1e-6),
            "jax": optax.adamw(1e-3, weight_decay=1e-2),
        }
        found = train(recipe_for(LAYER, optimizers=brought, steps=2))
        assert found.diagnosis.first.names == ("eps 1e-06",)
        assert found.diagnosis.second.right
        assert "eps 1e-06" in str(found)

    @pytest.mark.parametrize("broken", ["spread", "size"])
    def test_a_run_that_is_no_number_holds_nothing(self, broken: str) -> None:
        # An envelope of infinite width would let anything pass.
        seen = runs(**{broken: {"p": np.array([1.0, np.inf, np.nan])}}, apart={"p": np.array([0.0, 0.0, 1e3])})
        losses: dict[str, np.ndarray] = {name: np.ones(3) for name in ("torch", "jax", "replica 0")}
        found = Training(recipe=recipe_for(LAYER, steps=3), models={}, losses=losses, runs=seen)
        assert not found.ok
        assert found.failure == "p is no number in a run after step 2"

    def test_a_replica_whose_loss_is_no_number_is_told(self) -> None:
        losses = {"torch": np.ones(3), "jax": np.ones(3), "replica 0": np.array([1.0, np.nan, 1.0])}
        found = Training(recipe=recipe_for(LAYER, steps=3), models={}, losses=losses, runs=runs())
        assert found.failure == "replica 0's loss is nan at step 2"


class TestValues:
    def test_the_envelope_is_as_the_law_says(self) -> None:
        np.testing.assert_allclose(runs().envelope()["p"], [4 * 1 + 2, 4 * 3 + 2, 4 * 3 + 2])
        own = runs(share=np.full(3, 0.5), leak=np.full(3, 0.25)).envelope()["p"]
        # 0.5 * 8 + 0.25 * 4, and so on, each times 2 and the growth 1, 3 / 2, 3 / 2.
        np.testing.assert_allclose(own - runs().envelope()["p"], [2 * 5.0, 3 * 9.5, 3 * 14.0])

    def test_steps_between_two_comparisons_are_counted(self) -> None:
        found = runs(
            watched=np.array([0, 3]), share=np.array([0.0, 0.5, 0.25, 0.0]), leak=np.array([0.0, 1.0, 1.0, 1.0]),
            **{name: {"p": np.ones(2)} for name in ("apart", "spread", "size", "gone")},
        )  # fmt: skip
        np.testing.assert_allclose(found.envelope()["p"], [4.5, 4.5 + 2 * (0.5 + 3.0)])

    def test_a_scalar_whose_replicas_agree_by_accident_has_the_usual_spread(self) -> None:
        three = {name: np.ones(1) for name in "abc"}
        found = runs(
            counts=dict.fromkeys("abc", 1), watched=np.arange(1), apart=three,
            size=three, gone=three, first=dict.fromkeys("abc", 1.0),
            spread={"a": np.array([0.5]), "b": np.array([0.5]), "c": np.zeros(1)}, share=np.zeros(1), leak=np.zeros(1),
        )  # fmt: skip
        assert found.envelope()["c"] == 4 * 0.5 + 0.5

    def test_the_envelope_of_losses_is_as_the_law_says(self) -> None:
        losses, replicas = np.array([2.0, 1.0, 4.0]), np.array([[2.0, 1.5, 4.0], [2.25, 1.0, 4.0]])
        floor = 32 * 0.25 * np.array([2.0, 2.0, 4.0])
        np.testing.assert_allclose(runs().loss_envelope(losses, replicas) - floor, [4.0, 8.0, 8.0])
        share = runs(share=np.full(3, 0.5)).loss_envelope(losses, replicas) - floor
        np.testing.assert_allclose(share, [4.0, 8.0 + 3 * 0.5 * 1.0, 8.0 + 3 * 0.5 * 3.0])

    def test_what_is_no_number_is_outside(self) -> None:
        assert envelope.outside("p", np.arange(2), np.array([0.0, np.nan]), np.ones(2)).step == 2  # type: ignore[union-attr]

    @pytest.mark.parametrize("b", [0.999, 0.95, 0.9])
    def test_slow_is_what_float32_does_to_a_correction(self, b: float) -> None:
        steps = np.arange(1, 60)
        exact = 1.0 - b**steps
        lost = np.abs(np.asarray(1 - jnp.float32(b) ** jnp.asarray(steps, jnp.int32), np.float64) / exact - 1)
        # XLA multiplies t times over, so that more than one rounding is in a power.
        assert (lost <= envelope.OWN * np.array([optimizer_rounding.slow(b, int(t)) for t in steps])).all()
        assert (lost >= 0.2 * np.array([optimizer_rounding.slow(b, int(t)) for t in steps])).any()

    def test_slow_is_what_is_lost_at_the_usual_b2(self) -> None:
        # float32(0.999) is 0.999 + 1.29e-8, and 1 - 0.999 is 0.001.
        assert optimizer_rounding.slow(0.999, 1) == pytest.approx(1.29e-5 + UNIT / 1e-3, rel=1e-2)

    def test_leak_is_what_torch_does_to_a_parameter_without_a_gradient(self) -> None:
        p = torch.nn.Parameter(torch.ones(()))
        optimizer = torch.optim.AdamW([p], lr=1e-3, weight_decay=1e-2)
        for _ in range(50):
            p.grad = torch.zeros(())
            _ = optimizer.step()
        lost = abs(float(p.detach()) - (1 - 1e-5) ** 50)
        assert 10 * UNIT < lost <= 50 * (optimizer_rounding.leak(ADAMW, 0) + UNIT)

    def test_no_numbers_are_rounded_where_there_are_none(self) -> None:
        assert optimizer_rounding.leak(Adam(1e-3, weight_decay=0.1), 0) == 0.0
        assert optimizer_rounding.share(OPTIMIZERS["sgd"], 0) == 4 * UNIT


class TestReport:
    def test_where_it_leaves_is_told(self) -> None:
        found = trained(LAYER, ADAMW, replace(ADAMW, bias_correction=False), steps=2)
        first = found.outside[0]
        assert first.step == 1
        assert first.what in found.recipe.weights()
        assert f"differs: {first}" in str(found)
        assert "no bias correction" in str(found)
        with pytest.raises(ParityError, match="times the envelope"):
            found.assert_ok()
