"""A training recipe: model, loss, batches, optimiser, seed and number of steps, so that both frameworks run the same training.

weights[0] = start, or architecture.init(seed)        batch[n] = batches(n)        dropout seed[n] = bits(key(seed), n)
weights[n + 1] = optimizer(weights[n], gradient of loss(model, batch[n], dropout seed[n]))
"""

# Recipes come from users' code, so their types are checked here.
# pyright: reportUnnecessaryIsInstance=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.spec import random
from attention.spec.errors import OptionError, ParamError, shown
from attention.spec.layers.architecture import Architecture
from attention.spec.numbers import is_count
from attention.spec.optimizers.optimizer import Step
from attention.spec.options import checked, whole
from attention.spec.params import Weights

Batch = Mapping[str, np.ndarray]
"""The inputs of one step: NumPy arrays by name, which each backend receives as its own arrays."""

Loss = Callable[[Any, Mapping[str, Any], Any], Any]
"""`loss(model, batch, seed)`: a scalar of the framework; `seed` is the step's dropout seed, an integer or a traced one."""

BACKENDS = ("torch", "jax")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run for both frameworks.

    Args:
        architecture: of the model; it gives the initial weights. None if `models` are a user's own pair.
        models: by backend, a function of the architecture that builds the model. Without an architecture, the
            models themselves, an `nn.Module` and an `nnx.Module`: copies of them are trained, from torch's values.
        losses: by backend, `loss(model, batch, seed)`.
        optimizer: the intended step, with its schedule and clipping.
        batches: returns the batch of step n, counted from 0; always the same one.
        steps: how many.
        seed: of the first weights and of every dropout mask.
        start: the initial weights, if not those of the architecture or of torch's model.
        optimizers: by backend, the user's own in place of `optimizer`: another step; of torch, a function of
            parameters that returns an optimiser, or a tuple of what is called or stepped in this order; of JAX, an
            `optax.GradientTransformation`.
        params: without an architecture, how the models' parameters belong together, as `parity.match` takes it.

    Raises:
        OptionError: a field is invalid.
    """

    architecture: Architecture | None
    models: Mapping[str, Any]
    losses: Mapping[str, Loss]
    optimizer: Step
    batches: Callable[[int], Batch]
    steps: int
    seed: int = 0
    start: Weights | None = field(default=None, repr=False)
    optimizers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    params: Any = None

    def __post_init__(self) -> None:
        _check(
            self,
            "architecture",
            self.architecture is None or isinstance(self.architecture, Architecture),
            "an Architecture or None",
        )
        _check(self, "optimizer", isinstance(self.optimizer, Step), "a step such as spec.optimizers.Adam(1e-3)")
        _check(self, "batches", callable(self.batches), "a function of the step")
        _check(self, "steps", is_count(self.steps), "an int >= 1")
        _check(self, "seed", is_count(self.seed, 0), "an int >= 0")
        for name in ("models", "losses"):
            _check_backends(self, name)
        known = isinstance(self.optimizers, Mapping) and set(self.optimizers) <= set(BACKENDS)
        _check(self, "optimizers", known, "a mapping of 'torch' or 'jax' to what each takes")
        if self.start is not None and not (isinstance(self.start, Mapping) and self.start):
            raise OptionError(f"Recipe start {type(self.start).__name__} must be weights by name")
        if self.params is not None and self.architecture is not None:
            raise OptionError("Recipe params must be None where an architecture names the parameters")

    def weights(self) -> Weights:
        """Return the initial weights, the same bits in every framework.

        Raises:
            ParamError: there is no architecture.
        """
        if self.start is not None:
            return dict(self.start)
        if self.architecture is None:
            raise ParamError("weights of a recipe without an architecture are those of its models")
        return self.architecture.init(self.seed)

    @checked(step=whole(0))
    def dropout_seed(self, step: int) -> int:
        """Return the seed of every dropout mask of a step, a 32-bit word."""
        return int(random.bits(random.key(self.seed), np.int64(step)))

    @checked(step=whole(0))
    def batch(self, step: int) -> Batch:
        """Return the batch of a step, checked.

        Raises:
            OptionError: it contains something other than arrays of numbers.
        """
        found = self.batches(step)
        if not isinstance(found, Mapping):
            raise OptionError(f"batches({step}) {type(found).__name__} must be a dict of NumPy arrays")
        for name, array in found.items():
            if not isinstance(array, np.ndarray):
                raise OptionError(f"batches({step})[{name!r}] {type(array).__name__} must be a NumPy array")
            if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
                raise OptionError(f"batches({step})[{name!r}] of dtype {array.dtype} must hold numbers")
            _check_narrow(f"batches({step})[{name!r}]", array)
        return found


def _check_narrow(name: str, array: np.ndarray) -> None:
    """Raise OptionError for arrays of more than 32 bits, which JAX would round."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        raise OptionError(f"{name} of dtype {array.dtype} must be float32 or narrower, to which JAX would round it")
    if array.dtype.kind in "iu" and array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise OptionError(f"{name} from {array.min()} to {array.max()} must fit in 32 bits, which JAX would cut it to")


def _check(recipe: Recipe, name: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise OptionError(f"Recipe {name} {shown(getattr(recipe, name))} must be {wanted}")


def _check_backends(recipe: Recipe, name: str) -> None:
    given: Any = getattr(recipe, name)
    if not isinstance(given, Mapping) or set(given) != set(BACKENDS):
        got = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise OptionError(f"Recipe {name} {got or 'of nothing'} must be a mapping of 'torch' and 'jax'")
    if name == "models" and recipe.architecture is None:
        return
    wrong = [backend for backend in BACKENDS if not callable(given[backend])]
    if wrong:
        raise OptionError(f"Recipe {name}[{wrong[0]!r}] {type(given[wrong[0]]).__name__} must be callable")
