"""The jaxpr interpreter: evaluates a jaxpr in NumPy float64, one primitive at a time, with nothing compiled.

    JaxprInterpreter().run(jaxpr, arguments) = outputs        scans, loops, branches and calls included
    apply(equation, operands) = results                       of one primitive, by a rule of `primitives.py` or by JAX's own

A probe runs a few times only, and compiling it would take a hundred times longer than running it.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from attention.parity.numerics.array_kinds import concrete, is_float, is_key, wide, widened
from attention.parity.numerics.primitives import INTEGERS, MOVES, RULES, SCATTERS, Rule

Array = Any


# The body of a call is run inline.
CALLS = frozenset(
    """
    call closed_call composite core_call custom_jvp_call custom_vjp_call custom_vmap_call eval_jaxpr jit program_order
    remat2
    """.split()  # noqa: SIM905 a table of names is easier to read than a column of quoted lines
)


class JaxprInterpreter:
    """Evaluates jaxprs exactly. A subclass may override `results`, such as to round them."""

    def run(self, jaxpr: Any, arguments: Sequence[Array], fixed: Sequence[bool] = ()) -> list[Array]:
        """Return the outputs of a jaxpr, open or closed.

        Args:
            jaxpr: of the program.
            arguments: in float64.
            fixed: which of them are constants of the enclosing program; none if empty.
        """
        constants = [widened(concrete(c)) for c in getattr(jaxpr, "consts", ())]
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

        def value(atom: Any) -> Array:
            if isinstance(atom, Var):
                return values[atom]
            return atom.val if is_key(atom.aval) else widened(np.asarray(atom.val, atom.aval.dtype))

        constant = {*jaxpr.constvars, *(v for v, is_fixed in zip(jaxpr.invars, fixed, strict=False) if is_fixed)}
        for eqn in jaxpr.eqns:
            operands = [value(atom) for atom in eqn.invars]
            flags = [not isinstance(atom, Var) or atom in constant for atom in eqn.invars]
            if all(flags):
                constant.update(eqn.outvars)
            name = eqn.primitive.name
            if name in CALLS:
                results = self.run(_body(eqn), operands, flags)
            elif name in LOOPS:
                results = LOOPS[name](self, eqn, operands)
            else:
                results = self.results(eqn, operands, constant=all(flags))
            values.update(zip(eqn.outvars, results, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    def results(self, eqn: Any, operands: list[Array], *, constant: bool) -> list[Array]:
        """Return the results of one primitive.

        Args:
            eqn: of the primitive.
            operands: in float64.
            constant: whether all operands are constants of the program.
        """
        del constant
        return apply(eqn, _whole(operands) if eqn.primitive.name == "pow" else operands)

    @contextmanager
    def branch(self) -> Generator[None]:
        """Enter code that another run of the same program may skip, or repeat another number of times."""
        yield


def apply(eqn: Any, operands: Sequence[Array]) -> list[Array]:
    """Return the exact results of one primitive, in float64 even where the program asks for fewer digits."""
    rule = _rule(eqn.primitive.name, operands)
    if rule is not None:
        made = rule(eqn.params, *operands)
        return [np.asarray(x) for x in (made if eqn.primitive.multiple_results else [made])]
    if eqn.primitive.name in SCATTERS and len(operands) == 3:
        return [widened(np.asarray(SCATTERS[eqn.primitive.name](eqn.params, *operands)))]
    params = eqn.primitive.get_bind_params(eqn.params)
    if eqn.primitive.name != "bitcast_convert_type":
        params = params | {name: wide(kind) for name, kind in params.items() if isinstance(kind, np.dtype)}
    results = eqn.primitive.bind(*operands, **params)
    return [widened(concrete(o)) for o in (results if eqn.primitive.multiple_results else [results])]


def _rule(name: str, operands: Sequence[Array]) -> Rule | None:
    """Return the rule of a primitive on these operands, or None where JAX's own has to be bound."""
    if any(map(is_key, operands)):
        return None
    if name in MOVES or all(is_float(x) or x.dtype == bool for x in operands):
        return RULES.get(name)
    return INTEGERS.get(name) if all(x.dtype.kind in "iub" for x in operands) else None


def _whole(operands: list[Array]) -> list[Array]:
    """Return base and exponent, the exponent a whole number where the base is negative: no other has a power there."""
    base, exponent = operands
    return [base, np.where(np.less(base, 0), np.rint(exponent), exponent)] if is_float(base) else operands


def _body(eqn: Any) -> Any:
    return next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in eqn.params)


def _scan(interpreter: JaxprInterpreter, eqn: Any, operands: list[Array]) -> list[Array]:
    p = eqn.params
    # JAX 0.11 groups the operands where 0.10 counts them.
    n, m = map(len, p["ft_in"].unpack()[:2]) if "ft_in" in p else (p["num_consts"], p["num_carry"])
    constants, carry, xs = operands[:n], operands[n : n + m], operands[n + m :]
    rows: list[list[Array]] = []
    order = range(p["length"])
    for i in reversed(order) if p["reverse"] else order:
        results = interpreter.run(p["jaxpr"], [*constants, *carry, *(x[i] for x in xs)])
        carry = results[:m]
        rows.append(results[m:])
    if p["reverse"]:
        rows.reverse()
    if not rows:
        # Nothing ran, so that only the jaxpr knows the shapes.
        return [*carry, *(np.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars[m:])]
    return [*carry, *map(_stacked, zip(*rows, strict=True))]


def _stacked(rows: Sequence[Array]) -> Array:
    return jnp.stack(rows) if is_key(rows[0]) else np.stack(rows)


def _while(interpreter: JaxprInterpreter, eqn: Any, operands: list[Array]) -> list[Array]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    state = operands[m:]
    with interpreter.branch():
        while interpreter.run(p["cond_jaxpr"], [*operands[:n], *state])[0]:
            state = interpreter.run(p["body_jaxpr"], [*operands[n:m], *state])
    return state


def _cond(interpreter: JaxprInterpreter, eqn: Any, operands: list[Array]) -> list[Array]:
    branches = eqn.params["branches"]
    # As XLA does, an index out of range takes the nearest branch.
    with interpreter.branch():
        return interpreter.run(branches[min(max(int(operands[0]), 0), len(branches) - 1)], operands[1:])


LOOPS: dict[str, Callable[[JaxprInterpreter, Any, list[Array]], list[Array]]] = {"scan": _scan, "while": _while, "cond": _cond}
