"""The result of a comparison of logits: the numbers of each position, their summary and the verdict.

    ratio = RMS error over all positions / RMS of what rounding explains        worst = the same of the worst position

`rendering.logits_text` prints it, `rendering.logits_plot` draws it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attention.parity.language_models.three_verdicts import AGREES, CANNOT_TELL, DIFFERS, SURELY, verdict
from attention.parity.numerics.comparison import MOST_MAX, MOST_RMS
from attention.parity.results import provenance
from attention.parity.results.renderers import renderer
from attention.parity.results.report import plain, write
from attention.spec.errors import ParityError
from attention.spec.options import PATH, checked

BASES = {
    "exact": "the error of the expected logits, both measured against the exact ones",
    "sigma": "the rounding budget that was given",
    "storage": "storing each logit in its dtype; no exact logits were given, so rounding inside of the models is not known",
}
UNEXPLAINED = 2.0**15
"""Units in the last place, RMS, that no rounding of a model adds up to: 0.2 % of float32 logits."""
MOST_RELATIVE = 0.5
"""The relative RMS error that no rounding explains in any dtype."""


@dataclass(frozen=True, eq=False)
class Flip:
    """A position where the two models prefer different tokens.

    Attributes:
        position: of the logits, an index into `(..., T)`.
        margin: by how much the expected logits prefer their own first token, in units of the logits.
        error: the RMS error there.
        explained: what rounding explains of it, RMS.
    """

    position: tuple[int, ...]
    margin: float
    error: float
    explained: float

    @property
    def benign(self) -> bool:
        """Whether rounding alone can flip the two tokens: the margin is within the limit of one element."""
        return self.margin <= 2 * MOST_MAX * self.explained


@dataclass(frozen=True, eq=False)
class LogitsComparison:
    """The comparison of two models' logits.

    Attributes:
        name: of the pair.
        numbers: arrays of one number for each valid position; see `positions.compared`, and "error" (RMS, which decides),
            "explained" (RMS, by rounding) and "scale" (RMS of the logits).
        steps: the index along T of each valid position.
        places: the flat index of each valid position.
        shape: of the logits, `(..., T, V)`.
        basis: "exact", "sigma" or "storage": what rounding was measured by.
        unit: unit roundoff of the dtype.
        top_k: the tokens that each agreement counts.
    """

    name: str
    numbers: dict[str, np.ndarray] = field(repr=False)
    steps: np.ndarray = field(repr=False)
    places: np.ndarray = field(repr=False)
    shape: tuple[int, ...]
    basis: str
    unit: float
    top_k: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """The RMS error over all positions, divided by the RMS of what rounding explains."""
        return _ratio(_rms(self.numbers["error"]), _rms(self.numbers["explained"]))

    @property
    def worst(self) -> int:
        """The worst valid position: its error relative to what rounding explains there, or on average if that is more."""
        explained = np.maximum(self.numbers["explained"], _rms(self.numbers["explained"]))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(self.numbers["error"] == 0, 0.0, self.numbers["error"] / explained)
        return int(np.argmax(np.nan_to_num(ratios, nan=math.inf, posinf=math.inf)))

    @property
    def worst_position(self) -> tuple[int, ...]:
        """The index of the worst position into `(..., T)`."""
        return self._position(self.worst)

    @property
    def worst_ratio(self) -> float:
        """The ratio of the worst position."""
        explained = max(float(self.numbers["explained"][self.worst]), _rms(self.numbers["explained"]))
        return _ratio(float(self.numbers["error"][self.worst]), explained)

    @property
    def relative(self) -> float:
        """The RMS error over all positions, divided by the RMS of the logits."""
        return _ratio(_rms(self.numbers["error"]), _rms(self.numbers["scale"]))

    @property
    def verdict(self) -> str:
        """One of "agrees", "differs" and "cannot tell"."""
        told = verdict(max(self.ratio, self.worst_ratio))
        if self.basis != "storage" or told == AGREES:
            return told
        # Beyond the rounding of the logits themselves, only an error that no rounding adds up to is sure.
        beyond = self.relative > min(UNEXPLAINED * self.unit, MOST_RELATIVE)
        return DIFFERS if beyond else CANNOT_TELL

    @property
    def ok(self) -> bool:
        """Whether the logits agree."""
        return self.verdict == AGREES

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The positions whose first tokens differ, the largest margin first."""
        found = np.flatnonzero(self.numbers["flip"])
        order = found[np.argsort(-self.numbers["margin"][found], kind="stable")]
        return tuple(
            Flip(self._position(i), *(float(self.numbers[key][i]) for key in ("margin", "error", "explained"))) for i in order
        )

    @property
    def perplexity(self) -> tuple[float, float] | None:
        """Exp of the mean loss per token of the actual and of the expected logits; None without labels."""
        if "loss actual" not in self.numbers or np.isnan(self.numbers["loss actual"]).all():
            return None
        with np.errstate(over="ignore"):
            actual, expected = (float(np.exp(np.nanmean(self.numbers[f"loss {who}"]))) for who in ("actual", "expected"))
        return actual, expected

    def _position(self, i: int) -> tuple[int, ...]:
        """Return the index into `(..., T)` of the i-th valid position."""
        return tuple(int(axis) for axis in np.unravel_index(int(self.places[i]), self.shape[:-1]))

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the table, in units of the logits; KL in nats."""
        found: dict[str, Any] = {
            "positions": len(self.places),
            "vocabulary": self.shape[-1],
            "max error": float(np.max(self.numbers["max error"])),
            "mean error": float(np.mean(self.numbers["mean error"])),
            "RMS error": _rms(self.numbers["error"]),
            "explained by rounding": _rms(self.numbers["explained"]),
            "ratio": self.ratio,
            "worst position": list(self.worst_position),
            "worst ratio": self.worst_ratio,
            "relative error": self.relative,
            "KL mean": float(np.mean(self.numbers["kl"])),
            "KL max": float(np.max(self.numbers["kl"])),
            **{f"top-{k} agreement": float(np.mean(self.numbers[f"top {k}"])) for k in self.top_k},
            "argmax flips": len(self.flips),
            "flips beyond rounding": sum(not flip.benign for flip in self.flips),
        }
        if self.perplexity is not None:
            found |= dict(zip(("perplexity", "perplexity expected"), self.perplexity, strict=True))
        return found

    def assert_ok(self) -> None:
        """Raise ParityError unless the logits agree.

        Raises:
            ParityError: they differ, or it cannot be told.
        """
        if not self.ok:
            raise ParityError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready data: the summary, the flips, and the numbers of each position."""
        limits = {"ratio": MOST_RMS, "surely": SURELY}
        flips = [{"position": f.position, "margin": f.margin, "error": f.error, "benign": f.benign} for f in self.flips]
        numbers = {key: values.tolist() for key, values in self.numbers.items()}
        return plain(
            {
                "name": self.name,
                "verdict": self.verdict,
                "basis": BASES[self.basis],
                "limits": limits,
                "environment": provenance.environment(),
                "summary": self.summary(),
                "flips": flips,
                "positions": {"index": [self._position(i) for i in range(len(self.places))], **numbers},
            }
        )

    @checked(path=PATH)
    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        write(path, json.dumps(self.to_dict()))

    @checked(path=PATH)
    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw error, KL and flips along the positions to a picture, beside what rounding explains.

        Raises:
            FileError: the path cannot be written.
            MissingExtra: matplotlib is not installed.
        """
        renderer("logits as a plot")(self, path)

    def __str__(self) -> str:
        return renderer("logits as text")(self)


def _rms(x: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.square(x)))) if x.size else math.nan


def _ratio(error: float, explained: float) -> float:
    """Return error / explained: 0 where nothing errs, inf where something does and nothing explains it."""
    if error == 0:
        return 0.0
    return error / explained if explained else math.inf
