"""Compare an array with the oracle, within the error budget.

    z = error / sigma        per element, sigma from `budget`
    agrees  <=>  RMS z <= 4  and  max |z| <= 30

Where the oracle is exact (sigma = 0) or not finite, the array must be equal.
"""

# Values come from users, with types that strict mode cannot know.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from attention.parity.numerics import error_maps
from attention.parity.numerics.error_maps import Picture
from attention.spec.errors import DTypeError, ShapeError
from attention.spec.options import TEXT, Option, checked

MOST_RMS, MOST_MAX = 4.0, 30.0


@dataclass(frozen=True)
class Verdict:
    """The comparison of one array of a program with the oracle.

    Attributes:
        name: "output", an intermediate, or "d " and what the gradient is of.
        rms: root mean square of z; inf if an element had to be equal and is not.
        worst: the largest |z|.
        index: where it is.
        got: the element there.
        wanted: the oracle's.
        sigma: its budget.
        elements: how many were compared.
        histogram: of |z|, see `error_maps.histogram`.
        pictures: of |z|, for outputs and for arrays that do not agree.
    """

    name: str
    rms: float
    worst: float
    index: tuple[int, ...]
    got: float
    wanted: float
    sigma: float
    elements: int
    histogram: tuple[int, ...] = field(default=(), repr=False)
    pictures: tuple[Picture, ...] = field(default=(), repr=False, compare=False)

    @property
    def agrees(self) -> bool:
        """Whether the array is as near as a correct program comes."""
        return self.rms <= MOST_RMS and self.worst <= MOST_MAX

    @property
    def badness(self) -> float:
        """The distance from the oracle, relative to the limits; above 1 it fails."""
        return max(self.rms / MOST_RMS, self.worst / MOST_MAX)

    def __str__(self) -> str:
        where = ", ".join(map(str, self.index))
        got, wanted = distinguishing_digits(self.got, self.wanted)
        return (
            f"{self.name}: z rms {shown_z(self.rms)}, max {shown_z(self.worst, 1)} at [{where}]:"
            f" got {got}, wanted {wanted}, sigma {self.sigma:.2g}"
        )


def distinguishing_digits(got: float, wanted: float) -> tuple[str, str]:
    """Return two numbers with three digits, or with as many as show that they differ.

    >>> distinguishing_digits(0.1, 2 / 3), distinguishing_digits(1.00001234, 1.0), distinguishing_digits(2.0, 2.0)
    (('0.1', '0.667'), ('1.00001', '1'), ('2', '2'))
    """
    for digits in range(3, 17):
        shown = f"{got:.{digits}g}", f"{wanted:.{digits}g}"
        if shown[0] != shown[1] or got == wanted or np.isnan(got):
            return shown
    return repr(got), repr(wanted)


def shown_z(z: float, digits: int = 2) -> str:
    """Return z for display: at most three digits, `digits` of them after the point.

    >>> shown_z(0.456), shown_z(34.567), shown_z(456.7), shown_z(16592818.37), shown_z(float("inf"))
    ('0.46', '34.6', '457', '1.7e7', 'inf')
    """
    if z < 999.5 or not np.isfinite(z):
        return f"{z:.{min(digits, 2 if z < 9.995 else 1 if z < 99.95 else 0)}f}"
    size, _, power = f"{z:.1e}".partition("e")
    return f"{size}e{int(power)}"


NUMBERS = Option(
    "a NumPy array of numbers",
    lambda value: (
        isinstance(value, (np.ndarray, np.generic)) and (value.dtype.kind in "biuf" or value.dtype.name == "bfloat16")
    ),
    DTypeError,
)


@checked(name=TEXT, got=NUMBERS, wanted=NUMBERS, sigma=NUMBERS)
def judge(name: str, got: np.ndarray, wanted: np.ndarray, sigma: np.ndarray) -> Verdict:
    """Return the verdict on one array.

    Args:
        name: what the array is.
        got: what a program made, any float dtype.
        wanted: the oracle, float64, of the same shape.
        sigma: its budget, of the same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    if sigma.shape != wanted.shape:
        raise ShapeError(f"{name} sigma {sigma.shape} must be {wanted.shape} as the oracle's is")
    if got.shape != wanted.shape:
        raise ShapeError(f"{name} {got.shape} must be {wanted.shape} as the oracle's is")
    z = scores(got.astype(np.float64), wanted, sigma)
    if not z.size:
        return Verdict(name, 0.0, 0.0, (), np.nan, np.nan, np.nan, 0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(z)), z.shape))
    with np.errstate(over="ignore"):
        rms = float(np.sqrt(np.mean(z**2)))
    worst = float(z[index])
    counts = error_maps.histogram(z)
    verdict = Verdict(name, rms, worst, index, float(got[index]), float(wanted[index]), float(sigma[index]), z.size, counts)
    # A model has many gradients, and those that agree need no picture.
    if verdict.agrees and name.startswith("d "):
        return verdict
    return replace(verdict, pictures=error_maps.of(name, z, got, wanted))


def scores(got: np.ndarray, wanted: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return |z| per element: inf where an exact or non-finite element differs, or where the array is NaN or has no budget."""
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = np.abs(got - wanted) / sigma
    return np.where(same, 0.0, np.where(np.isnan(z), np.inf, z))
