"""Optimizers in JAX: a step of `spec.optimizers` as an optax transformation, with clipping, decay and schedule.

    made = optimizer(spec.optimizers.Adam(1e-3, weight_decay=0.01, decoupled=True, clip=spec.optimizers.Clip(1.0)), layer)
    state = made.init(nnx.state(layer, nnx.Param))        or nnx.Optimizer(layer, made, wrt=nnx.Param)

    chain:   scale g  ->  clip  ->  (+ w p)  ->  scale_by_...  ->  (+ w p)  ->  times -r(first_count + count)

Wherever optax lacks the requested step (an eps outside Adagrad's root, Adam without bias correction, dampening ...),
the piece is `by_formula`, which runs the spec's own equation on arrays. Nothing is approximated by an optimiser that only has
the same name.

A kernel (M, H, D) is a matrix and a bias (H, D) a vector for the optimiser: the layer's contract has the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from attention._extras import require
from attention.jax_impl.native_optimizers import native, rate_at, schedule
from attention.spec.errors import OptionError, ParamError, shown
from attention.spec.optimizers.optimizer import Step, matrix
from attention.spec.optimizers.schedules import Clip

if TYPE_CHECKING:
    import optax


def optimizer(step: Step, layer: nnx.Module) -> optax.GradientTransformation:
    """Return the optimiser of a layer's parameters.

    Args:
        step: what one step is.
        layer: any `nnx.Module`; its `nnx.Param`s are trained.

    Returns:
        An `optax.GradientTransformation` over `nnx.state(layer, nnx.Param)`, or over any tree of arrays with the same names.

    Raises:
        OptionError: `step` is no step, or `layer` has nothing to train.
        MissingExtra: optax is not installed.
    """
    require("optax", extra="all", wanted_by="jax_impl.optimizer")
    import optax  # noqa: PLC0415 - only training needs it

    if not isinstance(step, Step):
        raise OptionError(f"step {type(step).__name__} must be a step such as spec.optimizers.Adam")
    if not isinstance(layer, nnx.Module):
        raise OptionError(f"layer {shown(layer)} must be an nnx.Module")
    if not jax.tree.leaves(nnx.state(layer, nnx.Param)):
        raise OptionError(f"layer {type(layer).__name__} must have an nnx.Param")
    shapes = seen(layer)
    pieces = native(optax, step, max(len(shape) for shape in shapes.flat.values()))
    first = [optax.scale(step.gradient_scale)] if step.gradient_scale != 1.0 else []
    first += [_clip(optax, step.clip)] if step.clip else []
    if pieces is None:
        return optax.chain(*first, as_matrices(optax, by_formula(optax, step), shapes))
    if not step.ELEMENTWISE:
        return optax.chain(*first, as_matrices(optax, optax.chain(*_around(optax, step, pieces, None)), shapes))
    # Elementwise pieces leave the tree as it is, so that their state is sharded as the parameters are.
    return optax.chain(*first, *_around(optax, step, pieces, shapes))


@dataclass(frozen=True)
class Shapes:
    """What shape each parameter of a layer has, by its path, and the shape in which an optimiser sees it."""

    stored: dict[str, tuple[int, ...]]
    flat: dict[str, tuple[int, ...]]

    def of(self, tree: Any) -> list[tuple[int, ...]]:
        """Return the shapes in which the optimiser sees the leaves of a tree.

        Raises:
            ParamError: they are not the layer's.
        """
        found: list[tuple[int, ...]] = []
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name, shape = _name(path), tuple(leaf.shape)
            if self.stored.get(name) != shape:
                wanted = self.stored.get(name) or f"one of {', '.join(self.stored)}"
                raise ParamError(f"parameter {name} {shape} must be {wanted}, as in the layer the optimiser was made for")
            found.append(self.flat[name])
        return found


def seen(layer: nnx.Module) -> Shapes:
    """Return the shapes of a layer's parameters: from its contract, or from the arrays of a plain module."""
    paths = jax.tree_util.tree_flatten_with_path(nnx.state(layer, nnx.Param))[0]
    stored = {_name(path): tuple(leaf.shape) for path, leaf in paths}
    flat: dict[str, tuple[int, ...]] = {}
    # Innermost first: only the layer to which it belongs tells a loose parameter from a bias.
    for path, module in sorted(nnx.iter_modules(layer), key=lambda found: -len(found[0])):
        for name, param in getattr(getattr(module, "contract", None), "params", {}).items():
            _ = flat.setdefault(".".join([*map(str, path), name]), matrix(name, param))
    return Shapes(stored, {name: flat.get(name, shape) for name, shape in stored.items()})


def _name(path: Any) -> str:
    # The last step of a path through nnx.State is from a Variable to its value.
    inner = path[:-1] if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value" else path
    return ".".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in inner)


def as_matrices(optax: Any, inner: Any, shapes: Shapes) -> Any:
    """Return a transformation that sees kernels as matrices and biases as vectors; its state is a list of those."""

    def flat(tree: Any) -> list[jax.Array]:
        return [leaf.reshape(shape) for leaf, shape in zip(jax.tree.leaves(tree), shapes.of(tree), strict=True)]

    def init(params: Any) -> Any:
        return inner.init(flat(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ParamError(f"params None must be the parameters that {len(jax.tree.leaves(updates))} gradients are of")
        moved, state = inner.update(flat(updates), state, flat(params))
        leaves, kind = jax.tree.flatten(updates)
        return kind.unflatten([u.reshape(g.shape) for u, g in zip(moved, leaves, strict=True)]), state

    return optax.GradientTransformation(init, update)


def _around(optax: Any, step: Step, pieces: list[Any], shapes: Shapes | None) -> list[Any]:
    """Return what makes u of a gradient between its decay and its rate."""
    rate = schedule(optax, step)
    rated = step.ELEMENTWISE and not getattr(step, "rate_in_sum", False)
    last = [optax.scale_by_learning_rate(rate)] if rated else []

    def decay(weight: Any) -> list[Any]:
        mask = (lambda tree: _decaying(step, tree, shapes)) if step.decayed == "matrices" else None
        return [optax.add_decayed_weights(weight, mask=mask)] if step.weight_decay else []

    if not step.decoupled:
        return [*decay(step.weight_decay), *pieces, *last]
    if rated and step.decay_times_rate:
        return [*pieces, *decay(step.weight_decay), *last]
    if not step.decay_times_rate:
        return [*pieces, *last, *decay(-step.weight_decay)]
    return [*pieces, *decay(lambda count: -step.weight_decay * rate_at(rate, count))]


def _decaying(step: Step, tree: Any, shapes: Shapes | None) -> Any:
    """Return the tree with True where something decays; without shapes, the leaves are matrices and vectors already."""
    leaves, kind = jax.tree.flatten(tree)
    ranks = [leaf.ndim for leaf in leaves] if shapes is None else [len(shape) for shape in shapes.of(tree)]
    return kind.unflatten([not step.spares(rank) for rank in ranks])


def _clip(optax: Any, bound: Clip) -> Any:
    if bound.by == "value":
        return optax.clip(bound.most)
    if bound.by == "global norm" and not bound.eps:
        return optax.clip_by_global_norm(bound.most)

    # optax adds no eps to a norm, and has no clipping per tensor.
    def clipped(updates: Any, params: Any = None) -> Any:
        del params
        leaves, kind = jax.tree.flatten(updates)
        bounded = bound.clipped(jnp, {str(number): g for number, g in enumerate(leaves)})
        return kind.unflatten([bounded[str(number)] for number in range(len(leaves))])

    return optax.stateless(clipped)


class FormulaState(NamedTuple):
    """What `by_formula` leaves to the next step: steps made, and the running sums of each leaf."""

    steps: jax.Array
    moments: list[dict[str, jax.Array]]


def by_formula(optax: Any, step: Step) -> Any:
    """Return the spec's equation of a step as a transformation, for steps that optax lacks."""
    rate = schedule(optax, step)

    def init(params: Any) -> FormulaState:
        started = [step.init(jnp, {"p": p}).moments for p in jax.tree.leaves(params)]
        return FormulaState(jnp.zeros([], jnp.int32), [{k: v["p"] for k, v in moments.items()} for moments in started])

    def update(updates: Any, state: FormulaState, params: Any = None) -> tuple[Any, FormulaState]:
        leaves, kind = jax.tree.flatten(updates)
        now = rate_at(rate, state.steps)
        changes = [
            step.change(jnp, p, g, moments, state.steps + 1, now)
            for p, g, moments in zip(jax.tree.leaves(params), leaves, state.moments, strict=True)
        ]
        moments = [
            {k: v.astype(old[k].dtype) for k, v in new.items()} for (_, new), old in zip(changes, state.moments, strict=True)
        ]
        return kind.unflatten([-less for less, _ in changes]), FormulaState(state.steps + 1, moments)

    return optax.GradientTransformation(init, update)
