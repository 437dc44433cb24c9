"""DenseMask: a boolean array as a mask, and conversions from the mask conventions of other libraries.

    allowed[b, h, t, s] = array[b, h, t, s]                     DenseMask, and SDPA, jax.nn, flax, keras
    allowed[b, h, t, s] = not mask[b, s]                        torch.nn.MultiheadAttention's key_padding_mask
    allowed[t, s] = not mask[t, s]                              torch.nn.MultiheadAttention's attn_mask
    allowed[b, h, t, s] = bias[b, h, t, s] == 0                 a bias of 0 and -inf
    allowed[b, h, t, s] = mask[b, s] == 1                       transformers' attention_mask

Every conversion is by name, because polarity cannot be seen in an array.
"""

# ml_dtypes and NumPy leave the types of numbers unsaid.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import ml_dtypes
import numpy as np

from attention.spec.axes import COMPUTE, Array, dtype_name
from attention.spec.errors import MaskError, shown
from attention.spec.masks.algebra import Mask
from attention.spec.masks.fields import check_rank, is_count, known
from attention.spec.masks.grid import Grid
from attention.spec.options import is_array, is_sparse
from attention.spec.tree import data

ADDITIVE = "a mask of 0 and -inf is DenseMask.from_additive(mask)"


@dataclass(frozen=True, eq=False, repr=False)
class DenseMask(Mask):
    """The mask as an array: bool, broadcastable to `(*batch, H, T, S)`; True = may attend."""

    array: Array = field(metadata=data("H", "T", "S"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", _bools("DenseMask array", self.array, "True = may attend"))

    def allowed(self, at: Grid) -> Array:
        return at.per_score(self.array)

    @classmethod
    def from_torch_key_padding_mask(cls, key_padding_mask: Any) -> Self:
        """Return the mask of `torch.nn.MultiheadAttention`'s `key_padding_mask`: bool `(*batch, S)`, True = drop the key.

        >>> DenseMask.from_torch_key_padding_mask([[False, False, True]])
        DenseMask(array=[[[[True, True, False]]]])
        """
        mask = _bools("DenseMask.from_torch_key_padding_mask", key_padding_mask, "True = drop the key")
        check_rank("DenseMask.from_torch_key_padding_mask", mask, "(*batch, S)", least=1)
        return cls(~mask[..., None, None, :])

    @classmethod
    def from_torch_attn_mask(cls, attn_mask: Any, num_heads: int | None = None) -> Self:
        """Return the mask of `torch.nn.MultiheadAttention`'s `attn_mask`: bool, True = drop the pair.

        Args:
            attn_mask: `(T, S)`, or `(B * H, T, S)` with the heads of one batch row side by side.
            num_heads: H; needed for three axes.

        Raises:
            MaskError: no bool, another rank, or `num_heads` missing or no divisor of B * H.
        """
        name = "DenseMask.from_torch_attn_mask"
        mask = _bools(name, attn_mask, "True = drop the pair")
        check_rank(name, mask, "(T, S) or (B * H, T, S)", least=2, most=3)
        if len(mask.shape) == 2:
            return cls(~mask)
        rows, t, s = mask.shape
        if num_heads is None or not is_count(num_heads, 1) or rows % num_heads:
            raise MaskError(f"{name} num_heads {shown(num_heads)} must be H, a divisor of B * H = {rows}")
        return cls(~mask.reshape((rows // num_heads, num_heads, t, s)))

    @classmethod
    def from_sdpa(cls, attn_mask: Any) -> Self:
        """Return the mask of torch's `scaled_dot_product_attention`: bool `(*batch, H, T, S)`, True = may attend.

        Any axis may be 1 and leading ones absent, down to `(T, S)`.
        """
        mask = _bools("DenseMask.from_sdpa", attn_mask, "True = may attend")
        check_rank("DenseMask.from_sdpa", mask, "(*batch, H, T, S) or (T, S)", least=2)
        return cls(mask)

    @classmethod
    def from_additive(cls, bias: Any) -> Self:
        """Return the mask that is added to scores: 0 where a query may attend, -inf or the dtype's least where not.

        Args:
            bias: floating, broadcastable to `(*batch, H, T, S)`.

        Raises:
            MaskError: not floating, or values other than 0 and -inf, or traced values.
        """
        bias = _listed("DenseMask.from_additive", bias, "floating")
        if dtype_name(bias) not in COMPUTE:
            raise MaskError(f"DenseMask.from_additive {dtype_name(bias)} must be floating: 0 = may attend, -inf = may not")
        least = float(ml_dtypes.finfo(dtype_name(bias)).min)
        fits = known((bias == 0) | (bias <= least))
        if fits is None:
            raise MaskError("DenseMask.from_additive must be known numbers: make the mask outside what is traced")
        if not fits:
            raise MaskError(
                f"DenseMask.from_additive must be 0 or at most {least:.4g}: pass other values as bias=, not as a mask"
            )
        return cls(bias == 0)

    @classmethod
    def from_huggingface(cls, attention_mask: Any) -> Self:
        """Return the mask of transformers' `attention_mask`: 1 and 0, or bool, `(B, S)`; 1 = the key exists.

        >>> DenseMask.from_huggingface([[1, 1, 0]])
        DenseMask(array=[[[[True, True, False]]]])
        """
        mask = _ones("DenseMask.from_huggingface", attention_mask)
        check_rank("DenseMask.from_huggingface", mask, "(B, S)", least=2, most=2)
        return cls(mask[:, None, None, :])

    @classmethod
    def from_flax(cls, mask: Any) -> Self:
        """Return the mask of flax's attention: `(*batch, H, T, S)`, bool or 1 and 0 of any type; True = may attend.

        `nnx.make_causal_mask` and its kin make such masks, in float32.
        """
        mask = _ones("DenseMask.from_flax", mask)
        check_rank("DenseMask.from_flax", mask, "(*batch, H, T, S)", least=3)
        return cls(mask)

    @classmethod
    def from_keras(cls, attention_mask: Any) -> Self:
        """Return the mask of keras' `MultiHeadAttention`: `(B, T, S)`, bool or 1 and 0; 1 = may attend."""
        mask = _ones("DenseMask.from_keras", attention_mask)
        check_rank("DenseMask.from_keras", mask, "(B, T, S)", least=3, most=3)
        return cls(mask[:, None, :, :])


def _listed(name: str, value: Any, wanted: str = "bool") -> Array:
    """Return nested lists as an array, and an array unchanged; errors include `wanted`."""
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError:
            raise MaskError(f"{name} {shown(value)} must be {wanted} in rows of one length") from None
    # Not what has a shape and no values, nor torch's sparse arrays, which cannot be compared.
    if not (is_array(value) and hasattr(value, "__getitem__")) or is_sparse(value):
        raise MaskError(f"{name} {type(value).__name__} must be {wanted}, in an array")
    return value


def _bools(name: str, value: Any, means: str) -> Array:
    """Return an array of bool, whose True `means` something, or raise MaskError."""
    mask = _listed(name, value)
    got = dtype_name(mask)
    if got != "bool":
        raise MaskError(f"{name} {got} must be bool, {means}" + (f"; {ADDITIVE}" if got in COMPUTE else ""))
    return mask


def _ones(name: str, value: Any) -> Array:
    """Return an array of bool or of 1 and 0 as bool. Traced values are not checked."""
    mask = _listed(name, value)
    got = dtype_name(mask)
    if got != "bool" and got not in COMPUTE and "int" not in got:
        raise MaskError(f"{name} {got} must be bool, or 1 = may attend and 0 = may not")
    if got != "bool" and known((mask == 0) | (mask == 1)) is False:
        raise MaskError(f"{name} must be 1 = may attend or 0 = may not; ids of documents are Segments(ids), and {ADDITIVE}")
    return mask if got == "bool" else mask != 0
