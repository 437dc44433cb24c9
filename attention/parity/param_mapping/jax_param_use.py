"""Follow the parameters of a JAX program through its jaxpr, which is traced from shapes alone.

dot_general sums over axes of a kernel, conv_general_dilated says which of its axes is which; a scan is followed turn by turn.
"""

# JAX leaves the types of its arrays unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
from jax.extend.core import Literal

from attention.parity.adapters.jax_program import JaxProgram, width
from attention.parity.adapters.program import Call
from attention.parity.param_mapping.param_use import Uses, View, product_roles

Seen = View | frozenset[int] | None
"""What an array is: part of a parameter; made of inputs, then the last parameters it was computed with; None: a constant."""
NOTHING: frozenset[int] = frozenset()
MOST_TURNS = 256
"""Turns of a scan that are followed."""

_SUMS = frozenset({"add", "sub", "add_any"})
_SCALES = frozenset({"mul", "div"})
_KEEPS = frozenset(
    [
        "convert_element_type",
        "copy",
        "copy_p",
        "stop_gradient",
        "neg",
        "exp",
        "log",
        "tanh",
        "logistic",
        "abs",
        "sqrt",
        "rsqrt",
        "square",
        "integer_pow",
        "sign",
        "name",
        "reduce_precision",
        "optimization_barrier",
        "sharding_constraint",
        "pvary",
    ]
)
_JOINS = frozenset({"concatenate", "select_n", "max", "min", "pad", "dynamic_update_slice", "clamp"})


def uses_of(program: JaxProgram, call: Call) -> Uses:
    """Return how a program uses its parameters, in order.

    Raises:
        Exception: whatever tracing the program raises.
    """
    with width(None):
        learned, args, kwargs = program.arguments(call)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in learned.items()}
        args, kwargs = jax.tree.map(jax.numpy.asarray, (args, kwargs))
        # A dict is flattened in the order of its sorted names.
        params: list[Seen] = [View.whole(name, learned[name].shape) for name in sorted(learned)]
        try:
            closed = jax.make_jaxpr(lambda p, a, k: program.outputs(program.pure(p, a, k)))(shapes, args, kwargs)
            operands, constant = [*params, *(NOTHING for _ in closed.in_avals[len(params) :])], None
        except jax.errors.JAXTypeError:
            # A program that looks at the values of its inputs is traced with them in place.
            closed = jax.make_jaxpr(lambda p: program.outputs(program.pure(p, args, kwargs)))(shapes)
            operands, constant = params, NOTHING
    reader = _Reader(constant)
    reader.read(closed, operands)
    return reader.uses


class _Reader:
    """Follows a jaxpr.

    Args:
        constant: what an array is that is no operand: None, or `NOTHING` where inputs are among them.
    """

    def __init__(self, constant: Seen) -> None:
        self.uses = Uses()
        self.constant = constant

    def read(self, jaxpr: Any, operands: Sequence[Seen]) -> list[Seen]:
        """Follow the equations of a jaxpr, open or closed."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        seen: dict[Any, Seen] = dict(zip(jaxpr.invars, operands, strict=True))

        def of(atom: Any) -> Seen:
            return None if isinstance(atom, Literal) else seen.get(atom, self.constant)

        for eqn in jaxpr.eqns:
            made = self._equation(eqn, [of(atom) for atom in eqn.invars])
            seen.update(zip(eqn.outvars, made, strict=True))
        return [of(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Seen]) -> list[Seen]:
        name, p = eqn.primitive.name, eqn.params
        if name in _LOOPS:
            return _LOOPS[name](self, eqn, inputs)
        body = next((p[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in p), None)
        if body is not None and len(getattr(body, "jaxpr", body).invars) == len(inputs):
            return self.read(body, inputs)
        if name in _MOVES and isinstance(inputs[0], View):
            return [_MOVES[name](inputs[0], eqn)]
        if name in _KEEPS and len(inputs) == 1:
            return list(inputs)
        if all(x is None for x in inputs):
            return [None] * len(eqn.outvars)
        return [self._used(eqn, name, inputs)] * len(eqn.outvars)

    def _used(self, eqn: Any, name: str, inputs: list[Seen]) -> Seen:
        """Return what an equation makes of parameters and other arrays."""
        views = [x for x in inputs if isinstance(x, View)]
        after = self.uses.last(x for x in inputs if isinstance(x, frozenset))
        if not views:
            return after
        shape = eqn.outvars[0].aval.shape
        if not self._depends(eqn, inputs) and name in _SUMS | _SCALES and len({view.name for view in views}) == 1:
            # 1 + scale, or scale times a constant such as 1 / sqrt(running variance), is still the scale.
            return views[0] if views[0].shape == shape else replace(views[0], shape=shape, strides=None)
        if name in _JOINS:
            # A token that stands beside others is computed with nothing.
            return self.uses.last([after, *(self.uses.add(view, "other", {}, NOTHING) for view in views)])
        made = NOTHING
        for view in views:
            kind, roles = self._kind(eqn, name, inputs, view)
            made = self.uses.last([made, self.uses.add(view, kind, roles, after)])
        return made

    def _depends(self, eqn: Any, inputs: list[Seen]) -> bool:
        """Return whether an operand beside the parameter is made of parameters, or of inputs and more than a number."""
        others = [(x, atom) for x, atom in zip(inputs, eqn.invars, strict=True) if isinstance(x, frozenset)]
        return any(x or atom.aval.size > 1 for x, atom in others)

    def _kind(self, eqn: Any, name: str, inputs: list[Seen], view: View) -> tuple[str, dict[str, Any]]:
        p, side = eqn.params, next(at for at, x in enumerate(inputs) if x is view)
        if name == "dot_general":
            (summed, batch), others = (pair[side] for pair in p["dimension_numbers"]), p["dimension_numbers"][0][1 - side]
            order = sorted(range(len(summed)), key=lambda each: others[each])
            return "product", product_roles(view, batch, [summed[each] for each in order])
        if name == "conv_general_dilated" and side == 1:
            out, inner, *window = p["dimension_numbers"].rhs_spec
            return "product", {"in": view.digits([inner]), "out": view.digits([out]), "window": view.digits(window)}
        if name in {"gather", "dynamic_slice", "take"} and side == 0:
            return "gather", {"in": view.digits([0]), "out": view.digits(range(1, len(view.shape)))}
        return "sum" if name in _SUMS else "scale" if name in _SCALES else "other", {}

    def _joined(self, several: Sequence[Seen]) -> Seen:
        if all(isinstance(x, View) and x == several[0] for x in several):
            return several[0]
        return None if all(x is None for x in several) else self.uses.last(x for x in several if isinstance(x, frozenset))

    def _cond(self, eqn: Any, inputs: list[Seen]) -> list[Seen]:
        made = [self.read(branch, inputs[1:]) for branch in eqn.params["branches"]]
        return [self._joined(each) for each in zip(*made, strict=True)]

    def _while(self, eqn: Any, inputs: list[Seen]) -> list[Seen]:
        return self.read(eqn.params["body_jaxpr"], inputs[eqn.params["cond_nconsts"] :])

    def _scan(self, eqn: Any, inputs: list[Seen]) -> list[Seen]:
        p = eqn.params
        # JAX 0.11 groups the operands where 0.10 counts them.
        n, m = map(len, p["ft_in"].unpack()[:2]) if "ft_in" in p else (p["num_consts"], p["num_carry"])
        constants, carry, xs = inputs[:n], inputs[n : n + m], inputs[n + m :]
        stacked = any(isinstance(x, View) for x in xs)
        # Without parameters of its own every turn is as the second.
        turns = min(p["length"], MOST_TURNS if stacked else 2)
        made: list[list[Seen]] = []
        order = range(p["length"] - turns, p["length"])[::-1] if p["reverse"] else range(turns)
        for turn in order:
            results = self.read(p["jaxpr"], [*constants, *carry, *(_row(x, turn) for x in xs)])
            carry = results[:m]
            made.append(results[m:])
        outputs = [self._joined(each) for each in zip(*made, strict=True)] if made else [NOTHING] * (len(eqn.outvars) - m)
        return [*carry, *outputs]


_LOOPS: dict[str, Callable[[_Reader, Any, list[Seen]], list[Seen]]] = {
    "scan": _Reader._scan,  # noqa: SLF001 the class's own file
    "cond": _Reader._cond,  # noqa: SLF001
    "while": _Reader._while,  # noqa: SLF001
}


def _row(x: Seen, turn: int) -> Seen:
    if not isinstance(x, View):
        return x
    if x.strides is None:
        return replace(x, shape=x.shape[1:])
    return View(x.name, x.start + turn * x.strides[0], x.shape[1:], x.strides[1:])


def _transpose(view: View, eqn: Any) -> View:
    return _permuted(view, eqn.params["permutation"])


def _permuted(view: View, order: Sequence[int]) -> View:
    strides = None if view.strides is None else tuple(view.strides[axis] for axis in order)
    return replace(view, shape=tuple(view.shape[axis] for axis in order), strides=strides)


def _slice(view: View, eqn: Any) -> View:
    shape = eqn.outvars[0].aval.shape
    if view.strides is None:
        return replace(view, shape=shape)
    step = eqn.params["strides"] or (1,) * len(shape)
    start = view.start + sum(low * stride for low, stride in zip(eqn.params["start_indices"], view.strides, strict=True))
    return View(view.name, start, shape, tuple(stride * by for stride, by in zip(view.strides, step, strict=True)))


def _broadcast(view: View, eqn: Any) -> View:
    shape = eqn.outvars[0].aval.shape
    if view.strides is None:
        return replace(view, shape=shape)
    at = {axis: own for own, axis in enumerate(eqn.params["broadcast_dimensions"])}
    strides = tuple(
        view.strides[at[axis]] if axis in at and view.shape[at[axis]] == size else 0 for axis, size in enumerate(shape)
    )
    # A broadcast array counts no further elements.
    kept = tuple(size if stride else 1 for size, stride in zip(shape, strides, strict=True))
    return replace(view, shape=kept if kept == shape else shape, strides=strides)


def _reshape(view: View, eqn: Any) -> View:
    if (order := eqn.params.get("dimensions")) is not None and eqn.primitive.name == "reshape":
        view = _permuted(view, order)
    return view.reshaped(eqn.outvars[0].aval.shape)


_MOVES: dict[str, Callable[[View, Any], View]] = {
    "transpose": _transpose,
    "slice": _slice,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
}
