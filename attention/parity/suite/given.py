"""What an implementation is given of a call, and what is wanted of it.

question(folder, entry) = (given, oracle, sigma)        everything as NumPy arrays, by name
"""

# JSON and safetensors say nothing of their types; the checksum says that they are those that were written.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from attention.parity.suite.layout import GROUPS, VERSION, Entry, check_header, verified
from attention.spec.errors import FileError, shown

Arrays = dict[str, np.ndarray]

# What safetensors.numpy calls them, and bfloat16, which it does not read.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": ml_dtypes.bfloat16, "I64": "int64", "BOOL": "bool"}


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
    content = verified(folder, entry)
    try:
        facts, arrays = json.loads(content["json"]), loaded(content["safetensors"])
        check_header(folder / entry.files[0], facts)
        groups: dict[str, Arrays] = {group: {} for group in GROUPS}
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = array
        oracle, sigma = groups.pop("oracle"), groups.pop("sigma")
        named: dict[str, Any] = {name: facts[name] for name in ("case", "probe", "dtype", "contract", "training")}
        named |= groups
        given = Given(**named, results=tuple(facts["results"]), notes=tuple(facts["notes"]))
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError) as error:
        raise FileError(f"call {shown(entry.path)} must be as version {VERSION} of the format says: {error!r}") from error
    return Question(given, oracle, sigma)


def loaded(content: bytes) -> Arrays:
    """Return the arrays of a safetensors file.

    Raises:
        SafetensorError: it is none.
        KeyError: an array has a dtype that the format does not use.
    """
    found = deserialize(content)
    return {name: np.frombuffer(view["data"], DTYPES[view["dtype"]]).reshape(view["shape"]) for name, view in found}
