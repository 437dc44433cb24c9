"""The inputs of an exported call for an implementation, and the results that are expected of it.

exported_case(folder, entry) = (inputs, oracle, sigma)        everything as NumPy arrays, by name
"""

# JSON has no types, and a checksum proves that a file is the one in the index, not that either is valid.
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
"""The fields of a call's JSON file that are no lists, and their types."""


@dataclass(frozen=True, eq=False)
class CaseCall:
    """One call: everything that an implementation needs to compute its results. All arrays are copies, in NumPy.

    Attributes:
        case: the contract's name.
        probe: the mistake that the call reveals.
        dtype: of weights and inputs.
        contract: the layer, as nested dicts: "type" and its fields.
        inputs: "query", and "key", "value", "bias" where the call has them; "x" and "memory" of a block.
        weights: by canonical name.
        cotangents: by output, for the gradients.
        masks: bool by place; True = may attend. "present": which tokens exist.
        positions: integers by input, where the layer uses them.
        rotary: cosines and sines, by place and input, where the layer has rotary positions.
        keep: bool by place, the weights that dropout keeps, where it is on.
        training: whether dropout is on.
        results: the names of the results that are compared.
        notes: further lines for the reader.
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
        """The results that are no gradients, all of which are required."""
        return tuple(name for name in self.results if not name.startswith("d "))


@dataclass(frozen=True, eq=False)
class ExportedCase:
    """A call with its expected results.

    Attributes:
        call: the inputs of an implementation.
        oracle: the float64 results by name.
        sigma: their budgets.
    """

    call: CaseCall
    oracle: Arrays
    sigma: Arrays


def exported_case(folder: Path, entry: Entry) -> ExportedCase:
    """Return a call of an export and its expected results.

    Raises:
        FileError: a file is missing, changed, or of another version.
    """
    content, path = verified(folder, entry), folder / entry.files[0]
    rule = f"call {brief(repr(entry.path))} must follow version {VERSION} of the format"
    facts = parsed(content["json"], rule)
    check_header(path, facts)
    groups: dict[str, Arrays] = {group: {} for group in GROUPS}
    for name, array in loaded(content["safetensors"], rule).items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise FileError(f"{rule}: array {brief(repr(name), 60)} must be of {', '.join(GROUPS)}")
        groups[group][rest] = array
    oracle, sigma = groups.pop("oracle"), groups.pop("sigma")
    values: dict[str, Any] = {name: _fact(facts, name, kind, rule) for name, kind in FACTS.items()}
    values |= {name: _texts(facts, name, rule) for name in ("results", "notes")}
    _check_results(values["results"], oracle, sigma, rule)
    values |= groups
    return ExportedCase(CaseCall(**values), oracle, sigma)


def _fact(facts: Mapping[str, Any], name: str, kind: type, rule: str) -> Any:
    if not isinstance(facts.get(name), kind):
        raise FileError(f"{rule}: {name} {brief(repr(facts.get(name)), 60)} must be of type {kind.__name__}")
    return facts[name]


def _texts(facts: Mapping[str, Any], name: str, rule: str) -> tuple[str, ...]:
    found = _fact(facts, name, list, rule)
    if not all(isinstance(text, str) for text in found):
        raise FileError(f"{rule}: {name} must be texts")
    return tuple(found)


def _check_results(results: tuple[str, ...], oracle: Arrays, sigma: Arrays, rule: str) -> None:
    """Raise FileError unless every result has an oracle and a budget of one shape, in float64."""
    for name in results:
        pair = [group.get(name) for group in (oracle, sigma)]
        if any(x is None or x.dtype != np.float64 or x.shape != oracle[name].shape for x in pair):
            raise FileError(f"{rule}: result {brief(repr(name), 60)} must have an oracle and a sigma of one shape, in float64")
