"""The inputs of an exported call for an implementation, and the results that are expected of it.

exported_call(folder, entry) = (inputs, oracle, sigma)        everything as NumPy arrays, by name
"""

# JSON says nothing of its types. A checksum says that a file is the one that the index means, not that either is ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention.parity.exported_cases.file_format import GROUPS, VERSION, Entry, check_header, verified
from attention.spec.errors import FileError
from attention.spec.storage.disk import brief, parsed
from attention.spec.storage.safetensors_format import loaded

Arrays = dict[str, np.ndarray]

FACTS: dict[str, type] = {"case": str, "probe": str, "dtype": str, "contract": dict, "training": bool}
"""What a call's JSON file says that is no list, and its type."""


@dataclass(frozen=True, eq=False)
class Given:
    """One call: what an implementation needs to compute its results. All arrays are NumPy's, and the receiver's own.

    Attributes:
        case: the contract's name.
        probe: what the call is there to catch.
        dtype: of weights and inputs.
        contract: the layer, as nested dicts: "type" and its fields.
        inputs: "query", and "key", "value", "bias" where the call has them; "x" and "memory" of a block.
        weights: by canonical name.
        cotangents: by output: what the gradients are pulled back from.
        masks: bool by place; True = may attend. "present" says which tokens exist.
        positions: integers by input, where the layer looks at them.
        rotary: cosines and sines, by place and input, where the layer turns its heads.
        keep: bool by place, where dropout is on: what it keeps.
        training: whether dropout is on.
        results: the names of what is compared.
        notes: what else a reader must know.
    """

    case: str
    probe: str
    dtype: str
    contract: Mapping[str, Any]
    inputs: Arrays
    weights: Arrays
    cotangents: Arrays
    masks: Arrays
    positions: Arrays
    rotary: Arrays
    keep: Arrays
    training: bool
    results: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def mask(self) -> np.ndarray:
        """The mask of a layer that has one attention: bool `(*batch, H, T, S)`.

        Raises:
            KeyError: the layer has several; see `masks`.
        """
        return self.masks["attention"]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The results that are no gradients, all of which are wanted."""
        return tuple(name for name in self.results if not name.startswith("d "))


@dataclass(frozen=True, eq=False)
class Question:
    """A call, with the answer.

    Attributes:
        given: what an implementation sees.
        oracle: the float64 results by name.
        sigma: their budgets.
    """

    given: Given
    oracle: Arrays
    sigma: Arrays


def question(folder: Path, entry: Entry) -> Question:
    """Return a call of an export and its answer.

    Raises:
        FileError: a file is missing, changed, or of another version.
    """
    content, path = verified(folder, entry), folder / entry.files[0]
    said = f"call {brief(repr(entry.path))} must be as version {VERSION} of the format says"
    facts = parsed(content["json"], said)
    check_header(path, facts)
    groups: dict[str, Arrays] = {group: {} for group in GROUPS}
    for name, array in loaded(content["safetensors"], said).items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise FileError(f"{said}: array {brief(repr(name), 60)} must be of {', '.join(GROUPS)}")
        groups[group][rest] = array
    oracle, sigma = groups.pop("oracle"), groups.pop("sigma")
    named: dict[str, Any] = {name: _fact(facts, name, kind, said) for name, kind in FACTS.items()}
    named |= {name: _texts(facts, name, said) for name in ("results", "notes")}
    _check_answer(named["results"], oracle, sigma, said)
    named |= groups
    return Question(Given(**named), oracle, sigma)


def _fact(facts: Mapping[str, Any], name: str, kind: type, said: str) -> Any:
    if not isinstance(facts.get(name), kind):
        raise FileError(f"{said}: {name} {brief(repr(facts.get(name)), 60)} must be of type {kind.__name__}")
    return facts[name]


def _texts(facts: Mapping[str, Any], name: str, said: str) -> tuple[str, ...]:
    found = _fact(facts, name, list, said)
    if not all(isinstance(text, str) for text in found):
        raise FileError(f"{said}: {name} must be texts")
    return tuple(found)


def _check_answer(results: tuple[str, ...], oracle: Arrays, sigma: Arrays, said: str) -> None:
    """Raise FileError unless every result has an oracle and a budget of one shape, in float64."""
    for name in results:
        pair = [group.get(name) for group in (oracle, sigma)]
        if any(x is None or x.dtype != np.float64 or x.shape != oracle[name].shape for x in pair):
            raise FileError(f"{said}: result {brief(repr(name), 60)} must have an oracle and a sigma of one shape, in float64")
