"""A recorded model behind the protocol of models with a cache: it returns the recorded runs."""

# Recorded arrays have no static types.
# pyright: standard

from __future__ import annotations

from typing import Any

import numpy as np

from attention.parity.compare.recorded_model import RecordedModel
from attention.parity.language_models.cached_model import Decoder
from attention.spec.errors import OptionError, SideFailed


class RecordedDecoder(Decoder):
    """A recorded model.

    Args:
        model: with a decoding.

    Raises:
        OptionError: no decoding was recorded.
    """

    def __init__(self, model: RecordedModel) -> None:
        tokens = model.decoded.get("tokens")
        if tokens is None or not model.runs:
            raise OptionError(f"{model.name} must be recorded with tokens to be decoded")
        self.model, self.tokens, self.name = model, tokens, model.name
        self.takes_padding, self.single = model.takes_padding, model.single

    @property
    def splits(self) -> tuple[int, ...]:
        """The recorded numbers of tokens of a prefill."""
        return tuple(dict.fromkeys(run.split for run in self.model.runs))

    @property
    def padding(self) -> tuple[int, ...] | None:
        """The recorded left padding, None if there is none."""
        return next((run.padding for run in self.model.runs if run.padding is not None), None)

    def whole(self, tokens: np.ndarray, positions: np.ndarray, *, wide: bool = False) -> np.ndarray:
        self._check(np.array_equal(tokens, self.tokens), "other tokens")
        made = self.model.decoded.get("exact" if wide else "whole")
        if made is None:
            raise SideFailed(f"{self.name} was recorded without {'a float64 run' if wide else 'the whole pass'}")
        return made

    def start(self, batch: int, length: int) -> Any:
        raise SideFailed(f"{self.name} cannot be run")

    def step(self, cache: Any, tokens: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, Any]:
        raise SideFailed(f"{self.name} cannot be run")

    def decode(self, tokens: np.ndarray, positions: np.ndarray, split: int) -> np.ndarray:
        starts = (positions < 0).sum(axis=1)
        padding, length = tuple(int(n) for n in starts), self.tokens.shape[1]
        pieces = [tokens[row, first : first + length] for row, first in enumerate(padding)]
        self._check(np.array_equal(np.stack(pieces), self.tokens), "other tokens")
        wanted = (split - max(padding), padding if max(padding) else None)
        run = next(
            (run for run in self.model.runs if (run.split, run.padding if any(run.padding or ()) else None) == wanted), None
        )
        if run is None or run.made is None:
            raise SideFailed(run.failure if run is not None else f"{self.name} was not recorded with a prefill of {wanted[0]}")
        made = np.zeros((*positions.shape, *run.made.shape[2:]), run.made.dtype)
        for row, first in enumerate(padding):
            made[row, first : first + length] = run.made[row]
        return made

    def _check(self, same: bool, what: str) -> None:
        if not same:
            raise SideFailed(f"{self.name} was recorded with {what}, and cannot be run with these")
