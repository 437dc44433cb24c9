"""Training: two frameworks follow one recipe, whatever is trained, and the report says how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from typer.testing import CliRunner

from attention.cli import app
from attention.parity import ParamMap, match
from attention.parity.training import Recipe, Training, optimizer_names, recipe_for, train
from attention.parity.training.optimizer_names import OPTIMIZERS
from attention.spec.cases import CASES
from attention.spec.errors import FileError, OptionError, ParamError, ParityError, SideFailed, UnknownName
from attention.spec.optimizers.steps import SGD
from parity_tests.support.absent import needs

LAYER = CASES["additive"].contract


class Torch(nn.Module):
    """A layer that counts its calls, and whose output depends on how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x) * self.calls


class Jax(nnx.Module):
    """The same."""

    def __init__(self) -> None:
        self.inner = nnx.Linear(3, 5, rngs=nnx.Rngs(7))
        self.calls = nnx.BatchStat(np.zeros((), np.float32))

    def __call__(self, x: Any) -> Any:
        self.calls[...] = self.calls[...] + 1
        return self.inner(x) * self.calls[...]


def batches(step: int) -> dict[str, np.ndarray]:
    """Return a batch of seven."""
    return {"x": np.random.default_rng(step).normal(size=(7, 3)).astype(np.float32)}


def loss(model: Any, batch: Mapping[str, Any], seed: Any) -> Any:
    """Return the mean square of what a model makes of a batch."""
    del seed
    return (model(batch["x"]) ** 2).mean()


def pair(**changed: Any) -> Recipe:
    """Return the recipe of a user's own pair."""
    given: dict[str, Any] = {
        "architecture": None, "models": {"torch": Torch(), "jax": Jax()}, "losses": {"torch": loss, "jax": loss},
        "optimizer": SGD(0.01), "batches": batches, "steps": 4,
    }  # fmt: skip
    return Recipe(**{**given, **changed})


@pytest.fixture(scope="module")
def told() -> list[tuple[int, float]]:
    return []


@pytest.fixture(scope="module")
def training(told: list[tuple[int, float]]) -> Training:
    return train(recipe_for(LAYER, steps=24), watch=6, progress=lambda step, loss: told.append((step, loss)))


@pytest.fixture(scope="module")
def own() -> Training:
    return train(pair())


class TestLaws:
    def test_both_frameworks_stay_together(self, training: Training) -> None:
        training.assert_ok()
        assert training.losses["torch"][-1] < training.losses["torch"][0]

    def test_weights_are_compared_densely_at_first(self, training: Training) -> None:
        assert training.watched.tolist() == [*range(10), 12, 18, 23]
        assert all(len(values) == 24 for values in training.losses.values())

    def test_progress_is_told_of_every_step(self, training: Training, told: list[tuple[int, float]]) -> None:
        assert told == [(i + 1, x) for i, x in enumerate(training.losses["torch"])]

    def test_the_trained_models_are_returned(self, training: Training) -> None:
        ours, theirs = (training.models[name].weights() for name in ("torch", "jax"))
        start = training.recipe.weights()
        for name, w in start.items():
            assert np.abs(ours[name] - theirs[name]).max() < 1e-3 * np.abs(ours[name] - w).max()

    def test_replicas_begin_one_unit_away(self) -> None:
        from attention.parity.training.distance import perturbed  # noqa: PLC0415 - only here

        w = {"p": np.array([1.0, -3.0, 0.0], np.float32)}
        assert np.abs(perturbed(w, 0)["p"] - w["p"]).tolist() in ([2.0**-23, 2.0**-22, 0.0], [2.0**-24, 2.0**-22, 0.0])
        assert any((perturbed(w, 0)["p"] != perturbed(w, replica)["p"]).any() for replica in range(1, 5))


class TestPairs:
    def test_a_pair_of_modules_begins_from_the_values_of_torch(self, own: Training) -> None:
        own.assert_ok()
        assert list(own.apart) == ["inner.weight", "inner.bias", "loss"]

    def test_what_is_no_parameter_is_carried(self, own: Training) -> None:
        assert float(own.models["torch"].calls) == float(own.models["jax"].calls[...]) == 4.0

    def test_the_models_of_the_user_are_left_alone(self, own: Training) -> None:
        given = own.recipe.models
        assert float(given["torch"].calls) == float(given["jax"].calls[...]) == 0.0
        assert np.abs(given["jax"].inner.kernel[...] - own.models["jax"].inner.kernel[...]).max() > 0.01

    def test_a_map_and_first_weights_may_be_given(self) -> None:
        ours, theirs = Torch(), Jax()
        start = {"inner.weight": np.ones((5, 3), np.float32), "inner.bias": np.zeros(5, np.float32)}
        known: ParamMap = match(ours, theirs)
        found = train(pair(models={"torch": ours, "jax": theirs}, params=known, start=start, steps=1))
        assert found.losses["torch"][0] == pytest.approx(np.mean(batches(0)["x"].sum(1) ** 2), rel=1e-6)

    def test_parameters_without_a_counterpart_are_refused(self) -> None:
        ours = Torch()
        ours.more = nn.Parameter(torch.zeros(11))
        with pytest.raises(ParamError, match="parameters more of torch must have a counterpart"):
            _ = train(pair(models={"torch": ours, "jax": Jax()}))

    def test_what_is_no_module_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"models\['jax'\] Linear must be an nnx.Module, as there is no architecture"):
            _ = train(pair(models={"torch": Torch(), "jax": nn.Linear(3, 5)}))


class TestReport:
    def test_it_says_what_was_nearest(self, training: Training) -> None:
        worst = training.worst[0]
        assert str(training).startswith(f"agrees: nearest to the envelope is {worst.what}, {worst.ratio:.2f} of it")

    def test_facts_are_ready_for_json(self, training: Training, tmp_path: Path) -> None:
        training.to_json(tmp_path / "run.json")
        read = json.loads((tmp_path / "run.json").read_text())
        assert {name: read[name] for name in training.facts()} == training.facts()
        assert (read["ok"], read["steps"], read["replicas"]) == (True, 24, 2)
        assert read["optimizer"] == "Adam, rate 0.001, weight decay 0.01, decoupled"
        assert len(read["curves"]["loss"]["envelope"]) == 24

    def test_a_picture_is_drawn(self, training: Training, tmp_path: Path) -> None:
        training.plot(tmp_path / "run.png")
        assert (tmp_path / "run.png").stat().st_size > 10_000
        with pytest.raises(FileError, match="must be writable, and end as a picture does"):
            training.plot(tmp_path / "run.nonsense")

    def test_a_loss_that_is_no_number_is_told_and_not_raised(self, tmp_path: Path) -> None:
        def broken(model: Any, batch: Mapping[str, Any], seed: Any) -> Any:
            return loss(model, batch, seed) * batch["factor"][0]

        def data(step: int) -> dict[str, np.ndarray]:
            return {**batches(step), "factor": np.array([np.nan if step == 2 else 1.0], np.float32)}

        both = train(pair(losses={"torch": broken, "jax": broken}, batches=data))
        assert both.failure == "torch's loss is nan at step 3 and jax's loss is nan at step 3"
        one = train(pair(losses={"torch": broken, "jax": loss}, batches=data))
        assert not one.ok
        assert str(one).startswith("cannot tell: torch's loss is nan at step 3 (4 steps")
        one.plot(tmp_path / "nan.png")
        one.to_json(tmp_path / "nan.json")
        with pytest.raises(ParityError, match="torch's loss is nan"):
            one.assert_ok()

    def test_a_wrong_forward_is_sent_to_the_models(self) -> None:
        found = train(pair(losses={"torch": loss, "jax": lambda *given: 1.001 * loss(*given)}, steps=1))
        assert (found.outside[0].what, found.outside[0].step) == ("loss", 1)
        assert "parity.full_comparison(torch_model, jax_model, inputs) names" in str(found)

    @needs("torch", "optax")
    def test_command_line(self, tmp_path: Path) -> None:
        words = [
            "verify",
            "--train",
            "--contract",
            "general",
            "--optimizer",
            "sgd",
            "--steps",
            "3",
            "--json",
            str(tmp_path / "x.json"),
        ]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert "1 contracts trained for 3 steps with sgd in both frameworks, 0 outside the envelope." in result.output
        assert json.loads((tmp_path / "x.json").read_text())["general"]["optimizer"] == "SGD, rate 0.1"
        assert CliRunner().invoke(app, ["verify", "--train", "--optimizer", "sophia"]).exit_code == 2

    @needs("torch", "optax")
    def test_command_line_fails_where_runs_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from attention.parity.training import envelope  # noqa: PLC0415 - only here

        # Nothing may be apart at all.
        monkeypatch.setattr(envelope, "LOSS_FLOOR", -1e9)
        result = CliRunner().invoke(app, ["verify", "--train", "--contract", "general", "--optimizer", "sgd", "--steps", "1"])
        assert result.exit_code == 1, result.output
        assert "differs: loss at step 1" in result.output


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value", "text"),
        [
            ("steps", 0, "Recipe steps 0 must be an int >= 1"),
            ("seed", -1, "Recipe seed -1 must be an int >= 0"),
            ("optimizer", "adam", "Recipe optimizer 'adam' must be a step such as"),
            ("batches", 3, "Recipe batches 3 must be a function of the step"),
            ("architecture", "mlp", "Recipe architecture 'mlp' must be an Architecture or None"),
            ("losses", {"torch": loss}, "Recipe losses torch must be a mapping of 'torch' and 'jax'"),
            ("losses", {"torch": loss, "jax": 1}, r"Recipe losses\['jax'\] int must be callable"),
            ("models", None, "Recipe models NoneType must be a mapping"),
            ("optimizers", {"tpu": 1}, "Recipe optimizers .* must be a mapping of 'torch' or 'jax'"),
            ("start", {}, "Recipe start dict must be weights by name"),
        ],
    )
    def test_a_wrong_field(self, field: str, value: object, text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = pair(**{field: value})

    def test_a_map_beside_an_architecture(self) -> None:
        with pytest.raises(OptionError, match="Recipe params must be None"):
            _ = recipe_for(LAYER, params=ParamMap())

    @pytest.mark.parametrize(
        ("batch", "text"),
        [
            ([1.0], r"batches\(0\) list must be a dict of NumPy arrays"),
            ({"x": [1.0]}, r"batches\(0\)\['x'\] list must be a NumPy array"),
            ({"x": np.array(["a"])}, r"batches\(0\)\['x'\] of dtype <U1 must hold numbers"),
        ],
    )
    def test_a_batch_that_is_no_numbers(self, batch: Any, text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = pair(batches=lambda _: batch).batch(0)

    def test_a_loss_that_is_no_scalar(self) -> None:
        def wide(model: Any, batch: Mapping[str, Any], seed: Any) -> Any:
            del seed
            return model(batch["x"]).sum(1)

        for side, name in (("torch", "torch"), ("jax", "JAX")):
            with pytest.raises(SideFailed, match=rf"{name}'s loss returned \(7,\), must be a scalar"):
                _ = train(pair(losses={"torch": loss, "jax": loss, side: wide}))

    def test_a_loss_that_raises_is_blamed_on_its_line(self) -> None:
        def broken(model: Any, batch: Mapping[str, Any], seed: Any) -> Any:
            raise RuntimeError(f"no {seed is not None} {len(batch)} {type(model).__name__}")

        with pytest.raises(SideFailed, match=r"torch's loss failed at .*test_training.py:\d+, `raise RuntimeError"):
            _ = train(pair(losses={"torch": broken, "jax": loss}))

    @pytest.mark.parametrize(
        ("start", "text"),
        [
            (np.ones((5, 3)), r"start inner.weight float64 \(5, 3\) must be float32 \(5, 3\)"),
            (np.ones((3, 5), np.float32), r"start inner.weight float32 \(3, 5\) must be float32 \(5, 3\)"),
            ([[1.0]], r"start inner.weight list must be float32 \(5, 3\)"),
        ],
    )
    def test_first_weights_that_are_not_like_those_of_torch(self, start: Any, text: str) -> None:
        with pytest.raises(ParamError, match=text):
            _ = train(pair(start={"inner.weight": start, "inner.bias": np.zeros(5, np.float32)}))

    def test_a_parameter_that_torch_does_not_train(self) -> None:
        ours = Torch()
        _ = ours.inner.bias.requires_grad_(False)
        with pytest.raises(ParamError, match=r"parameters inner\.bias of torch must require a gradient"):
            _ = train(pair(models={"torch": ours, "jax": Jax()}))

    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (np.zeros(2), "of dtype float64 must be float32 or narrower"),
            (np.array([0, 2**31]), "from 0 to 2147483648 must fit in 32 bits"),
        ],
    )
    def test_a_batch_that_jax_would_cut(self, array: np.ndarray, text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = pair(batches=lambda _: {"x": array}).batch(0)

    def test_optimizers_that_fail_are_blamed(self) -> None:
        with pytest.raises(SideFailed, match="torch's optimizer failed"):
            _ = train(pair(optimizers={"torch": torch.optim.LBFGS}))
        with pytest.raises(OptionError, match=r"optimizers\['torch'\] returned NoneType, must be an optimiser"):
            _ = train(pair(optimizers={"torch": lambda _: None}))

    def test_optimizers_that_are_none(self) -> None:
        with pytest.raises(OptionError, match=r"optimizers\['torch'\] float must be a step or a function of parameters"):
            _ = train(pair(optimizers={"torch": 0.1}))
        with pytest.raises(OptionError, match=r"optimizers\['jax'\] float must be a step or an optax.GradientTransformation"):
            _ = train(pair(optimizers={"jax": 0.1}))

    def test_arguments(self) -> None:
        with pytest.raises(OptionError, match="replicas 0 must be a positive int"):
            _ = train(pair(), replicas=0)
        with pytest.raises(OptionError, match="contract str must be a contract"):
            _ = recipe_for("self")  # type: ignore[arg-type]
        with pytest.raises(UnknownName, match="optimizer 'sophia' must be one of adamw"):
            _ = optimizer_names.find("sophia")

    def test_a_recipe_is_a_record(self) -> None:
        assert replace(pair(), steps=7).steps == 7
        assert set(OPTIMIZERS) >= {"adamw", "sgd", "momentum", "adafactor", "lion"}
