"""The result of a decoding comparison: a row for each run, and the verdict of all.

agrees <=> every run agrees        differs <=> one of them differs        cannot tell: otherwise
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.parity.language_models.logits_result import LogitsComparison
from attention.parity.language_models.three_verdicts import AGREES, CANNOT_TELL, worst
from attention.parity.numerics.comparison import MOST_RMS
from attention.parity.results import provenance
from attention.parity.results.renderers import renderer
from attention.parity.results.report import plain, write
from attention.spec.errors import ParityError
from attention.spec.options import PATH, checked


@dataclass(frozen=True, eq=False)
class DecodingRow:
    """One run of one program, compared with its reference.

    Attributes:
        side: the model.
        run: what was run: "prefill 5 + 3 steps".
        comparison: of its outputs with the reference; None if there is none.
        failure: why not, or "".
    """

    side: str
    run: str
    comparison: LogitsComparison | None = None
    failure: str = ""

    @property
    def verdict(self) -> str:
        """Whether it "agrees", "differs", or one "cannot tell"; a run that failed compares nothing."""
        return self.comparison.verdict if self.comparison is not None else CANNOT_TELL

    @property
    def parts_at(self) -> int | None:
        """The first step at which some row of the batch is outside of what rounding explains; None if there is none."""
        if self.comparison is None or self.verdict == AGREES:
            return None
        numbers = self.comparison.numbers
        typical = float(np.sqrt(np.mean(np.square(numbers["explained"]))))
        outside = numbers["error"] > MOST_RMS * np.maximum(numbers["explained"], typical)
        return int(self.comparison.steps[outside].min()) if outside.any() else None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready data."""
        summary = None if self.comparison is None else self.comparison.summary()
        told = {"side": self.side, "run": self.run, "verdict": self.verdict, "failure": self.failure}
        return {**told, "parts at": self.parts_at, "summary": summary}


@dataclass(frozen=True, eq=False)
class Decoding:
    """The comparison of decoding with the full forward pass.

    Attributes:
        rows: a row for each run.
    """

    rows: tuple[DecodingRow, ...]

    @property
    def verdict(self) -> str:
        """Whether all runs "agree", in the words of a row."""
        return worst(row.verdict for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether every run agrees."""
        return self.verdict == AGREES

    def assert_ok(self) -> None:
        """Raise ParityError unless every run agrees.

        Raises:
            ParityError: a run differs, or it cannot be told.
        """
        if not self.ok:
            raise ParityError(str(self))

    def to_dict(self) -> dict[str, Any]:
        """Return every row as JSON-ready data."""
        rows = [row.to_dict() for row in self.rows]
        return plain({"verdict": self.verdict, "environment": provenance.environment(), "rows": rows})

    @checked(path=PATH)
    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write every row as JSON.

        Raises:
            FileError: the path cannot be written.
        """
        write(path, json.dumps(self.to_dict(), indent=1))

    def __str__(self) -> str:
        return renderer("decoding as text")(self)
