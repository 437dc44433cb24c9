"""Read and write the weights of the models that a run trains.

an architecture's       model.load_weights(w), model.weights()          canonical names
a user's own pair       torch's names and layout; JAX's by a ParamMap   forward(w) = JAX's, backward = its inverse
"""

# Models come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flax import nnx
from torch import nn

from attention.parity.adapters.jax_callables import split
from attention.parity.param_mapping import ParamMap, match
from attention.parity.training.recipe import Recipe
from attention.spec.errors import OptionError, ParamError
from attention.spec.params import Weights
from attention.torch_impl.params import to_numpy, to_tensor


@dataclass(frozen=True)
class Model:
    """The model that one backend trains.

    Args:
        build: makes it anew.
        load: writes weights into it.
        read: returns its weights.
    """

    build: Callable[[], Any]
    load: Callable[[Any, Weights], None]
    read: Callable[[Any], Weights]


def models(recipe: Recipe) -> tuple[Weights, dict[str, Model]]:
    """Return the first weights of a recipe, and what each backend trains.

    Raises:
        OptionError: without an architecture, the models are no `nn.Module` and `nnx.Module`.
        ParamError: their parameters do not belong together.
    """
    if recipe.architecture is None:
        return _pair(recipe)
    return recipe.weights(), {name: _described(recipe, name) for name in recipe.models}


def _described(recipe: Recipe, backend: str) -> Model:
    build = recipe.models[backend]
    return Model(lambda: build(recipe.architecture), lambda model, w: model.load_weights(w), lambda model: model.weights())


def _pair(recipe: Recipe) -> tuple[Weights, dict[str, Model]]:
    ours, theirs = recipe.models["torch"], recipe.models["jax"]
    for name, model, kind in (("torch", ours, nn.Module), ("jax", theirs, nnx.Module)):
        if not isinstance(model, kind):
            wanted = f"an {'nn' if name == 'torch' else 'nnx'}.Module, as there is no architecture"
            raise OptionError(f"Recipe models[{name!r}] {type(model).__name__} must be {wanted}")
    found = match(ours, theirs, given=recipe.params)
    left = [f"{name} of {side}" for side, names in zip(("torch", "jax"), found.left_over, strict=True) for name in names]
    if left or not found.moves:
        raise ParamError(f"parameters {', '.join(left) or 'of both models'} must have a counterpart: say which in params=")
    frozen = [name for name, p in ours.named_parameters() if not p.requires_grad]
    if frozen:
        raise ParamError(f"parameters {', '.join(frozen)} of torch must require a gradient: JAX trains every nnx.Param")
    own = _torch_weights(ours)
    start = own if recipe.start is None else recipe.weights()
    _check_start(own, start)
    return start, {
        "torch": Model(lambda: copy.deepcopy(ours), _load_torch, _torch_weights),
        "jax": Model(lambda: nnx.clone(theirs), _loader(found), _reader(found)),
    }


def _check_start(own: Weights, start: Mapping[str, Any]) -> None:
    """Raise ParamError unless a pair starts from arrays like those of torch's model."""
    if set(own) != set(start):
        raise ParamError(f"start {', '.join(sorted(start))} must be the parameters of torch's model: {', '.join(sorted(own))}")
    for name, wanted in own.items():
        given = start[name]
        got = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
        if got != f"{wanted.dtype} {wanted.shape}":
            raise ParamError(f"start {name} {got} must be {wanted.dtype} {wanted.shape}, as torch's model has it")


def _torch_weights(model: nn.Module) -> Weights:
    return {name: to_numpy(p) for name, p in model.named_parameters()}


@torch.no_grad()
def _load_torch(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    for name, p in model.named_parameters():
        _ = p.copy_(to_tensor(weights[name]))


def _loader(found: ParamMap) -> Callable[[Any, Weights], None]:
    def load(model: Any, weights: Weights) -> None:
        _, fill = split(nnx.state(model, nnx.Param), joint=".")
        nnx.update(model, fill(found.forward(weights)))

    return load


def _reader(found: ParamMap) -> Callable[[Any], Weights]:
    def read(model: Any) -> Weights:
        arrays, _ = split(nnx.state(model, nnx.Param), joint=".")
        return found.backward({name: np.asarray(x) for name, x in arrays.items()})

    return read
