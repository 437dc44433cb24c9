"""Recorded programs: a program that ran on another machine, and that returns its recorded results here.

    recorded.run(call, params=p, cotangents=c)        the recorded arrays, if call, p and c are those that were recorded

`compare` takes it in the place of the program. A call that was not recorded is refused.
"""

# A user's inputs are pytrees of anything.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from attention.parity.adapters import Arrays, Call, Made, Program, program
from attention.parity.adapters.inputs import call_of, cotangents, pairs_of, rounded, rounded_call
from attention.parity.compare.compare import compare
from attention.parity.compare.recording_file import Recording
from attention.parity.numerics.array_kinds import is_float
from attention.parity.results.report import Report
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import FileError, OptionError, SideFailed
from attention.spec.storage.disk import brief

GROUPS = ("inputs", "params", "outputs", "gradients", "cotangents")
OPTIONS = (bool, int, float, str, type(None))
RECORDED = " (recorded)"


@dataclass(eq=False)
class RecordedProgram(Program):
    """A program that returns recorded results.

    Args:
        name: of the program, as it was called.
        framework: that it ran in.
        dtype: that it computed in.
        call: that it was given.
        params: its parameters, as it computed with them.
        cotangents: of its outputs.
        made: its outputs, and its gradients if it has any.
    """

    name: str
    framework: str
    dtype: str
    call: Call
    params: Arrays
    cotangents: Arrays
    made: Made
    _read_facts: str = field(init=False, default="")
    runs_here: ClassVar[bool] = False

    @property
    def differentiable(self) -> bool:
        return bool(self.made.gradients)

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        if dtype not in (None, self.dtype):
            raise SideFailed(f"{self.name} was recorded in {self.dtype} and cannot be run in {dtype}")
        asked = {
            "inputs": (call.leaves, self.call.leaves),
            "parameters": (params, self.params),
            "cotangents": (cotangents, self.cotangents),
        }
        for what, (given, known) in asked.items():
            if given is not None and not _same(given, known):
                raise SideFailed(f"{self.name} was recorded with other {what} and cannot be run with these")
        return Made(self.made.outputs, self.made.gradients if cotangents is not None else {})


def _same(given: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> bool:
    def equal(x: np.ndarray, y: np.ndarray) -> bool:
        x, y = (z.astype(np.float64) if is_float(z) else z for z in (x, y))
        return x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")

    return given.keys() == known.keys() and all(equal(x, known[name]) for name, x in given.items())


def record(side: Any, framework: str, inputs: Any, *, dtype: str = "float32", seed: int = 0, name: str = "") -> Recording:
    """Return what a user's program makes of its inputs: outputs, and the gradients of inputs and parameters.

    Args:
        side: the program, as `parity.program` takes it.
        framework: what a plain function is written in: "torch", "jax" or "numpy".
        inputs: as for `parity.compare`.
        dtype: what floats are cast to.
        seed: of the cotangents, which are standard normal.
        name: what reports call the program.

    Raises:
        SideFailed: the program raised, or returned what is no pytree of arrays.
        OptionError: the inputs hold no array, or an option that no file can hold.
        UnknownName: no such framework or dtype.
    """
    subject, (pair, *_) = program(side, framework, name), pairs_of(dtype)
    call = rounded_call(call_of(inputs), pair)
    facts = {"side": subject.framework, "name": subject.name, "dtype": dtype, "call": encoded(call)}
    params = rounded(subject.params, pair)
    made = subject.run(call, params=params, dtype=dtype)
    drawn: Arrays = {}
    if subject.differentiable:
        drawn = cotangents(made.outputs, None, pair, seed)
        made = subject.run(call, params=params, cotangents=drawn, dtype=dtype)
    groups = (call.leaves, params, made.outputs, made.gradients, drawn)
    arrays = {f"{group}/{name}": x for group, found in zip(GROUPS, groups, strict=True) for name, x in found.items()}
    return Recording("program", facts, arrays)


def replayed(recording: Recording) -> RecordedProgram:
    """Return the program that a recording is of.

    Raises:
        FileError: the recording is damaged.
        UnknownName: it is of a dtype that is not known here.
    """
    groups: dict[str, Arrays] = {group: {} for group in GROUPS}
    try:
        for name, x in recording.arrays.items():
            group, _, inner = name.partition("/")
            groups[group][inner] = x
        call, (called, framework, dtype) = _read_facts(recording.facts, groups["inputs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"{brief(repr(error))} is missing or wrong"
        raise FileError(f"recording must hold a whole call and its results: {said}") from error
    _ = numpy_dtype(dtype)
    if not groups["outputs"]:
        raise FileError("recording must hold outputs, and has none: record it again")
    made = Made(groups["outputs"], groups["gradients"])
    return RecordedProgram(f"{called}{RECORDED}", framework, dtype, call, groups["params"], groups["cotangents"], made)


def _read_facts(facts: Mapping[str, Any], arrays: Arrays) -> tuple[Call, tuple[str, str, str]]:
    """Return the call of a recording, and the program's name, framework and dtype."""
    args, kwargs = (decoded(facts["call"][part], arrays) for part in ("args", "kwargs"))
    texts = (facts["name"], facts["side"], facts["dtype"])
    if not (isinstance(args, tuple) and isinstance(kwargs, dict) and all(isinstance(text, str) for text in texts)):
        raise TypeError("args, kwargs, name, side, dtype")
    return Call(args, kwargs), texts


def against(
    recording: Recording, side: Any, framework: str, *, load: bool = True, params: Any = None, name: str = ""
) -> Report:
    """Return the report of a local program beside a recorded one, on the recorded inputs.

    Args:
        recording: of kind "program".
        side: the program, as `parity.program` takes it.
        framework: what a plain function is written in.
        load: whether the local program is given the recorded parameters; it must have the same already if not.
        params: how parameters belong together, as for `parity.compare`, with the local program as the first.
        name: what the report calls the pair.

    Raises:
        FileError: the recording is damaged.
    """
    theirs = replayed(recording)
    loads = "second" if load and theirs.params else None
    report = compare(
        program(side, framework),
        theirs,
        theirs.call,
        params=params,
        load=loads,
        dtypes=[theirs.dtype],
        gradients=theirs.differentiable,
        cotangents=theirs.cotangents if theirs.differentiable else None,
        name=name,
    )
    return report + Report(notes=(recording.note,))


def encoded(call: Call) -> dict[str, Any]:
    """Return the structure of a call as JSON-ready data, arrays by their path."""
    marked = call.map(lambda path, leaf: {"array": path} if isinstance(leaf, np.ndarray) else {"option": _option(path, leaf)})
    return {"args": _kinds(marked.args), "kwargs": _kinds(dict(marked.kwargs))}


def _option(path: str, leaf: Any) -> Any:
    if not isinstance(leaf, OPTIONS):
        raise OptionError(
            f"input {path} {type(leaf).__name__} must be an array, a number, a text, a bool or None to be recorded"
        )
    return leaf


def _kinds(tree: Any) -> Any:
    """Return a marked tree with the kind of each container said, which JSON has fewer of."""
    if isinstance(tree, Mapping):
        leaf = (
            len(tree) == 1
            and next(iter(tree)) in ("array", "option")
            and not isinstance(next(iter(tree.values())), (dict, list, tuple))
        )
        return dict(tree) if leaf else {"dict": {name: _kinds(inner) for name, inner in tree.items()}}
    return {"tuple" if isinstance(tree, tuple) else "list": [_kinds(inner) for inner in tree]}


def decoded(tree: Any, arrays: Arrays) -> Any:
    """Return what `_kinds` was made of, with arrays in their places."""
    ((kind, inner),) = tree.items()
    if kind == "dict":
        return {name: decoded(each, arrays) for name, each in inner.items()}
    if kind in ("tuple", "list"):
        found = [decoded(each, arrays) for each in inner]
        return tuple(found) if kind == "tuple" else found
    if kind == "array":
        return arrays[inner]
    if kind != "option" or not isinstance(inner, OPTIONS):
        raise TypeError(f"{brief(kind, 60)} {brief(repr(inner), 60)}")
    return inner
