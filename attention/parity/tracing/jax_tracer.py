"""Record a JAX program: evaluate its jaxpr in NumPy, one equation at a time, through every call and loop.

    jit(f)(x)    ->    the equations of f, each with the line of f that made it, or else with the line of the call

A loop is unrolled: each turn leaves its own events. Where the program narrows, the values are narrowed: a run in float64 keeps
what the program calls float32 in float64, and what it calls bfloat16 in bfloat16.
"""

# JAX leaves the types of its arrays and equations unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Var

from attention.parity.adapters.jax_program import JaxProgram, width
from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.user_errors import attributed_to, described
from attention.parity.numerics.array_kinds import is_float, widened
from attention.parity.numerics.jaxpr_interpreter import CALLS
from attention.parity.tracing.jax_backward import forward_of, with_gradients
from attention.parity.tracing.jax_loops import LOOPS
from attention.parity.tracing.jax_rules import evaluated, is_key, plain
from attention.parity.tracing.jax_source_lines import own_lines
from attention.parity.tracing.run_precision import literal, own_dtype, own_eps, rounded, unit
from attention.parity.tracing.source_location import Frame, Place, is_direct, library, places, within
from attention.parity.tracing.trace import Recording, Step, cotangent
from attention.spec.errors import OptionError, SideFailed

Array = Any
Where = tuple[Place, ...]


def record_jax(
    program: JaxProgram, call: Call, params: Arrays | None, dtype: str | None, *, gradients: bool, weights: Arrays | None = None
) -> Recording:
    """Trace a program, evaluate it and return every event.

    Args:
        program: a program in JAX.
        call: the inputs.
        params: values to use instead of the program's own.
        dtype: what float parameters and inputs are cast to.
        gradients: whether the program `(inputs, cotangents) -> (outputs, gradients)` is traced instead.
        weights: the cotangents by the names of outputs, where these have their shapes; `cotangent(output)` otherwise.

    Raises:
        SideFailed: the program raised, or returned what is no array.
    """
    recording = Recording("jax", around=partial(_around, dtype))
    with _around(dtype):
        learned, args, kwargs = program.arguments(call, params, dtype)
        given = {**learned, **Call(args, kwargs).leaves}
        own = own_dtype(program.params) if dtype == "float64" else None
        recorder = Recorder(recording, dtype, {name: "param" if name in learned else "input" for name in given}, own)
        forward = forward_of(program, learned, Call(args, kwargs))
        found = recorder.run(program.name, forward, given)
        if gradients:
            # The backward program repeats the forward one, whose stops it may have dropped.
            stops = list(recording.stops)
            del recording.events[:], recording.steps[:]
            weights = {n: _weights(x, (weights or {}).get(n)) for n, x in recorder.last.items() if x.dtype == np.float64}
            both = with_gradients(forward, given, list(weights))
            with own_lines():
                found = recorder.run(
                    program.name, both, {**given, **{f"cotangent of {name}": x for name, x in weights.items()}}
                )
            recording.stops[:] = stops
    recording.close(found)
    return recording


def _weights(output: Array, given: Array | None) -> Array:
    return cotangent(output) if given is None or given.shape != output.shape else given


@contextmanager
def _around(dtype: str | None) -> Iterator[None]:
    """Evaluate as wide as the run is, and on the CPU, whatever accelerator is there."""
    with width(dtype), jax.default_device(jax.devices("cpu")[0]), np.errstate(all="ignore"):
        yield


class Recorder:
    """Evaluates jaxprs and records what they make.

    Args:
        recording: what is appended to.
        dtype: of the run.
        roles: of the arguments, by name; what has none is a cotangent.
        own: the dtype whose machine epsilon the program reads; None for that of the run.
    """

    def __init__(
        self, recording: Recording, dtype: str | None, roles: dict[str, str] | None = None, own: str | None = None
    ) -> None:
        self.recording, self.dtype, self.roles, self.own = recording, dtype, roles or {}, own
        self.last: Arrays = {}
        # Of the scans that are being run.
        self.turns: tuple[int, ...] = ()

    def run(self, name: str, function: Callable[..., dict[str, Array]], given: Arrays) -> dict[str, int]:
        """Record a function of named arrays, and return the events of its outputs."""
        jaxpr, shapes = _traced(name, function, given, self.dtype)
        # A dict is flattened in the order of its sorted names.
        leaves = [self.leaf(plain(given[name]), name) for name in sorted(given)]
        try:
            made = self.read(jaxpr, leaves, ())
        # What no rule of ours evaluates, such as a random key, is no mistake of the program.
        except Exception as error:  # noqa: BLE001
            raise OptionError(f"{name} cannot be traced: {described(error)}") from None
        found = dict(zip(sorted(shapes), made, strict=True))
        self.last = {path: self.recording.events[i].value for path, i in found.items()}
        return {path: found[path] for path in shapes}

    def leaf(self, x: Array, name: str = "") -> int:
        """Record what the program was given: an argument, or a constant."""
        if not x.ndim and not name and x.dtype == np.float64:
            x = np.asarray(own_eps(float(x), self.own))
        dtype = str(x.dtype)
        role = self.roles.get(name, "cotangent") if name else ""
        slack = 0.0 if name else literal(x, self.dtype)
        more = {"dtype": dtype, "name": name, "role": role, "slack": slack}
        return self.recording.add("leaf", widened(x), (), unit(dtype, self.dtype), **more)

    def read(self, jaxpr: Any, operands: Sequence[int], where: Where) -> list[int]:
        """Record the equations of a jaxpr, open or closed, that is called at a place."""
        constants = [self.leaf(plain(c)) for c in getattr(jaxpr, "consts", ())]
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        nodes: dict[Any, int] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *operands], strict=True))

        def node(atom: Any) -> int:
            return nodes[atom] if isinstance(atom, Var) else self.leaf(np.asarray(atom.val, atom.aval.dtype))

        for eqn in jaxpr.eqns:
            inputs = [node(atom) for atom in eqn.invars]
            here = within(places(_frames(eqn)), where) or library(_frames(eqn))
            name = eqn.primitive.name
            if name in CALLS or name == "checkpoint":
                body = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "call") if key in eqn.params)
                results = self.read(body, inputs, here)
            else:
                results = LOOPS[name](self, eqn, inputs, here) if name in LOOPS else self.one(eqn, inputs, here)
            nodes.update(zip(eqn.outvars, results, strict=True))
        return [node(atom) for atom in jaxpr.outvars]

    def one(self, eqn: Any, inputs: list[int], where: Where) -> list[int]:
        """Record one primitive."""
        avals = [v.aval for v in eqn.outvars]

        narrows = any(unit(str(aval.dtype), self.dtype) > unit("float64", self.dtype) for aval in avals)

        def run(values: Sequence[np.ndarray], eqn: Any = eqn) -> list[np.ndarray]:
            made = evaluated(eqn, values)
            if not narrows:
                return made
            return [rounded(x, aval.dtype, self.dtype) for x, aval in zip(made, avals, strict=True)]

        def with_params(params: Mapping[str, Any]) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
            return partial(run, eqn=eqn.replace(params={**eqn.params, **params}))

        more = {"options": _options(eqn), "backward": "transpose" in str(eqn.source_info.name_stack)}
        if eqn.primitive.name == "stop_gradient" and is_direct(_frames(eqn)):
            self.recording.stops.append(replace(self.recording.events[inputs[0]], places=where, op="stop_gradient"))
        units = [unit(str(aval.dtype), self.dtype) for aval in avals]
        more |= {"dtypes": [str(aval.dtype) for aval in avals], "again": (eqn.params, with_params)}
        return self.made(eqn.primitive.name, inputs, where, run, units, **more)

    def made(self, op: str, inputs: list[int], where: Where, run: Any, units: list[float], **more: Any) -> list[int]:
        """Evaluate a step, and record what it makes."""
        events = self.recording.events
        results = run([events[i].value for i in inputs])
        dtypes, again = more.pop("dtypes", None) or [str(x.dtype) for x in results], more.pop("again", ())
        triples = zip(results, units or [0.0] * len(results), dtypes, strict=True)
        more["turns"] = self.turns
        made = [self.recording.add(op, x, inputs, u, dtype=dtype, places=where, **more) for x, u, dtype in triples]
        self.recording.steps.append(Step(tuple(inputs), tuple(made), run, *again))
        return made


def _traced(name: str, function: Callable[..., Any], given: Arrays, dtype: str | None) -> tuple[Any, Any]:
    """Return the jaxpr of a function and the shapes of its results, both as wide as the run where the program allows that.

    One that mixes Python's whole numbers with int32, or names float32, may not fit together in JAX's 64-bit mode: its jaxpr is
    then that of float32, and is evaluated in float64 all the same.
    """
    try:
        with attributed_to(name):
            return jax.make_jaxpr(function, return_shape=True)(given)
    except SideFailed:
        if dtype != "float64":
            raise
        narrow = {n: x.astype(np.float32) if not is_key(x) and is_float(x) else x for n, x in given.items()}
        with jax.enable_x64(False), attributed_to(name):
            return jax.make_jaxpr(function, return_shape=True)(narrow)


def _frames(eqn: Any) -> list[Frame]:
    """Return the frames since the trace of the innermost function began, where JAX cuts them, up to our own."""
    trace = eqn.source_info.traceback
    found: list[Frame] = []
    for frame in trace.frames if trace is not None else ():
        if frame.file_name.endswith("/jax_source_lines.py"):
            # It stands between JAX and the line that it looks for.
            continue
        if "/attention/parity/" in frame.file_name:
            break
        found.append((frame.file_name, frame.line_num, frame.function_name))
    return found


def _options(eqn: Any) -> str:
    plain = {k: v for k, v in eqn.params.items() if isinstance(v, int | float | str | tuple | np.dtype) and v not in ((), None)}
    return ", ".join(f"{name}={x}" for name, x in plain.items())[:80]
