"""Optimiser steps: the formula is torch.optim's and optax's, and what is wrong with a step is named."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

from attention.parity.mutations.catalog_optimizers import STEP_MUTATIONS
from attention.parity.optimizers import adapters
from attention.parity.optimizers.diagnose_step import diagnose_step
from attention.parity.optimizers.error_budget import StepBudgets, effective
from attention.parity.optimizers.hypotheses import hypotheses
from attention.parity.optimizers.probe import StepProbe, step_probe
from attention.parity.optimizers.reference_code import code, schedule_code
from attention.spec.errors import OptionError, ParamError, SideFailed
from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.schedules import Clip, CosineRate, LinearRate, WarmUp, rate
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop

ADAMW = Adam(1e-3, weight_decay=1e-2, decoupled=True)
RATE = WarmUp(3, CosineRate(0.1, 9, 0.01))
EXACT = 1e-13


def distance(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> float:
    """Return the largest difference beside 1 or, where parameters are larger, beside them."""
    return max(
        float(np.max(np.abs(a[name] - b[name]) / np.maximum(1.0, np.abs(b[name]))))
        for a, b in zip(one, other, strict=True)
        for name in a
    )


def apart(side: Any, step: Any, probe: StepProbe | None = None) -> float:
    """Return how far a framework's steps are from the formula's."""
    probe = probe or step_probe(step)
    return distance(adapters.run("side", side, probe), adapters.formula(step, probe))


def _rate(count: Any) -> float:
    return RATE.rate(int(count))


TORCH: dict[str, Any] = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.1), SGD(0.1)),
    "SGD with momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), SGD(0.1, momentum=0.9)),
    "SGD with all": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "SGD damped": (
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        SGD(0.1, momentum=0.9, dampening=0.5),
    ),
    "Adam": (torch.optim.Adam, Adam(1e-3)),
    "Adam with decay": (lambda p: torch.optim.Adam(p, weight_decay=0.1, eps=1e-6), Adam(1e-3, weight_decay=0.1, eps=1e-6)),
    "AdamW as it comes": (torch.optim.AdamW, ADAMW),
    "AMSGrad": (lambda p: torch.optim.Adam(p, amsgrad=True), Adam(1e-3, amsgrad="raw")),
    "RMSprop as it comes": (torch.optim.RMSprop, RMSprop(1e-2)),
    "RMSprop with all": (
        lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True, weight_decay=0.1, eps=1e-5),
        RMSprop(1e-2, momentum=0.9, centered=True, weight_decay=0.1, eps=1e-5),
    ),
    "Adagrad as it comes": (torch.optim.Adagrad, Adagrad(1e-2)),
    "Adafactor as it comes": (torch.optim.Adafactor, Adafactor(1e-2, eps=0.0, floor=2.0**-52)),
    "Adafactor with decay": (
        lambda p: torch.optim.Adafactor(p, lr=1.0, weight_decay=0.1, d=2.0, beta2_decay=-0.5, eps=(1e-7, 1e-2)),
        Adafactor(
            1.0, eps=0.0, floor=1e-7, least_scale=1e-2, most_rms=2.0, decay_exponent=0.5, weight_decay=0.1, decoupled=True
        ),
    ),
}

OPTAX: dict[str, Any] = {
    "sgd": (optax.sgd(0.1), SGD(0.1)),
    "sgd with momentum": (optax.sgd(0.1, momentum=0.9), SGD(0.1, momentum=0.9)),
    "sgd with nesterov": (optax.sgd(0.1, momentum=0.9, nesterov=True), SGD(0.1, momentum=0.9, nesterov=True)),
    "a mean of gradients": (
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        SGD(0.1, momentum=0.9, dampening=0.9, first_damped=True),
    ),
    "a mean as it comes": (
        optax.chain(optax.ema(0.9), optax.scale(-0.1)),
        SGD(0.1, momentum=0.9, dampening=0.9, first_damped=True, debias=True),
    ),
    "adam": (optax.adam(1e-3), Adam(1e-3)),
    "adam with eps inside": (optax.adam(1e-3, eps=0.0, eps_root=1e-8), Adam(1e-3, eps=0.0, eps_root=1e-8)),
    "adamw as it comes": (optax.adamw(1e-3), replace(ADAMW, weight_decay=1e-4)),
    "amsgrad": (optax.amsgrad(1e-3), Adam(1e-3, amsgrad="corrected")),
    "nadam": (optax.nadam(1e-3), Adam(1e-3, nesterov=True)),
    "lion as it comes": (optax.lion(1e-3), Lion(1e-3, weight_decay=1e-3, decoupled=True)),
    "rmsprop as it comes": (optax.rmsprop(1e-2), RMSprop(1e-2, decay=0.9, eps=0.0, eps_root=1e-8)),
    "rmsprop with momentum": (
        optax.rmsprop(_rate, momentum=0.9),
        RMSprop(RATE, decay=0.9, eps=0.0, eps_root=1e-8, momentum=0.9, rate_in_sum=True),
    ),
    "rmsprop as torch's": (optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False), RMSprop(1e-2)),
    "adagrad as it comes": (optax.adagrad(1e-2), Adagrad(1e-2, initial=0.1, eps=0.0, eps_root=1e-7)),
}

SAID = {
    "adamw": ADAMW,
    "adam, coupled": Adam(1e-3, weight_decay=1e-2),
    "adamw of matrices": replace(ADAMW, decayed="matrices", b2=0.95),
    "adam with a schedule": Adam(RATE, first_count=1),
    "clipped by value": SGD(0.1, momentum=0.9, clip=Clip(0.3, "value")),
    "clipped": replace(ADAMW, clip=Clip(1.0, eps=1e-6)),
    "clipped by optax": replace(ADAMW, clip=Clip(1.0)),
    "each clipped": SGD(0.1, clip=Clip(0.5, "tensor norm", 1e-6)),
    "summed": SGD(0.1, gradient_scale=8.0),
    "sgd, decoupled": SGD(0.1, momentum=0.9, weight_decay=0.1, decoupled=True),
    "a mean": SGD(0.1, momentum=0.9, dampening=0.9, first_damped=True),
    "rmsprop": RMSprop(1e-2, momentum=0.9),
    "rmsprop with optax's order": RMSprop(RATE, momentum=0.9, rate_in_sum=True, centered=True, eps=0.0, eps_root=1e-6),
    "adagrad": Adagrad(1e-2, initial=0.1),
    "adagrad by optax": Adagrad(1e-2, initial=0.1, eps=0.0, eps_root=1e-7),
    "lion": Lion(1e-4, weight_decay=0.1, decoupled=True),
    "decay without the rate": replace(ADAMW, decay_times_rate=False),
    "adafactor": Adafactor(RATE, eps=0.0, floor=1e-7, weight_decay=0.1, decoupled=True, decayed="matrices"),
    "adafactor by optax": Adafactor(RATE, factored_axes="largest", steps_before=2, weight_decay=0.1, decoupled=True),
    "adafactor of another rate": Adafactor(
        0.1, factored_axes="largest", least_factored=4, relative=False, b1=0.9, weight_decay=0.1, decoupled=True
    ),
}


class TestLaws:
    @pytest.mark.parametrize("name", TORCH)
    def test_the_formula_is_torchs(self, name: str) -> None:
        factory, step = TORCH[name]
        assert apart(factory, step) < EXACT

    @pytest.mark.parametrize("name", OPTAX)
    def test_the_formula_is_optaxs(self, name: str) -> None:
        transformation, step = OPTAX[name]
        assert apart(transformation, step) < EXACT

    @pytest.mark.parametrize("name", SAID)
    def test_code_says_the_step_or_what_it_lacks(self, name: str) -> None:
        step = SAID[name]
        names = {"torch": torch, "optax": optax, "jax": jax, "schedule": lambda n: rate(step.learning_rate, n)}
        for framework, said in code(step).items():
            if said.lacks:
                continue
            text = said.text if framework == "optax" else f"lambda params: {said.text}"
            assert apart(eval(text, names), step) < EXACT, framework  # noqa: S307 - the text is what is tested

    def test_at_least_one_framework_says_each_of_these_steps(self) -> None:
        for name, step in SAID.items():
            assert any(not said.lacks for said in code(step).values()), name

    def test_an_option_that_differs_is_seen(self) -> None:
        factory, step = TORCH["AdamW as it comes"]
        for wrong in (replace(step, weight_decay=1e-4), replace(step, decoupled=False), replace(step, eps_corrected=False)):
            assert apart(factory, wrong) > 1e4 * EXACT

    def test_a_step_writes_over_nothing(self) -> None:
        probe = step_probe(ADAMW)
        before = {name: p.copy() for name, p in probe.params.items()}
        state = ADAMW.init(np, probe.params)
        after, _ = ADAMW.step(np, probe.params, probe.gradients[0], state)
        assert state.count == 0
        assert all(np.array_equal(before[name], p) for name, p in probe.params.items())
        assert not np.array_equal(after["kernel"], probe.params["kernel"])

    def test_the_formula_runs_in_every_framework(self) -> None:
        probe = step_probe(ADAMW)
        wanted = adapters.formula(ADAMW, probe)[0]
        state = ADAMW.init(torch, params := {name: torch.tensor(p) for name, p in probe.params.items()})
        got, _ = ADAMW.step(torch, params, {name: torch.tensor(g) for name, g in probe.gradients[0].items()}, state)
        assert distance([{name: p.numpy() for name, p in got.items()}], [wanted]) < EXACT


class TestValues:
    def test_first_step_of_adam_is_the_learning_rate(self) -> None:
        # Kingma and Ba, section 2.1: |step| is about r, whatever the gradient's size.
        state = Adam(0.5).init(np, {"p": np.zeros(2)})
        after, _ = Adam(0.5, eps=0.0).step(np, {"p": np.zeros(2)}, {"p": np.asarray([1e-6, -3e4])}, state)
        np.testing.assert_allclose(after["p"], [-0.5, 0.5], rtol=1e-13)

    def test_momentum_by_hand(self) -> None:
        step, params = SGD(0.1, momentum=0.5, nesterov=True), {"p": np.asarray([1.0])}
        state = step.init(np, params)
        params, state = step.step(np, params, {"p": np.asarray([2.0])}, state)
        np.testing.assert_allclose(params["p"], [1 - 0.1 * (2 + 0.5 * 2)])
        params, _ = step.step(np, params, {"p": np.asarray([4.0])}, state)
        np.testing.assert_allclose(params["p"], [0.7 - 0.1 * (4 + 0.5 * (0.5 * 2 + 4))])

    def test_clip_bounds_the_norm_of_all(self) -> None:
        clipped = Clip(1.0).clipped(np, {"a": np.asarray([3.0]), "b": np.asarray([0.0, 4.0])})
        np.testing.assert_allclose(clipped["a"], [0.6])
        np.testing.assert_allclose(clipped["b"], [0.0, 0.8])
        assert Clip(1.0).clipped(np, {"a": np.zeros(2)})["a"].tolist() == [0.0, 0.0]

    def test_schedules_by_hand(self) -> None:
        assert [LinearRate(1.0, 0.0, 4).rate(n) for n in (0, 1, 4, 9)] == [1.0, 0.75, 0.0, 0.0]
        np.testing.assert_allclose([CosineRate(1.0, 2, 0.2).rate(n) for n in (0, 1, 2, 3)], [1.0, 0.6, 0.2, 0.2])
        assert [WarmUp(2, 3.0).rate(n) for n in (0, 1, 2, 9)] == [0.0, 1.5, 3.0, 3.0]

    def test_schedules_are_optaxs(self) -> None:
        cosine, warm = optax.cosine_decay_schedule(0.1, 9, 0.1), optax.warmup_cosine_decay_schedule(0.0, 0.1, 3, 12, 0.01)
        with jax.enable_x64(True):
            for n in range(15):
                np.testing.assert_allclose(CosineRate(0.1, 9, 0.01).rate(n), cosine(n), rtol=1e-12)
                np.testing.assert_allclose(RATE.rate(n), warm(n), rtol=1e-12)


CONTRACTS = {
    "adamw": ADAMW,
    "adamw of a recipe": Adam(
        RATE, b2=0.95, eps=1e-6, weight_decay=0.1, decoupled=True, decayed="matrices", first_count=1, clip=Clip(1.0, eps=1e-6)
    ),
    "amsgrad": Adam(1e-3, amsgrad="raw", eps_corrected=False),
    "amsgrad by optax": Adam(1e-3, amsgrad="corrected", bias_correction=True, nesterov=True),
    "sgd": SGD(RATE, momentum=0.9, nesterov=True, weight_decay=1e-2, clip=Clip(1.0)),
    "a mean": SGD(0.1, momentum=0.9, dampening=0.9, first_damped=True, clip=Clip(0.5, "tensor norm")),
    "sutskever": SGD(RATE, momentum=0.95, rate_in_sum=True),
    "rmsprop": RMSprop(RATE, decay=0.95, eps=0.0, eps_root=1e-8, momentum=0.9, centered=True, rate_in_sum=True),
    "rmsprop by torch": RMSprop(1e-2),
    "adagrad": Adagrad(1e-2, initial=0.1),
    "lion": Lion(1e-4, weight_decay=0.1, decoupled=True),
}


class TestMistakes:
    def test_the_probe_sees_every_mistake_of_the_catalogue(self) -> None:
        seen: set[str] = set()
        for step in CONTRACTS.values():
            budgets = StepBudgets(step_probe(step), "float64")
            seen |= {hypothesis.name for hypothesis in effective(hypotheses(step), step, budgets)}
        assert seen == {mutation.name for mutation in STEP_MUTATIONS}
        assert len(STEP_MUTATIONS) >= 60

    def test_torchs_and_optaxs_defaults_are_told_apart(self) -> None:
        found = diagnose_step(torch.optim.AdamW, optax.adamw(1e-3), ADAMW, names=("torch", "jax"))
        assert not found.ok
        assert found.first.right
        assert found.second.names == ("weight decay 0.0001",)
        text = str(found)
        assert "torch: as the contract says" in text
        assert "jax: weight decay 0.0001  (unique)" in text
        assert "torch.optim.AdamW(params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)" in text

    def test_a_number_that_nobody_has_is_solved_for(self) -> None:
        found = diagnose_step(replace(ADAMW, b2=0.97), lambda p: torch.optim.Adam(p, weight_decay=0.03), ADAMW)
        assert found.first.names == ("b2 0.97 for 0.999",)
        assert found.second.names == ("coupled decay and weight_decay 0.03 for 0.01",)

    def test_two_mistakes_are_both_named(self) -> None:
        found = diagnose_step(replace(ADAMW, b2=0.95, eps_corrected=False), optax.adamw(1e-3, weight_decay=1e-2), ADAMW)
        assert found.first.names == ("eps before the bias correction and b2 0.95",)
        assert found.second.right

    def test_what_is_no_known_mistake_is_not_named(self) -> None:
        def strange(params: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
            crooked = [{name: g * (1 + 0.01 * np.sin(g)) for name, g in of_step.items()} for of_step in gradients]
            return adapters.steps_of(np, SGD(0.1), params, crooked)

        found = diagnose_step(strange, SGD(0.1), SGD(0.1), names=("mine", "formula"))
        assert not found.first.known
        assert str(found).startswith("mine: none of the known mistakes fits; nearest, and wrong: ")

    def test_a_schedule_that_goes_on_past_its_end_is_right_up_to_there(self) -> None:
        def torchs(params: Any) -> Any:
            optimizer = torch.optim.SGD(params, lr=0.1)
            return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)

        step = SGD(CosineRate(0.1, 9))
        found = diagnose_step(torchs, step, step, names=("torch", "formula"))
        assert found.ok
        assert found.first.end == 10
        assert found.first.differs_at == 11
        assert "up to the end of its schedule, step 10; they differ from step 11 on" in str(found)
        wrong = diagnose_step(torchs, step, SGD(CosineRate(0.1, 8)))
        assert not wrong.first.right
        assert wrong.first.differs_at <= 3

    @pytest.mark.parametrize(
        "schedule", [LinearRate(0.3, 0.1, 4), CosineRate(0.2, 5, 0.02), WarmUp(3, CosineRate(0.2, 5)), WarmUp(2, 0.1)]
    )
    def test_a_schedule_is_printed_as_code_that_runs(self, schedule: Any) -> None:
        said = schedule_code(SGD(schedule))
        for name in ("torch", "optax"):
            made = eval(said[name], {"math": math, "optax": optax})  # noqa: S307 - the text is what is tested
            assert [float(made(n)) for n in range(12)] == pytest.approx(
                [schedule.rate(n) for n in range(12)], rel=1e-6, abs=1e-8
            )

    def test_a_side_in_float32_is_right_in_float32(self) -> None:
        def coarse(params: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
            narrow = [{name: g.astype(np.float32) for name, g in of_step.items()} for of_step in gradients]
            return adapters.steps_of(np, ADAMW, {name: p.astype(np.float32) for name, p in params.items()}, narrow)

        assert diagnose_step(coarse, ADAMW, ADAMW).ok
        assert not diagnose_step(coarse, ADAMW, replace(ADAMW, eps=1e-7)).ok


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Adam(-1.0), "Adam learning_rate -1.0 must be a schedule or a finite number >= 0"),
            (lambda: Adam(1e-3, b2=1.0), "Adam b2 1.0 must be a number >= 0 and < 1"),
            (lambda: SGD(0.1, weight_decay=float("nan")), "SGD weight_decay nan must be a finite number >= 0"),
            (lambda: Adam(1e-3, amsgrad="largest"), "Adam amsgrad 'largest' must be 'raw', 'corrected' or None"),  # pyright: ignore[reportArgumentType]
            (lambda: SGD(0.1, decayed="biases"), "SGD decayed 'biases' must be 'all' or 'matrices'"),  # pyright: ignore[reportArgumentType]
            (lambda: Clip(0.0), "Clip most 0.0 must be a finite number > 0"),
            (lambda: Clip(1.0, "norm"), "Clip by 'norm' must be one of global norm, tensor norm, value"),  # pyright: ignore[reportArgumentType]
            (lambda: CosineRate(0.1, 0), "CosineRate steps 0 must be an int >= 1"),
        ],
    )
    def test_an_option_out_of_range_is_refused(self, make: Any, message: str) -> None:
        with pytest.raises(OptionError) as caught:
            make()
        assert str(caught.value) == message

    def test_gradients_that_do_not_fit_are_all_named(self) -> None:
        params = {"a": np.zeros(2), "b": np.zeros(3)}
        with pytest.raises(
            ParamError, match=r"no gradient of b; a gradient of c, which is no parameter; a \(3,\) must be \(2,\)"
        ):
            _ = SGD(0.1).step(np, params, {"a": np.zeros(3), "c": np.zeros(1)}, SGD(0.1).init(np, params))

    def test_a_side_that_raises_is_blamed(self) -> None:
        def broken(params: Any, gradients: Any) -> Any:
            del params, gradients
            raise KeyError("momentum")

        with pytest.raises(SideFailed, match=r"mine failed at .*test_optimizer_steps.py:\d+, `raise KeyError"):
            _ = diagnose_step(broken, ADAMW, ADAMW, names=("mine", "formula"))

    def test_a_side_that_returns_something_else_is_refused(self) -> None:
        with pytest.raises(
            SideFailed, match=r"first returned 1 results, must be a list of the parameters after each of 7 steps"
        ):
            _ = diagnose_step(lambda params, _: [params], ADAMW, ADAMW)
        with pytest.raises(OptionError, match=r"first int must be a spec step, an optax.GradientTransformation"):
            _ = diagnose_step(3, ADAMW, ADAMW)
        with pytest.raises(OptionError, match=r"contract str must be a step such as spec.optimizers.Adam"):
            _ = diagnose_step(ADAMW, ADAMW, "adam")  # pyright: ignore[reportArgumentType]
