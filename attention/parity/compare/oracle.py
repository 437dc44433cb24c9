"""Oracles: what the two programs should have made, and how far rounding may move each element.

    jax      the JAX side, traced in float64, or in its own dtype and evaluated in float64      value, sigma = budget(program)
    torch    the torch side in float64, under a mode that perturbs each operation               sigma = spread of 8 runs
    ratio    any side in float64                                            sigma = RMS error of the other side in this dtype

They are tried in this order, the second program before the first; the report says which it was, and why not those before it.
A large pair is judged by the ratio, which costs one run in float64 where the others cost nine, and the report says so.
With the ratio, a side may stray 4 times (RMS) as far from float64 as the other does, 30 times in one element; others allow
twice the error of a reference in the same dtype (the tests of FlashAttention, arXiv:2205.14135).
"""

# A side is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from attention.parity.adapters import Arrays, Call, Made, Program
from attention.parity.adapters.jax_program import JaxProgram
from attention.parity.adapters.user_errors import described
from attention.parity.compare.jax_budget import traced
from attention.parity.contracts.check import as_float64
from attention.parity.numerics.comparison import judge
from attention.parity.numerics.dtype_rounding import rounding
from attention.parity.numerics.error_budget import Budget
from attention.parity.param_mapping.result_pairing import Pairing
from attention.spec.errors import SideFailed

WAYS = ("auto", "jax", "torch", "ratio")
LARGE = 20_000_000
"""Numbers among the parameters of a pair from which on each program is judged by the ratio, unless a budget is asked for."""
MEDIUM = 4_000_000
"""The same, from which on a budget is made of 4 perturbed runs instead of 8."""
LONGEST = 240
"""Characters of a reason that a note repeats."""


@dataclass(frozen=True, eq=False)
class Question:
    """One program, its data and what is asked of it.

    Args:
        program: one side.
        call: the inputs, whose bits are given.
        params: by the program's own names.
        cotangents: by the program's own names of outputs; None asks for no gradients.
        dtype: what it computes in.
        index: 0 for the first program, 1 for the second.
        casts: whether the roundings of what both programs cast to a coarser dtype are counted.
    """

    program: Program
    call: Call
    params: Arrays
    cotangents: Arrays | None
    dtype: str
    index: int
    casts: bool = False

    @property
    def counted(self) -> str:
        """The dtype whose rounding is counted: that of float64 would drown in the oracle's, and is scaled instead."""
        return "float32" if self.dtype == "float64" else self.dtype

    def run(self, dtype: str) -> Made:
        """Return what the program makes in a dtype."""
        cotangents = self.cotangents if self.program.differentiable else None
        return self.program.run(self.call, params=self.params, cotangents=cotangents, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Oracle:
    """What is right, by the names of one program.

    Attributes:
        side: 0 if the names are the first program's, 1 if the second's.
        way: how it was made, a line for the report.
        ratio: whether the budget is the other program's own error.
        budgets: float64 values and sigma of each program, which differ in sigma alone.
    """

    side: int
    way: str
    ratio: bool
    budgets: tuple[Budget, Budget]


Pair = tuple[Question, Question]


def oracle(pair: Pair, pairing: Pairing, made: Sequence[Made | None], way: str = "auto") -> Oracle:
    """Return the first oracle that can be had.

    Args:
        pair: the first and the second program, with their data.
        pairing: of their results.
        made: what the two made, for the ratio; None for one that failed.
        way: one of `WAYS`.

    Raises:
        SideFailed: there is none; the message has every reason.
    """
    reasons: list[str] = []
    unlike: Oracle | None = None
    attempts = sorted(_attempts(pair, pairing, made), key=lambda each: each[0] != "ratio") if cheap(pair, way) else None
    for kind, side, attempt in attempts or _attempts(pair, pairing, made):
        if way not in ("auto", kind) or (unlike and kind != "jax"):
            continue
        try:
            told, budgets = attempt()
        except SideFailed as error:
            reasons.append(_short(str(error)))
        except Exception as error:  # noqa: BLE001 - a user's program may raise anything when it is traced
            reasons.append(_short(f"{pair[side].program.name}: {described(error)}"))
        else:
            before = f", because {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
            if cheap(pair, way):
                before += f"; a cheaper budget, as parameters are {size(pair) / 1e6:.0f} M: see budget='jax' and 'torch'"
            found = Oracle(side, f"budget: {told}{before}", kind == "ratio", budgets)
            if kind != "jax" or _like(made[side], budgets[side]):
                return found
            # A constant such as an eps may be taken from the dtype, so that float64 is another program than the one that ran.
            unlike = unlike or found
            reasons.append("it is another program in float64")
    if unlike:
        return unlike
    raise SideFailed("; ".join(dict.fromkeys(reasons)) or f"no side of this pair can give the budget {way!r}")


def size(pair: Sequence[Question]) -> int:
    """Return how many numbers the parameters of the larger program are."""
    return max(sum(x.size for x in each.params.values()) for each in pair)


def cheap(pair: Pair, way: str) -> bool:
    """Return whether a pair is so large that it is judged by the ratio, unless another way is asked for."""
    return way == "auto" and size(pair) >= LARGE


def single(question: Question) -> tuple[str, Budget]:
    """Return how the budget of one program was made, and the budget.

    Raises:
        SideFailed: it can be had in no way; the message has every reason.
    """
    ways: list[tuple[str, Callable[[], Budget]]] = []
    if isinstance(question.program, JaxProgram):
        data = question.program, question.call, question.params, question.cotangents
        counted = question.counted
        ways = [
            ("traced in float64, each operation perturbed", partial(traced, *data, dtype=counted)),
            (f"traced in {counted}, each operation perturbed", partial(traced, *data, dtype=counted, narrow=counted)),
        ]
    elif hasattr(question.program, "bind"):
        ways = [("run in float64, each operation perturbed", partial(_noisy, question, question.counted))]
    made = question.run(question.dtype)
    reasons: list[str] = []
    found: tuple[str, Budget] | None = None
    for told, attempt in ways:
        try:
            budget = scaled(question, attempt())
        except Exception as error:  # noqa: BLE001 - a user's program may raise anything when it is traced
            reasons.append(_short(described(error)))
            continue
        if _like(made, budget):
            return told, budget
        found = found or (told, budget)
    if found is None:
        raise SideFailed(f"{question.program.name} has no budget: {'; '.join(reasons) or 'it cannot be run here'}")
    return found


def _noisy(question: Question, dtype: str, runs: int = 8) -> Budget:
    from attention.parity.compare.torch_budget import perturbed  # noqa: PLC0415 - only this way needs torch

    return perturbed(question.program, question.call, question.params, question.cotangents, dtype=dtype, runs=runs)


def runs_of(pair: Pair) -> int:
    """Return how many perturbed runs the budget of a pair is made of."""
    return 8 if size(pair) < MEDIUM else 4


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _like(made: Made | None, expected: Budget) -> bool:
    """Return whether a program that ran is within the budget of its own float64."""
    results = {} if made is None else {**made.outputs, **made.gradients}
    return all(
        judge(name, x.astype(np.float64), expected.value[name], expected.sigma[name]).agrees for name, x in results.items()
    )


Attempt = Callable[[], tuple[str, tuple[Budget, Budget]]]


def _attempts(pair: Pair, pairing: Pairing, made: Sequence[Made | None]) -> Iterator[tuple[str, int, Attempt]]:
    """Yield every way to an oracle, the best first."""
    for side in (1, 0):
        if isinstance(pair[side].program, JaxProgram):
            yield "jax", side, partial(_traced, pair, side, narrow=False)
            yield "jax", side, partial(_traced, pair, side, narrow=True)
    for side in (1, 0):
        # A program that ran elsewhere has a framework too, but cannot be run here.
        # Nor does the mode that perturbs torch's operations see what was cast to fewer digits on the way back.
        if hasattr(pair[side].program, "bind") and not pair[side].casts:
            yield "torch", side, partial(_perturbed, pair, side)
    for side in (1, 0):
        yield "ratio", side, partial(_ratio, pair, side, pairing, made)


def _traced(pair: Pair, side: int, *, narrow: bool) -> tuple[str, tuple[Budget, Budget]]:
    subject = pair[side]
    assert isinstance(subject.program, JaxProgram)  # noqa: S101 - for the type checker
    data = subject.program, subject.call, subject.params, subject.cotangents
    kind = subject.counted if narrow else ""
    runs = runs_of(pair)
    found = {
        dtype: traced(*data, dtype=dtype, narrow=kind, runs=runs, casts=subject.casts)
        for dtype in {each.counted for each in pair}
    }
    told = f"traced in {kind} and evaluated in float64" if narrow else "traced in float64"
    return f"{subject.program.name} {told}, each operation perturbed{_fewer(runs)}", _scaled(pair, found)


def _fewer(runs: int) -> str:
    return "" if runs == 8 else f" in {runs} runs instead of 8, because the parameters are many"


def _perturbed(pair: Pair, side: int) -> tuple[str, tuple[Budget, Budget]]:
    subject, runs = pair[side], runs_of(pair)
    found = {dtype: _noisy(subject, dtype, runs) for dtype in {each.counted for each in pair}}
    return f"{subject.program.name} run in float64, each operation perturbed{_fewer(runs)}", _scaled(pair, found)


def _scaled(pair: Pair, found: Mapping[str, Budget]) -> tuple[Budget, Budget]:
    """Return the budget of each program, from those of the dtypes that were counted."""
    first, second = (scaled(each, found[each.counted]) for each in pair)
    return first, second


def scaled(question: Question, made: Budget) -> Budget:
    """Return the budget of the dtype that a program computes in, from that of the dtype that was counted."""
    return as_float64(made) if question.dtype == "float64" else made


def _ratio(pair: Pair, side: int, pairing: Pairing, made: Sequence[Made | None]) -> tuple[str, tuple[Budget, Budget]]:
    """Return the float64 run of one side, with the error of each side as the budget of the other."""
    exact = pair[side].run("float64")
    value = {name: x.astype(np.float64, copy=False) for name, x in {**exact.outputs, **exact.gradients}.items()}
    errors = [_errors(question, side, pairing, value, own) for question, own in zip(pair, made, strict=True)]
    sigmas = [_allowed(value, errors[1 - question.index], rounding(question.counted).unit) for question in pair]
    budgets = [scaled(question, Budget(value, sigma)) for question, sigma in zip(pair, sigmas, strict=True)]
    told = f"{pair[side].program.name} run in float64, each side allowed 4 times the RMS error of the other"
    return told, (budgets[0], budgets[1])


def _errors(question: Question, side: int, pairing: Pairing, value: Arrays, made: Made | None) -> Arrays:
    """Return the RMS error of a program around each element of its results, see `_slices`; none if it failed."""
    if made is None:
        return {}
    made = question.run("float32") if question.dtype == "float64" else made
    pairs = pairing.onto(question.index, side, {**made.outputs, **made.gradients}, value)
    return {name: _slices(_error(got, wanted)) for name, (got, wanted) in pairs.items()}


def _error(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        error = np.where(got == wanted, 0.0, got.astype(np.float64) - wanted)
    return np.where(np.isfinite(error), error, 0.0)


def _slices(x: np.ndarray) -> np.ndarray:
    """Return the RMS of the row or of the column of each element, whichever is larger, and at least that of all.

    Of a table of words, the rows that were looked up err alone. The gradient of a kernel is a product x^T dy: a unit of x or of
    dy that is large makes a row or a column of large elements, all of which err more.
    """
    if not x.ndim or not x.size:
        return np.abs(x)
    squares = np.square(x)
    rows = np.maximum(np.mean(squares, -1, keepdims=True), squares.mean())
    if x.ndim == 1:
        return np.sqrt(rows)
    return np.sqrt(np.maximum(rows, np.mean(squares, tuple(range(x.ndim - 1)), keepdims=True)))


def _allowed(value: Arrays, errors: Arrays, unit: float) -> Arrays:
    """Return the error that is allowed per element: that of the other side, and at least one rounding of each element's row."""
    least = {name: unit / math.sqrt(3) * _row(x) for name, x in value.items()}
    return {name: np.broadcast_to(np.maximum(errors.get(name, 0.0), low), value[name].shape) for name, low in least.items()}


def _row(x: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(x), x, 0.0)
    return np.sqrt(np.mean(np.square(finite), -1, keepdims=True)) if x.ndim and x.size else np.abs(finite)
