"""Optimizers: torch.optim, optax and the formula take the same steps from one description.

    |p - formula| <= 64 STEPS 2^-52 max(1, |formula|)        float64: fewer than 64 roundings a step, of what is no larger

In float32 one step of gradients near eps stays within the budget of rounding, where an eps inside the root does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from attention import _extras
from attention.jax_impl import optimizers as jax_optimizers
from attention.jax_impl.layers.layer import Layer as JaxLayer
from attention.parity.numerics.comparison import judge
from attention.parity.optimizers.adapters import formula
from attention.parity.optimizers.error_budget import StepBudgets
from attention.parity.optimizers.probe import StepProbe, step_probe
from attention.spec.errors import MissingExtra, OptionError, ParamError
from attention.spec.layers.architecture import Architecture
from attention.spec.optimizers.adafactor import Adafactor
from attention.spec.optimizers.optimizer import Step, matrices
from attention.spec.optimizers.schedules import Clip, CosineRate, LinearRate, Schedule, WarmUp
from attention.spec.optimizers.steps import SGD, Adagrad, Adam, Lion, RMSprop
from attention.spec.params import Param
from attention.torch_impl import optimizers as torch_optimizers
from attention.torch_impl import params as torch_params
from attention.torch_impl.layers.layer import Layer as TorchLayer

Arrays = dict[str, np.ndarray]
STEPS = 12
EXACT = 64 * STEPS * 2.0**-52
PARAMS = {
    "proj.kernel": Param((3, 2, 5), "MHD", inputs=1),
    "proj.bias": Param((2, 5), "HD"),
    "table": Param((3, 2, 5), "THD", spread=1.0),
}


@dataclass(frozen=True)
class Model(Architecture):
    """Every way in which a parameter is stored: a kernel and a bias of several axes, and a loose table."""

    @property
    def params(self) -> dict[str, Param]:
        return PARAMS


def draw(seed: int, spread: float = 0.0) -> Arrays:
    """Return numbers of many sizes; a third of them 0 if there is a spread."""
    draws = np.random.default_rng(seed)
    values = {name: draws.normal(size=param.shape) for name, param in PARAMS.items()}
    sizes = {name: 10 ** draws.uniform(-spread, spread / 9, param.shape) for name, param in PARAMS.items()}
    zero = {name: draws.random(param.shape) < (spread > 0) / 3 for name, param in PARAMS.items()}
    return {name: np.where(zero[name], 0.0, x * sizes[name]) for name, x in values.items()}


WEIGHTS = draw(0)
GRADIENTS = [draw(1 + number, spread=9.0) for number in range(STEPS)]


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def by_formula(step: Step) -> list[Arrays]:
    """Return the parameters after each step of the formula, which sees kernels as matrices."""
    params, after = matrices(PARAMS, WEIGHTS), []
    state = step.init(np, params)
    for gradients in GRADIENTS:
        params, state = step.step(np, params, matrices(PARAMS, gradients), state)
        after.append({name: p.reshape(PARAMS[name].shape) for name, p in params.items()})
    return after


def torch_layer() -> TorchLayer:
    layer = TorchLayer(Model(), dtype="float64")
    layer.load_weights(WEIGHTS)
    return layer


def set_gradients(layer: nn.Module, gradients: Arrays) -> None:
    for name, g in gradients.items():
        p = torch_params.parameter(layer, name)
        p.grad = torch_params.to_native(PARAMS[name], torch.tensor(g)).reshape(p.shape).contiguous()


def by_torch(step: Step) -> list[Arrays]:
    layer = torch_layer()
    made, after = torch_optimizers.optimizer(step, layer), []
    for gradients in GRADIENTS:
        made.zero_grad()
        set_gradients(layer, gradients)
        made.step()
        after.append(layer.weights())
    assert made.count == STEPS
    return after


def moved(made: Any, gradients: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """Return the parameters after one step of optax, and what it leaves to the next."""
    updates, state = made.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def by_optax(step: Step) -> list[Arrays]:
    made, after = jax_optimizers.optimizer(step, JaxLayer(Model(), dtype="float64")), []
    params: Any = {name: jnp.asarray(p) for name, p in WEIGHTS.items()}
    state = made.init(params)
    for gradients in GRADIENTS:
        params, state = moved(made, {name: jnp.asarray(g) for name, g in gradients.items()}, state, params)
        after.append({name: np.asarray(p) for name, p in params.items()})
    return after


BACKENDS: dict[str, Callable[[Step], list[Arrays]]] = {"torch": by_torch, "optax": by_optax}


def far(got: list[Arrays], wanted: list[Arrays]) -> float:
    """Return the largest difference beside 1 or, where parameters are larger, beside them."""
    pairs = [(a[name], b[name]) for a, b in zip(got, wanted, strict=True) for name in b]
    return max(float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)))) for a, b in pairs)


RATES: dict[str, float | Schedule] = {
    # Large enough for Adafactor's cap of 1 / sqrt t.
    "constant": 1.0,
    "cosine": CosineRate(1.0, 9, 0.1),
    "warm-up and cosine": WarmUp(3, CosineRate(1.0, 6)),
    "linear": LinearRate(1.0, 0.0, 10),
}
CLIPS = (None, Clip(1.0, eps=1e-6))
OPTIMIZERS: dict[str, Callable[..., Step]] = {
    "SGD": SGD,
    "momentum": lambda r, **o: SGD(r, momentum=0.9, nesterov=True, weight_decay=0.1, **o),
    "Adam": lambda r, **o: Adam(r, weight_decay=0.1, **o),
    "AdamW": lambda r, **o: Adam(r, weight_decay=0.1, decoupled=True, decayed="matrices", first_count=1, **o),
    "Lion": lambda r, **o: Lion(r, weight_decay=0.1, decoupled=True, **o),
    "RMSprop": lambda r, **o: RMSprop(r, momentum=0.9, centered=True, **o),
    "Adagrad": Adagrad,
    "Adafactor": Adafactor,
}
RATE = RATES["warm-up and cosine"]
DECAY: dict[str, Any] = {"weight_decay": 0.1, "decoupled": True}
TORCHS: dict[str, Any] = {"eps": 0.0, "floor": 1e-7}
OPTIONS: dict[str, Step] = {
    "dampening": SGD(RATE, momentum=0.9, dampening=0.3),
    "a mean of gradients": SGD(RATE, momentum=0.9, dampening=0.9, first_damped=True),
    "a Nesterov step of a mean": SGD(RATE, momentum=0.9, dampening=0.9, first_damped=True, debias=True, nesterov=True),
    "the rate in the sum": SGD(RATE, momentum=0.9, rate_in_sum=True, **DECAY),
    "decoupled decay of SGD": SGD(RATE, momentum=0.9, decayed="matrices", **DECAY),
    "no bias correction": Adam(RATE, bias_correction=False, decayed="matrices", **DECAY),
    "eps before the correction": Adam(RATE, eps=1e-4, eps_corrected=False),
    "eps inside the root": Adam(RATE, eps=0.0, eps_root=1e-6),
    "raw AMSGrad": Adam(RATE, amsgrad="raw"),
    "corrected AMSGrad": Adam(RATE, amsgrad="corrected"),
    "Nadam": Adam(RATE, nesterov=True),
    "decay without the rate": Adam(RATE, decay_times_rate=False, **DECAY),
    "a summed loss": Adam(RATE, gradient_scale=0.125, clip=Clip(0.5)),
    "RMSprop as in optax": RMSprop(RATE, decay=0.9, eps=0.0, eps_root=1e-8, momentum=0.9, rate_in_sum=True, **DECAY),
    "RMSprop from 1": RMSprop(RATE, initial=1.0),
    "Adagrad as in optax": Adagrad(RATE, eps=0.0, eps_root=1e-7, initial=0.1),
    "Adafactor as in torch": Adafactor(RATE, decayed="matrices", **DECAY, **TORCHS),
    "Adafactor as in optax": Adafactor(
        RATE, relative=False, b1=0.9, least_factored=3, factored_axes="largest", decay_times_rate=False, **DECAY
    ),
    "Adafactor of the paper": Adafactor(RATE, factored_axes="largest"),
    "Adafactor with two eps": Adafactor(RATE, eps=1e-8, floor=1e-5),
    "Adafactor of both": Adafactor(RATE, eps=1e-8, floor=1e-5, most_rms=0.5, scaled=False, steps_before=2, **DECAY),
    "Adafactor with coupled decay": Adafactor(RATE, weight_decay=0.1, most_rms=None),
    "each tensor's norm": SGD(0.1, clip=Clip(0.5, "tensor norm", 1e-6)),
    "each tensor's norm, no eps": SGD(0.1, clip=Clip(0.5, "tensor norm")),
    "every value": SGD(0.1, clip=Clip(0.3, "value")),
}
NATIVE = {
    "SGD": (SGD(0.1, momentum=0.9, nesterov=True), torch.optim.SGD, "TraceState"),
    "AdamW": (Adam(0.1, **DECAY), torch.optim.AdamW, "ScaleByAdamState"),
    "Adam": (Adam(0.1, weight_decay=0.1), torch.optim.Adam, "ScaleByAdamState"),
    "Lion": (Lion(0.1), torch_optimizers.Formula, "ScaleByLionState"),
    "RMSprop": (RMSprop(0.1), torch.optim.RMSprop, "ScaleByRmsState"),
    "torch's Adagrad": (Adagrad(0.1), torch.optim.Adagrad, "FormulaState"),
    "optax's Adagrad": (OPTIONS["Adagrad as in optax"], torch_optimizers.Formula, "ScaleByRssState"),
    "torch's Adafactor": (OPTIONS["Adafactor as in torch"], torch.optim.Adafactor, "FormulaState"),
    "optax's Adafactor": (OPTIONS["Adafactor as in optax"], torch_optimizers.Formula, "FactoredState"),
    "eps before the correction": (OPTIONS["eps before the correction"], torch_optimizers.Formula, "FormulaState"),
}


class TestLaws:
    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_both_backends_take_the_steps_of_the_formula(self, name: str, rate: str) -> None:
        for clip in CLIPS:
            step = OPTIMIZERS[name](RATES[rate], clip=clip)
            wanted = by_formula(step)
            assert far(by_torch(step), wanted) < EXACT, clip
            # optax takes eight times as long to say so: every second of its cases, each pair of options among them.
            if (list(OPTIMIZERS).index(name) + list(RATES).index(rate) + CLIPS.index(clip)) % 2:
                assert far(by_optax(step), wanted) < EXACT, clip

    @pytest.mark.parametrize("name", OPTIONS)
    def test_every_option_means_the_same_in_both_backends(self, name: str) -> None:
        wanted = by_formula(OPTIONS[name])
        for backend, run in BACKENDS.items():
            assert far(run(OPTIONS[name]), wanted) < EXACT, backend

    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            (OPTIMIZERS["AdamW"](RATE), {"decoupled": False}),
            (OPTIMIZERS["AdamW"](RATE), {"decayed": "all"}),
            (OPTIMIZERS["AdamW"](RATE), {"first_count": 0}),
            (OPTIMIZERS["Adam"](RATE), {"bias_correction": False}),
            (OPTIMIZERS["Adam"](RATE), {"eps": 0.0, "eps_root": 1e-8}),
            (OPTIMIZERS["momentum"](RATE), {"nesterov": False}),
            (OPTIONS["dampening"], {"dampening": 0.0}),
            (OPTIONS["dampening"], {"first_damped": True}),
            (OPTIONS["a summed loss"], {"clip": Clip(0.5, eps=1e-6)}),
            (OPTIONS["Adafactor as in torch"], {"floor": 1e-9}),
            (OPTIONS["Adafactor as in optax"], {"factored_axes": "last"}),
            (OPTIONS["Adafactor as in optax"], {"relative": True}),
        ],
    )
    def test_an_option_that_is_turned_is_seen_in_both_backends(self, right: Step, wrong: dict[str, Any]) -> None:
        wanted = by_formula(right)
        for backend, run in BACKENDS.items():
            assert far(run(replace(right, **wrong)), wanted) > 1e3 * EXACT, backend

    @pytest.mark.parametrize("name", NATIVE)
    def test_a_frameworks_own_optimiser_runs_what_it_can(self, name: str) -> None:
        step, torchs, optaxs = NATIVE[name]
        assert type(torch_optimizers.optimizer(step, nn.Linear(3, 5)).inner) is torchs
        made = jax_optimizers.optimizer(step, nnx.Linear(3, 5, rngs=nnx.Rngs(0)))
        state = made.init({"kernel": jnp.zeros((3, 5)), "bias": jnp.zeros(5)})
        assert f"{optaxs}(" in str(state)

    def test_a_layer_inside_a_plain_module_is_seen_as_its_contract_says(self) -> None:
        class Plain(nnx.Module):
            def __init__(self) -> None:
                self.inner = nnx.List([JaxLayer(Model(), dtype="float64")])
                self.loose = nnx.Param(jnp.ones((2, 5)))

        module, step = Plain(), Adam(RATE, decayed="matrices", **DECAY)
        module.inner[0].load_weights(WEIGHTS)
        trained = nnx.Optimizer(module, jax_optimizers.optimizer(step, module), wrt=nnx.Param)

        @nnx.jit
        def move(module: Plain, trained: nnx.Optimizer, gradients: dict[str, jax.Array]) -> None:
            paths = nnx.to_flat_state(nnx.state(module, nnx.Param))
            given = [(path, p.replace(gradients.get(".".join(map(str, path[2:])), jnp.zeros((2, 5))))) for path, p in paths]
            _ = trained.update(module, nnx.from_flat_state(given))

        after = []
        for gradients in GRADIENTS:
            move(module, trained, {name: jnp.asarray(g) for name, g in gradients.items()})
            after.append(module.inner[0].weights())
        assert far(after, by_formula(step)) < EXACT
        # An array of a plain module is what it is: a matrix, which decays.
        assert float(module.loose.get_value()[0, 0]) < 1.0

    def test_what_has_no_gradient_moves_as_if_it_were_zero(self) -> None:
        step = OPTIMIZERS["momentum"](0.1)
        layer = torch_layer()
        made = torch_optimizers.optimizer(step, layer)
        set_gradients(layer, GRADIENTS[0])
        made.step()
        made.zero_grad()
        assert layer.table.grad is None  # pyright: ignore[reportAttributeAccessIssue] - a parameter of the model
        made.step()
        params = matrices(PARAMS, WEIGHTS)
        state = step.init(np, params)
        params, state = step.step(np, params, matrices(PARAMS, GRADIENTS[0]), state)
        params, _ = step.step(np, params, {name: 0.0 * p for name, p in params.items()}, state)
        assert far([matrices(PARAMS, layer.weights())], [params]) < EXACT

    @pytest.mark.parametrize("step", [OPTIMIZERS["AdamW"](RATE), OPTIMIZERS["Lion"](RATE)], ids=["AdamW", "Formula"])
    def test_training_goes_on_from_a_state_as_if_nothing_had_been(self, step: Step) -> None:
        layer = torch_layer()
        made = torch_optimizers.optimizer(step, layer)
        for number, gradients in enumerate(GRADIENTS):
            if number == STEPS // 2:
                kept, made = made.state_dict(), torch_optimizers.optimizer(step, layer)
                made.load_state_dict(kept)
            set_gradients(layer, gradients)
            made.step()
        assert far([layer.weights()], by_formula(step)[-1:]) < EXACT


class TestBudgets:
    ADAPTIVE: tuple[Step, ...] = (
        Adam(0.1),
        Adam(0.1, **DECAY),
        RMSprop(0.1),
        Adagrad(0.1, eps=1e-8),
        Adafactor(0.1, eps=0.0, floor=1e-6),
    )
    INSIDE: tuple[Step, ...] = (
        Adam(0.1, eps=0.0, eps_root=1e-8),
        Adam(0.1, eps=0.0, eps_root=1e-8, **DECAY),
        RMSprop(0.1, eps=0.0, eps_root=1e-8),
        Adagrad(0.1, eps=0.0, eps_root=1e-8),
        Adafactor(0.1, eps=1e-6),
    )

    @pytest.mark.parametrize("number", range(5), ids=["Adam", "AdamW", "RMSprop", "Adagrad", "Adafactor"])
    def test_one_step_near_eps_is_within_rounding_and_an_eps_inside_the_root_is_not(self, number: int) -> None:
        right, wrong = self.ADAPTIVE[number], self.INSIDE[number]
        probe = _narrow(step_probe(right, steps=1))
        budgets = StepBudgets(probe, "float32")
        wanted, sigma = formula(right, probe)[0], budgets.sigma(right)[0]
        for run in (_torch_step, _optax_step):
            for step, agrees in ((right, True), (wrong, False)):
                got = run(step, probe)
                verdicts = [judge(name, got[name], wanted[name], sigma[name]) for name in wanted]
                assert all(verdict.agrees for verdict in verdicts) is agrees, (run, step, *map(str, verdicts))


def _narrow(probe: StepProbe) -> StepProbe:
    """Return the probe in numbers of float32."""

    def rounded(arrays: Arrays) -> Arrays:
        return {name: x.astype(np.float32).astype(np.float64) for name, x in arrays.items()}

    return StepProbe(rounded(probe.params), tuple(map(rounded, probe.gradients)))


def _torch_step(step: Step, probe: StepProbe) -> Arrays:
    layer = nn.ParameterDict({name: nn.Parameter(torch.tensor(p, dtype=torch.float32)) for name, p in probe.params.items()})
    for name, p in layer.items():
        p.grad = torch.tensor(probe.gradients[0][name], dtype=torch.float32)
    torch_optimizers.optimizer(step, layer).step()
    return {name: p.detach().numpy() for name, p in layer.items()}


def _optax_step(step: Step, probe: StepProbe) -> Arrays:
    with jax.enable_x64(False):
        layer = nnx.Dict({name: nnx.Param(jnp.asarray(p, jnp.float32)) for name, p in probe.params.items()})
        params: Any = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
        made = jax_optimizers.optimizer(step, layer)
        gradients = {name: jnp.asarray(probe.gradients[0][name], jnp.float32) for name in params}
        return {name: np.asarray(p) for name, p in moved(made, gradients, made.init(params), params)[0].items()}


class TestValues:
    def test_torchs_clip_divides_by_the_norm_and_an_eps(self) -> None:
        # |(3, 4)| = 5, so that a bound of 1 leaves 1 / (5 + eps) of it.
        for eps in (1e-6, 0.0):
            step = SGD(1.0, clip=Clip(1.0, eps=eps))
            layer = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.float64))])
            layer[0].grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
            torch_optimizers.optimizer(step, layer).step()
            np.testing.assert_allclose(layer[0].detach().numpy(), [-3.0 / (5.0 + eps), -4.0 / (5.0 + eps)], rtol=1e-15)
            made: Any = jax_optimizers.optimizer(step, nnx.Dict({"p": nnx.Param(jnp.zeros(2))}))
            params = {"p": jnp.zeros(2)}
            updates, _ = made.update({"p": jnp.asarray([3.0, 4.0])}, made.init(params), params)
            np.testing.assert_allclose(updates["p"], [-3.0 / (5.0 + eps), -4.0 / (5.0 + eps)], rtol=1e-15)

    def test_adamws_bits_in_jax_are_those_of_optax_adamw(self) -> None:
        params: Any = {name: jnp.asarray(p, jnp.float32) for name, p in WEIGHTS.items()}
        gradients: Any = {name: jnp.asarray(g, jnp.float32) for name, g in GRADIENTS[0].items()}
        ours = jax_optimizers.optimizer(Adam(0.1, **DECAY), JaxLayer(Model()))
        one, other = (
            moved(made, gradients, made.init(params), params)[0] for made in (ours, optax.adamw(0.1, weight_decay=0.1))
        )
        assert all(np.array_equal(one[name], other[name]) for name in params)

    def test_adafactor_by_hand(self) -> None:
        # Rank one: R C / mean R is g^2 itself, and the update is the sign; RMS(p) = 2.
        g = np.outer([1.0, -2.0], [3.0, 5.0, -7.0])
        step = Adafactor(1e-2)
        after, state = step.step(np, {"p": np.full((2, 3), 2.0)}, {"p": g}, step.init(np, {"p": g}))
        np.testing.assert_allclose(after["p"], 2.0 - 2.0 * 1e-2 * np.sign(g), rtol=1e-14)
        assert (state.moments["R"]["p"].shape, state.moments["C"]["p"].shape) == ((2, 1), (1, 3))
        np.testing.assert_allclose(state.moments["C"]["p"], [[22.5, 62.5, 122.5]])

    def test_optaxs_adafactor_as_it_comes(self) -> None:
        # optax rounds b_t to float32 in every dtype, so this is no closer than that.
        step = Adafactor(0.1, relative=False, least_factored=3, factored_axes="largest")
        wanted, made = by_formula(step), optax.adafactor(0.1, min_dim_size_to_factor=3)
        params: Any = {name: jnp.asarray(p) for name, p in matrices(PARAMS, WEIGHTS).items()}
        state, after = made.init(params), []
        for gradients in GRADIENTS:
            params, state = moved(made, jax.tree.map(jnp.asarray, matrices(PARAMS, gradients)), state, params)
            after.append({name: np.asarray(p).reshape(PARAMS[name].shape) for name, p in params.items()})
        assert EXACT < far(after, wanted) < STEPS * 2.0**-24

    def test_a_schedule_of_ones_own_is_asked_in_every_step(self) -> None:
        class Halved(Schedule):
            def rate(self, count: int) -> float:
                return 0.1 * 0.5**count

        wanted = by_formula(SGD(Halved()))
        for backend, run in BACKENDS.items():
            assert far(run(SGD(Halved())), wanted) < EXACT, backend


class TestRefusals:
    def test_what_is_no_step_is_refused(self) -> None:
        for module, layer in ((torch_optimizers, nn.Linear(2, 2)), (jax_optimizers, nnx.Linear(2, 2, rngs=nnx.Rngs(0)))):
            with pytest.raises(OptionError, match=r"^step str must be a step such as spec.optimizers.Adam$"):
                _ = module.optimizer("adam", layer)

    def test_a_layer_that_learns_nothing_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"^layer Tanh must have a parameter that requires a gradient$"):
            _ = torch_optimizers.optimizer(SGD(0.1), nn.Tanh())
        with pytest.raises(OptionError, match=r"^layer Dropout must have an nnx.Param$"):
            _ = jax_optimizers.optimizer(SGD(0.1), nnx.Dropout(0.1))

    def test_a_tree_of_another_layer_is_refused_where_names_matter(self) -> None:
        made = jax_optimizers.optimizer(OPTIMIZERS["AdamW"](0.1), JaxLayer(Model()))
        with pytest.raises(ParamError, match=r"^parameter other \(2,\) must be one of proj.bias, proj.kernel, table"):
            _ = made.init({"other": jnp.zeros(2)})
        made = jax_optimizers.optimizer(Adafactor(0.1), JaxLayer(Model()))
        with pytest.raises(ParamError, match=r"^parameter proj.bias \(10,\) must be \(2, 5\)"):
            _ = made.init({name: jnp.asarray(p) for name, p in matrices(PARAMS, WEIGHTS).items()})

    def test_parameters_are_asked_for_where_they_are_needed(self) -> None:
        made = jax_optimizers.optimizer(Adagrad(0.1), JaxLayer(Model()))
        params = {name: jnp.asarray(p) for name, p in WEIGHTS.items()}
        with pytest.raises(ParamError, match=r"^params None must be the parameters"):
            _ = made.update(params, made.init(params))

    def test_optax_is_asked_for_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_extras, "find_spec", lambda _: None)
        with pytest.raises(MissingExtra, match=r"jax_impl.optimizer needs optax, .* pip install 'attention-parity\[all\]'"):
            _ = jax_optimizers.optimizer(SGD(0.1), JaxLayer(Model()))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"most_rms": 0.0}, "Adafactor most_rms 0.0 must be a finite number > 0 or None"),
            ({"steps_before": -1}, "Adafactor steps_before -1 must be an int >= 0"),
            ({"least_factored": 0}, "Adafactor least_factored 0 must be an int >= 1"),
            ({"factored_axes": "first"}, "Adafactor factored_axes 'first' must be 'last' or 'largest'"),
            ({"b1": 1.0}, "Adafactor b1 1.0 must be a number >= 0 and < 1"),
        ],
    )
    def test_an_option_of_adafactor_out_of_range_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(OptionError) as caught:
            _ = Adafactor(1e-2, **options)
        assert str(caught.value) == message
