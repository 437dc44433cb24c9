"""Tolerances: how far a right program may be from a reference, as numbers for a test.

close = tolerances(model, inputs)                   value and sigma of every output and gradient
assert_close(actual, expected, budget=close)        RMS of z <= 4 and max z <= 30, z = |actual - expected| / sigma
np.testing.assert_allclose(actual, expected, rtol=0, atol=close["output"].atol)
"""

# A program is whatever its user brought, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attention.parity.adapters import Arrays, Call, program
from attention.parity.adapters.inputs import DTYPE, call_of, cotangents, rounded, rounded_call
from attention.parity.adapters.named_outputs import named_outputs
from attention.parity.compare.oracle import Question, single
from attention.parity.numerics.array_kinds import is_float
from attention.parity.numerics.comparison import MOST_MAX, Verdict, judge
from attention.parity.numerics.error_budget import Budget
from attention.spec.errors import DTypeError, OptionError, ParityError, ShapeError, shown
from attention.spec.options import SEED, SWITCH, checked, one_of

FRAMEWORK = one_of("torch", "jax", none=True)


@dataclass(frozen=True, eq=False)
class Tolerance:
    """What one array of a right program may be off by.

    Attributes:
        value: what it is in float64.
        sigma: one standard deviation of the rounding error of each element, shaped as `value`.
    """

    value: np.ndarray = field(repr=False)
    sigma: np.ndarray = field(repr=False)

    @property
    def atol(self) -> float:
        """The largest error that any element of a right program may have: 30 sigma of the element that has the most."""
        return MOST_MAX * float(np.max(self.sigma, initial=0.0))

    @property
    def rtol(self) -> float:
        """The same as a share of the largest element; 0 if all are 0."""
        size = float(np.max(np.abs(self.value), initial=0.0))
        return self.atol / size if size else 0.0


@dataclass(frozen=True, eq=False)
class Tolerances(Mapping[str, Tolerance]):
    """The tolerance of every output and gradient, by name: "output", "output.hidden", "d x", "d layer.weight".

    Attributes:
        arrays: by name.
        dtype: whose rounding they allow.
        way: how they were made.
    """

    arrays: dict[str, Tolerance]
    dtype: str
    way: str

    def __getitem__(self, name: str) -> Tolerance:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __str__(self) -> str:
        lines = [f"{name}: atol {each.atol:.2g}, rtol {each.rtol:.2g}" for name, each in self.items()]
        return "\n".join([f"{self.dtype}, {self.way}", *lines])


@checked(framework=FRAMEWORK, dtype=DTYPE, gradients=SWITCH, seed=SEED)
def tolerances(
    side: Any, inputs: Any, *, framework: str | None = None, dtype: str = "float32", gradients: bool = True, seed: int = 0
) -> Tolerances:
    """Return what every output and gradient of a program is in float64, and how far rounding may move it.

    Args:
        side: the program: a module, a function, or anything that `parity.program` takes.
        inputs: as `parity.compare` takes them.
        framework: of a plain function, "torch" or "jax"; JAX if None.
        dtype: whose rounding is allowed.
        gradients: whether gradients are wanted too, of inputs and parameters, under standard normal cotangents.
        seed: of the cotangents.

    Raises:
        OptionError: the inputs hold no array, or the program is of NumPy, whose operations cannot be perturbed.
        SideFailed: the program failed, or cannot be run in float64.
    """
    subject, call = program(side, framework), call_of(inputs)
    if subject.framework == "numpy":
        raise OptionError(f"side {subject.name} must be of torch or JAX: operations of NumPy cannot be perturbed")
    dtypes = dtype, dtype
    question = Question(subject, rounded_call(call, dtypes), rounded(subject.params, dtypes), None, dtype, 0)
    if gradients:
        question = replace(question, cotangents=cotangents(question.run(dtype).outputs, None, dtypes, seed))
    way, made = single(question)
    return Tolerances({name: Tolerance(x, made.sigma[name]) for name, x in made.value.items()}, dtype, way)


def assert_close(actual: Any, expected: Any, *, budget: Any) -> None:
    """Raise ParityError unless arrays are as near to each other as rounding explains.

    Args:
        actual: an array of NumPy, torch or JAX, or nested dicts, lists and dataclasses of them.
        expected: the same of a reference: in float64 it is exact, in any other dtype it is rounded as `actual` is.
        budget: what `tolerances` returned, one of its arrays, a `Budget`, or one standard deviation of the error of each
            element as an array or a number.

    Raises:
        ParityError: an array differs beyond its budget; the worst is named.
        ShapeError: shapes differ, or the arrays are not the same ones.
        DTypeError: an array does not hold real numbers.
        OptionError: the budget is nothing of the kind, or has no array of a name.
    """
    made, wanted = (_arrays(name, tree) for name, tree in (("actual", actual), ("expected", expected)))
    if made.keys() != wanted.keys():
        raise ShapeError(f"actual {', '.join(made)} must have the arrays of expected, {', '.join(wanted)}"[:480])
    verdicts = [_verdict(name, x, wanted[name], _sigma(budget, name, wanted[name])) for name, x in made.items()]
    bad = [verdict for verdict in verdicts if not verdict.agrees]
    if bad:
        worst = max(bad, key=lambda verdict: verdict.badness)
        raise ParityError(f"{len(bad)} of {len(verdicts)} arrays differ beyond rounding; worst: {worst}")


def _verdict(name: str, got: np.ndarray, wanted: np.ndarray, sigma: np.ndarray) -> Verdict:
    # Two rounded results stray from each other by the root of two of what each does.
    both = sigma if wanted.dtype == np.float64 else sigma * np.sqrt(2)
    return judge(name, got, wanted.astype(np.float64), np.broadcast_to(both, wanted.shape))


def _arrays(name: str, tree: Any) -> Arrays:
    call = call_of(Call.of({"output": tree}))
    found = named_outputs(name, call.kwargs["output"], lambda leaf: leaf if isinstance(leaf, np.ndarray) else None)
    odd = [f"{path} {x.dtype}" for path, x in found.items() if x.dtype.kind not in "biu" and not is_float(x)]
    if odd:
        raise DTypeError(f"{name} {', '.join(odd)} must hold real numbers")
    return found


def _sigma(budget: Any, name: str, wanted: np.ndarray) -> np.ndarray:
    if isinstance(budget, (Tolerances, Budget)):
        known = {key: each.sigma for key, each in budget.items()} if isinstance(budget, Tolerances) else budget.sigma
        if isinstance(known, Mapping):
            if name not in known:
                raise OptionError(f"budget of {', '.join(map(str, known))} must have {name}"[:480])
            known = known[name]
    else:
        known = budget.sigma if isinstance(budget, Tolerance) else budget
    sigma = np.asarray(known) if isinstance(known, (np.ndarray, float, int)) and not isinstance(known, bool) else None
    if sigma is None or not (is_float(sigma) or sigma.dtype.kind in "iu") or not np.all(sigma >= 0):
        raise OptionError(f"budget {shown(budget)} must be what parity.tolerances returns, or standard deviations >= 0")
    fits = sigma.ndim <= wanted.ndim and all(n in (1, m) for n, m in zip(sigma.shape[::-1], wanted.shape[::-1], strict=False))
    if not fits:
        raise ShapeError(f"budget {sigma.shape} must fit {name} {wanted.shape}")
    return sigma.astype(np.float64)
