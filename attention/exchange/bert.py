"""BERT and ALBERT: which stored tensor is which canonical parameter, and how its axes are split and reordered.

    stored (HD, M)  --split-->  (H, D, M)  --transpose-->  canonical (M, H, D)        query, key, value
    stored (M, HE)  --split-->  (M, H, E)  --transpose-->  canonical (H, E, M)        output

Reshape and transpose alone, so both directions are exact to the bit, for weights and for their gradients alike.

References:
    Devlin et al., arXiv:1810.04805 (BERT); Lan et al., arXiv:1909.11942 (ALBERT); names as in Hugging Face checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention.spec.errors import OptionError, ParamError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.params import Param, Weights

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One line of a dialect's table."""

    canonical: str
    stored: str
    axes: tuple[str, ...]
    """The stored axes, each named by the letters that it merges: `("HD", "M")`."""

    def shape(self, param: Param) -> tuple[int, ...]:
        """Return the shape of the stored tensor."""
        sizes = dict(zip(param.axes, param.shape, strict=True))
        return tuple(math.prod(sizes[letter] for letter in merged) for merged in self.axes)

    def read(self, stored: np.ndarray, param: Param) -> np.ndarray:
        """Return the canonical parameter that `stored` holds, as a copy."""
        letters, sizes = "".join(self.axes), dict(zip(param.axes, param.shape, strict=True))
        split = stored.reshape([sizes[letter] for letter in letters])
        return split.transpose([letters.index(letter) for letter in param.axes]).copy()

    def write(self, canonical: np.ndarray, param: Param) -> np.ndarray:
        """Return the stored tensor of a `canonical` parameter, as a copy: the inverse of `read`."""
        split = canonical.transpose([param.axes.index(letter) for letter in "".join(self.axes)])
        return split.reshape(self.shape(param)).copy()


@dataclass(frozen=True)
class Dialect:
    """How one family of checkpoints names and stores an attention layer."""

    name: str
    rows: tuple[Row, ...]
    beside: frozenset[str]
    """Tensors stored among the rows that are no part of the attention: the norm after the residual sum."""

    @property
    def output(self) -> str:
        """Where in the family's own module its output projection is: `"output.dense"`."""
        return next(row.stored for row in self.rows if row.canonical == "out_proj.bias").removesuffix(".bias")


def _rows(query: str, key: str, value: str, output: str) -> tuple[Row, ...]:
    return (
        Row("q_proj.kernel", f"{query}.weight", ("HD", "M")),
        Row("q_proj.bias", f"{query}.bias", ("HD",)),
        Row("k_proj.kernel", f"{key}.weight", ("KD", "M")),
        Row("k_proj.bias", f"{key}.bias", ("KD",)),
        Row("v_proj.kernel", f"{value}.weight", ("KE", "M")),
        Row("v_proj.bias", f"{value}.bias", ("KE",)),
        Row("out_proj.kernel", f"{output}.weight", ("M", "HE")),
        Row("out_proj.bias", f"{output}.bias", ("M",)),
    )


BERT = Dialect(
    "BERT",
    _rows("self.query", "self.key", "self.value", "output.dense"),
    beside=frozenset({"output.LayerNorm.weight", "output.LayerNorm.bias"}),
)
ALBERT = Dialect(
    "ALBERT",
    _rows("query", "key", "value", "dense"),
    beside=frozenset({"LayerNorm.weight", "LayerNorm.bias"}),
)


def contract(config: Mapping[str, Any]) -> MultiHeadAttention:
    """Return the contract of the attention that a BERT or ALBERT `config.json` describes.

    Args:
        config: the parsed file. Only sizes are taken from it; dropout belongs to training.

    Raises:
        OptionError: it asks for positions inside the attention, or for a decoder; reading on would drop them silently.
    """
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise OptionError(f"position_embedding_type {positions!r} must be 'absolute', which is outside the attention")
    if config.get("is_decoder"):
        raise OptionError("is_decoder True must be False: the table has no causal mask and no cross-attention")
    return MultiHeadAttention(embed_dim=config["hidden_size"], num_heads=config["num_attention_heads"])


def read(tensors: Mapping[str, np.ndarray], dialect: Dialect, contract: MultiHeadAttention, at: str = "") -> Weights:
    """Return the canonical weights of the attention layer stored under the name prefix `at`.

    Args:
        tensors: a whole checkpoint; only the names that start with `at` are looked at.
        dialect: `BERT` or `ALBERT`.
        contract: gives the canonical shapes.
        at: name prefix, with its dot: `"encoder.layer.0.attention."`.

    Raises:
        ParamError: tensors under `at` are missing, misshapen, or unknown to the table; all are named.
    """
    found = {name.removeprefix(at): tensor for name, tensor in tensors.items() if name.startswith(at)}
    rows = {row: contract.params[row.canonical] for row in dialect.rows if row.canonical in contract.params}
    # A tensor that the table does not know may be mathematics, such as relative positions: to drop it would be a lie.
    got = {name: tensor.shape for name, tensor in found.items() if name not in dialect.beside}
    _check(f"{dialect.name} tensors under {at!r}", got, {row.stored: row.shape(param) for row, param in rows.items()})
    return {row.canonical: row.read(found[row.stored], param) for row, param in rows.items()}


def write(weights: Weights, dialect: Dialect, contract: MultiHeadAttention, at: str = "") -> dict[str, np.ndarray]:
    """Return the stored tensors, named under the prefix `at`, of canonical `weights`: the inverse of `read`.

    Raises:
        ParamError: parameters are missing, misshapen or unknown; all are named.
    """
    params = contract.params
    got = {name: value.shape for name, value in weights.items()}
    _check("canonical weights", got, {name: param.shape for name, param in params.items()})
    rows = [row for row in dialect.rows if row.canonical in params]
    return {at + row.stored: row.write(weights[row.canonical], params[row.canonical]) for row in rows}


def _check(name: str, got: Shapes, wanted: Shapes) -> None:
    faults = [f"missing {n} {shape}" for n, shape in wanted.items() if n not in got]
    faults += [f"unexpected {n} {shape}" for n, shape in got.items() if n not in wanted]
    faults += [f"{n} {got[n]} must be {shape}" for n, shape in wanted.items() if n in got and got[n] != shape]
    if faults:
        raise ParamError(f"{name} do not fit: {'; '.join(faults)}")
