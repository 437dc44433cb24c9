"""Recorded models: the outputs of a model, its blocks and its decoding on one machine, compared with a model on another.

    record_model("golden.safetensors", model, inputs)        golden = recorded_model("golden.safetensors")
    layerwise(golden, port)        compare_logits(golden, logits)        compare_decoding(golden, port, None)

The file is a recording (`recording_file`) of the kind "model". Its arrays are read when they are looked at, so that no more of
a model is in memory than the block that is judged.

    inputs/  params/  outputs/  exact/        of the whole model; exact: its outputs in float64, where it runs in float64
    received/I/  returned/I/                  of block I
    decoding/tokens  whole  exact  I          of each run of the decoding
"""

# A recording may hold anything.
# pyright: standard

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from attention.parity.adapters.program import Arrays, Call, Made
from attention.parity.compare.recording_file import Recording, read
from attention.parity.compare.replayed_program import RECORDED, RecordedProgram, decoded
from attention.parity.numerics.array_kinds import is_float
from attention.spec.errors import FileError, OptionError, SideFailed
from attention.spec.numbers import is_count
from attention.spec.options import PATH, checked
from attention.spec.storage.disk import brief

GROUPS = ("inputs", "params", "outputs", "exact", "received", "returned", "decoding")
MOST_BLOCKS = 2**14
"""Blocks that a recording may hold."""


@dataclass(frozen=True)
class RecordedBlock:
    """One block: how often it was called, and what it received first and returned.

    Attributes:
        calls: how often it was called.
        received: arrays by their path in its call.
        returned: its outputs by path.
    """

    calls: int
    received: Arrays = field(repr=False)
    returned: Arrays = field(repr=False)


@dataclass(frozen=True)
class RecordedRun:
    """One way of decoding: the tokens of the prefill, the padding before each row, and what was made of it."""

    split: int
    padding: tuple[int, ...] | None
    made: np.ndarray | None = field(repr=False)
    failure: str = ""


class WideProgram(RecordedProgram):
    """A recorded program that has its outputs in float64 too."""

    exact: Arrays

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        if dtype != "float64" or not self.exact:
            return super().run(call, params=params, cotangents=cotangents, dtype=dtype)
        _ = super().run(call, params=params)
        return Made(self.exact)


@dataclass(frozen=True, eq=False)
class RecordedModel:
    """A model as it was recorded. `layerwise`, `compare_logits` and `compare_decoding` take it in the place of a model.

    Args:
        recording: of the kind "model".

    Raises:
        FileError: the recording is of another kind, or damaged.
    """

    recording: Recording = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.recording, Recording) or self.recording.kind != "model":
            kind = getattr(self.recording, "kind", type(self.recording).__name__)
            raise FileError(f"recording of a {brief(kind, 60)} must be one of a model, as 'attention record' writes it")
        # Everything is looked at before anything is compared.
        _ = self.program, self.blocks, self.runs, self.takes_padding, self.single

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self._fact('name', str)}{RECORDED}"

    @property
    def framework(self) -> str:
        """What it ran in."""
        return self._fact("side", str)

    @property
    def note(self) -> str:
        """Where it was recorded, and what is another version here."""
        return self.recording.note

    @cached_property
    def program(self) -> WideProgram:
        """The whole model, which answers the recorded call alone."""
        outputs, facts = self._group("outputs"), self.recording.facts
        try:
            args, kwargs = (decoded(facts["call"][part], self._group("inputs")) for part in ("args", "kwargs"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"recording must hold the inputs of a model: {brief(repr(error))} is missing or wrong") from error
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise FileError("recording must hold the inputs of a model: args and kwargs are wrong")
        kind = next((str(x.dtype) for x in outputs.values() if is_float(x)), "float32")
        made = WideProgram(self.name, self.framework, kind, Call(args, kwargs), self._group("params"), {}, Made(outputs))
        made.exact = self._group("exact")
        if made.exact and {k: x.shape for k, x in made.exact.items()} != {k: x.shape for k, x in outputs.items()}:
            raise FileError("recording must hold the same outputs in float64 as in the dtype of the model")
        return made

    @cached_property
    def blocks(self) -> dict[str, RecordedBlock]:
        """What each block received and returned, by its path."""
        told = self._fact("blocks", list)
        if len(told) > MOST_BLOCKS or not all(_is_block(each) for each in told) or len({e["path"] for e in told}) < len(told):
            raise FileError(f"recording must name at most {MOST_BLOCKS} blocks, each once, with the number of its calls")
        found = {
            each["path"]: RecordedBlock(each["calls"], self._group(f"received/{i}"), self._group(f"returned/{i}"))
            for i, each in enumerate(told)
        }
        lost = [path for path, block in found.items() if not block.received or not block.returned]
        if lost:
            raise FileError(f"recording must hold what block {brief(repr(lost[0]), 60)} received and returned")
        return found

    @cached_property
    def runs(self) -> tuple[RecordedRun, ...]:
        """The ways of decoding."""
        told, arrays = self._fact("decoding", list), self._group("decoding")
        shape = arrays["tokens"].shape[:2] if "tokens" in arrays and arrays["tokens"].ndim in (2, 3) else None
        if told and (shape is None or not all(_is_run(each, shape) for each in told)):
            raise FileError("recording must hold the tokens that were decoded, and say how")
        wrong = [name for name, x in arrays.items() if shape is None or x.shape[:2] != shape]
        if wrong:
            raise FileError(f"recording's decoding {brief(repr(wrong[0]), 60)} must begin with (B, T) as the tokens do")
        return tuple(
            RecordedRun(
                each["split"], None if each["padding"] is None else tuple(each["padding"]), arrays.get(str(i)), each["failure"]
            )
            for i, each in enumerate(told)
        )

    @property
    def logits(self) -> np.ndarray:
        """The output of the whole model that holds the logits.

        Raises:
            SideFailed: it has several outputs, and none is called logits.
        """
        return _logits(self.program.made.outputs, self.name)

    @property
    def exact_logits(self) -> np.ndarray | None:
        """The same in float64; None if they were not recorded."""
        return _logits(self.program.exact, self.name) if self.program.exact else None

    @property
    def decoded(self) -> Mapping[str, np.ndarray]:
        """The "tokens" that were decoded, the outputs of the "whole" pass, and its "exact" ones; what is absent is left out."""
        return self._group("decoding")

    @property
    def takes_padding(self) -> bool:
        """Whether its decoding takes padding."""
        return self._fact("takes_padding", bool)

    @property
    def single(self) -> bool:
        """Whether it is decoded one token at a time, without a prefill."""
        return self._fact("single", bool)

    def _fact(self, name: str, kind: type) -> Any:
        value = self.recording.facts.get(name)
        if not isinstance(value, kind):
            raise FileError(f"recording must say {name} as a {kind.__name__}: it is missing or wrong")
        return value

    def _group(self, group: str) -> Arrays:
        start = f"{group}/"
        return {name.removeprefix(start): x for name, x in self.recording.arrays.items() if name.startswith(start)}


def _logits(outputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = [outputs[key] for key in ("output.logits", "logits", "output") if key in outputs]
    if found or len(outputs) == 1:
        return found[0] if found else next(iter(outputs.values()))
    raise SideFailed(f"{name} has outputs {brief(', '.join(outputs) or 'none')}: none is called logits")


def _is_block(told: Any) -> bool:
    return isinstance(told, dict) and isinstance(told.get("path"), str) and is_count(told.get("calls"))


def _is_run(told: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(told, dict) or not is_count(told.get("split")) or not isinstance(told.get("failure"), str):
        return False
    padding = told.get("padding", 0)
    each = isinstance(padding, list) and len(padding) == shape[0] and all(is_count(n, 0) for n in padding)
    return told["split"] <= shape[1] and (padding is None or each)


@checked(path=PATH)
def recorded_model(path: str | os.PathLike[str]) -> RecordedModel:
    """Return the model that `record_model` wrote to a file, which must stay as it is while it is used.

    Raises:
        FileError: the file is missing, cut short, corrupt, or no recording of a model.
    """
    return RecordedModel(read(path, lazily=True))


def one_recording(sides: Sequence[Any]) -> int | None:
    """Return which of the models is a recorded one; None if none is.

    Raises:
        OptionError: all are, and nothing can be run.
    """
    found = [i for i, side in enumerate(sides) if isinstance(side, RecordedModel)]
    if len(found) > 1:
        raise OptionError("models must not both be recordings: one must be a model that can be run here")
    return found[0] if found else None
