"""Compare the logits of two language models, position by position, within what rounding explains.

    report = compare_logits(actual, expected, exact=float64_logits)
    ratio = RMS |actual - exact| / RMS |expected - exact|        agrees <=> ratio <= 4, also at the worst position

Without `exact` or `sigma` the rounding inside the models is unknown. Then only two verdicts remain: the logits are as close as
storing them in their dtype explains, or so far apart that no rounding in it does.
"""

# Logits are arrays of any framework, of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from attention.parity.compare.recorded_model import RecordedModel
from attention.parity.language_models.logits_result import LogitsComparison
from attention.parity.language_models.positions import compared, differences, root_mean_square
from attention.parity.numerics.dtype_rounding import rounding
from attention.spec.axes import COMPUTE, dtype_name
from attention.spec.errors import DTypeError, OptionError, ShapeError, UnknownName, shown
from attention.spec.numbers import is_count
from attention.spec.options import ARRAY, TEXT, Option, checked, is_sparse, one_of

CHUNK = 2**22
"""Elements of logits that are in float64 at a time."""
LOGITS = Option(ARRAY.wanted, lambda value: isinstance(value, RecordedModel) or ARRAY.holds(value), OptionError)
MAYBE = ARRAY.raising(OptionError) | ", or None"
TOP_K = Option(
    "a tuple of positive ints",
    lambda value: isinstance(value, (tuple, list)) and 0 < len(value) <= 16 and all(is_count(k, 1) for k in value),
)
DTYPE = one_of(*COMPUTE, none=True).raising(UnknownName)


@checked(
    actual=LOGITS, expected=LOGITS, exact=MAYBE, sigma=MAYBE, mask=MAYBE, labels=MAYBE, top_k=TOP_K, dtype=DTYPE, name=TEXT
)
def compare_logits(
    actual: Any,
    expected: Any,
    *,
    exact: Any = None,
    sigma: Any = None,
    mask: Any = None,
    labels: Any = None,
    top_k: Sequence[int] = (1, 5, 10),
    dtype: str | None = None,
    name: str = "logits",
) -> LogitsComparison:
    """Return the comparison of two language models' logits at each position.

        >>> compare_logits(np.ones((1, 2, 3), np.float32), np.ones((1, 2, 3), np.float32)).verdict
        'agrees'

    Args:
        actual: logits of the model in question, `(..., T, V)`, floats of NumPy, torch or JAX; unitless, before the softmax. Or
            a `parity.RecordedModel`, which is then taken for `expected`.
        expected: logits of the model that it should equal, of the same shape; or a recorded model, whose float64 logits are
            `exact` if there are any.
        exact: the same logits in float64 (a float64 run of either model), of the same shape; what the errors of both in
            their own dtype are measured against; nothing to models that compute in float64 themselves.
        sigma: one standard deviation of the rounding error of each element, broadcastable to the logits, such as the sigma of a
            `parity.Budget`; `expected` is then taken for the oracle unless `exact` is given.
        mask: bool, `(..., T)`: True at positions that count; None for all of them.
        labels: int, `(..., T)`: the token that follows each position, for the perplexity; -100 where there is none.
        top_k: for how many first tokens the agreement is counted.
        dtype: the name of the dtype that the models compute in; None for the coarser of the two arrays'.
        name: what the report calls the pair.

    Raises:
        ShapeError: the arrays do not fit one another.
        DTypeError: logits are no floats, labels no ints, or the mask is not bool.
        OptionError: no position counts, or a label lies outside of the vocabulary.
        UnknownName: no such dtype.
    """
    actual, expected, exact = _of_recordings(actual, expected, exact)
    shape = _shape(actual)
    for label, array in (("expected", expected), ("exact", exact)):
        if array is not None and _shape(array, label) != shape:
            raise ShapeError(f"{label} {tuple(array.shape)} must be {shape} as actual is")
    valid = _positions(mask, shape, "mask", "b")
    following = None if labels is None else _positions(labels, shape, "labels", "iu").astype(np.int64)
    if following is not None and following.size and int(following.max()) >= shape[-1]:
        raise OptionError(f"labels {int(following.max())} must be below V={shape[-1]}")
    places = np.flatnonzero(valid)
    if not places.size or not shape[-1]:
        raise OptionError(f"mask {shown(mask)} of logits {shape} must leave a position to compare")
    computed = dtype or _coarser(actual, expected)
    # A float64 run is no measure of another one.
    exact = None if computed == "float64" else exact
    unit = rounding(computed).unit
    bound = None if sigma is None else _sigma(sigma, shape)
    chunks = _chunks(places, shape, actual, expected, exact, bound, following, tuple(top_k), unit)
    numbers = {key: np.concatenate(parts) for key, parts in _transposed(chunks).items()}
    basis = "sigma" if sigma is not None else "exact" if exact is not None else "storage"
    return LogitsComparison(name, numbers, places % shape[-2], places, shape, basis, unit, tuple(top_k))


def _of_recordings(actual: Any, expected: Any, exact: Any) -> tuple[Any, Any, Any]:
    """Return logits as arrays; errors are measured from the float64 run of the model that is expected, so a recorded one is."""
    if isinstance(actual, RecordedModel) and not isinstance(expected, RecordedModel):
        actual, expected = expected, actual
    if isinstance(expected, RecordedModel):
        exact, expected = expected.exact_logits if exact is None else exact, expected.logits
    return actual.logits if isinstance(actual, RecordedModel) else actual, expected, exact


def _shape(array: Any, label: str = "actual") -> tuple[int, ...]:
    shape = tuple(array.shape)
    if len(shape) < 2:
        raise ShapeError(f"{label} {shape} must be (..., T, V)")
    if dtype_name(array) not in COMPUTE:
        raise DTypeError(f"{label} {shown(array)} must be floats: one of {', '.join(COMPUTE)}")
    _dense(array, label)
    return shape


def _dense(array: Any, label: str) -> None:
    """Refuse a tensor without numbers (meta, sharded), and a shape in place of an array."""
    if not hasattr(array, "__array__") or getattr(array, "is_meta", False) or is_sparse(array):
        raise DTypeError(f"{label} {shown(array)} must be a dense array that holds numbers")


def _coarser(*arrays: Any) -> str:
    return max((dtype_name(array) for array in arrays), key=lambda name: rounding(name).unit)


def _positions(array: Any, shape: tuple[int, ...], label: str, kinds: str) -> np.ndarray:
    """Return a number of each position, flat; True for None."""
    if array is None:
        return np.ones(math.prod(shape[:-1]), bool)
    if tuple(array.shape) != shape[:-1]:
        raise ShapeError(f"{label} {tuple(array.shape)} must be {shape[:-1]} as the positions of the logits are")
    _dense(array, label)
    found = _numpy(array)
    if found.dtype.kind not in kinds:
        raise DTypeError(f"{label} {found.dtype} must be {'bool' if kinds == 'b' else 'ints'}")
    return found.reshape(-1)


def _sigma(sigma: Any, shape: tuple[int, ...]) -> np.ndarray:
    if dtype_name(sigma) not in COMPUTE:
        raise DTypeError(f"sigma {shown(sigma)} must be floats: one of {', '.join(COMPUTE)}")
    _dense(sigma, "sigma")
    array = _numpy(sigma)
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ShapeError(f"sigma {array.shape} must be broadcastable to {shape}") from None


def _chunks(
    places: np.ndarray,
    shape: tuple[int, ...],
    actual: Any,
    expected: Any,
    exact: Any,
    sigma: np.ndarray | None,
    labels: np.ndarray | None,
    top_k: tuple[int, ...],
    unit: float,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the numbers of as many positions as fit into a chunk."""
    count = max(1, CHUNK // shape[-1])
    for first in range(0, places.size, count):
        chosen = places[first : first + count]
        index = np.unravel_index(chosen, shape[:-1])
        a, e = _taken(actual, index), _taken(expected, index)
        numbers = compared(a, e, top_k, None if labels is None else labels[chosen])
        truth = e if exact is None else _taken(exact, index)
        numbers["error"] = root_mean_square_of(differences(a, truth))
        # Storing an element rounds it by up to one unit: uniformly, so by unit / sqrt(3) of it, RMS.
        stored = unit / math.sqrt(3) * root_mean_square(truth)
        if sigma is not None:
            numbers["explained"] = np.maximum(root_mean_square(_taken(sigma, index)), stored)
        else:
            numbers["explained"] = stored if exact is None else np.maximum(root_mean_square_of(differences(e, truth)), stored)
        numbers["scale"] = root_mean_square(truth)
        yield numbers


def root_mean_square_of(error: np.ndarray) -> np.ndarray:
    """Return the RMS along the last axis, inf included."""
    return np.sqrt(np.mean(error**2, axis=-1))


def _taken(array: Any, index: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return some positions of an array of any framework in float64: (n, V)."""
    if type(array).__module__.partition(".")[0] == "torch":
        import torch  # noqa: PLC0415 - a tensor is there, so torch is too

        return array.detach()[tuple(torch.from_numpy(axis).to(array.device) for axis in index)].double().cpu().numpy()
    return np.asarray(array[index]).astype(np.float64)


def _numpy(array: Any) -> np.ndarray:
    """Return an array of any framework as one of NumPy, bfloat16 of torch in float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.float() if dtype_name(array) == "bfloat16" else array
    return np.asarray(array)


def _transposed(chunks: Iterator[dict[str, np.ndarray]]) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for chunk in chunks:
        for key, values in chunk.items():
            found.setdefault(key, []).append(values)
    return found
