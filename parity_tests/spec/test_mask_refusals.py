"""Impossible masks and masks that do not fit: one error, in the same words in every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention.jax_impl import masks as jax_masks
from attention.spec import masks
from attention.spec.errors import MaskError, OptionError
from attention.spec.masks.algebra import Mask
from attention.torch_impl import masks as torch_masks
from parity_tests.support.drawn_masks import B, S, T, of, table

CPU = torch.device("cpu")
NUMBER: Any = 1.5

# What is inside another mask is checked all the same.
INSIDE: dict[str, Callable[[Mask], Mask]] = {
    "alone": lambda mask: mask,
    "right of &": lambda mask: masks.Prefix(1) & mask,
    "left of |": lambda mask: mask | masks.Prefix(1),
    "under ~": lambda mask: ~mask,
}


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "error", "text"),
        [
            (lambda: masks.Causal(align="middle"), OptionError, "align 'middle' must be None, 'start' or 'end'"),
            (lambda: masks.Causal(align="end", query_positions=[0]), OptionError, "align or query_positions, not both"),
            (lambda: masks.Causal(query_positions=np.ones(2)), MaskError, "query_positions float64 must be integers"),
            (
                lambda: masks.Window(before=-1, after=0),
                OptionError,
                "Window before -1 must be an int >= 0, in keys besides the",
            ),
            (lambda: masks.Window(before=0, after=NUMBER), OptionError, r"Window after 1\.5 must be an int >= 0"),
            (lambda: masks.Window(before=True, after=0), OptionError, "Window before True must be an int >= 0"),
            (lambda: masks.Chunked(size=0), OptionError, "Chunked size 0 must be an int >= 1"),
            (lambda: masks.Prefix(-1), OptionError, "Prefix length -1 must be an int >= 0 or integers"),
            (lambda: masks.Prefix("two"), MaskError, "Prefix length 'two' must be integers: a list or an array"),
            (lambda: masks.Segments(np.ones(3)), MaskError, "Segments kv float64 must be integers"),
            (lambda: masks.Segments([0], q=3), MaskError, "Segments q 3 must be integers: a list or an array"),
            (lambda: masks.Lengths(5), MaskError, "Lengths kv 5 must be integers: a list or an array"),
            (lambda: masks.Segments([0], np.array([True])), MaskError, "Segments q bool must be integers"),
            (lambda: masks.Lengths([5], padding="up"), OptionError, "Lengths padding 'up' must be 'right' or 'left'"),
            (lambda: masks.Lengths([1.5]), MaskError, "Lengths kv float64 must be integers"),
            (lambda: masks.Lengths([True]), MaskError, "Lengths kv bool must be integers"),
            (lambda: masks.Lengths(["one"]), MaskError, "Lengths kv <U3 must be integers"),
            (lambda: masks.Lengths([[1], [1, 2]]), MaskError, r"kv \[\[1\], \[1, 2\]\] must be integers in rows of one"),
            (lambda: masks.Chunked(size=True), OptionError, "Chunked size True must be an int"),
            (lambda: masks.Prefix(True), OptionError, "Prefix length True must be an int"),
            (lambda: masks.DenseMask(np.ones((3, 5))), MaskError, "DenseMask array float64 must be bool, True = may attend"),
            (lambda: masks.DenseMask(torch.ones(3, 5)), MaskError, "DenseMask array float32 must be bool"),
            (lambda: masks.DenseMask(jnp.ones((3, 5), int)), MaskError, "DenseMask array int32 must be bool"),
            (lambda: masks.DenseMask("all"), MaskError, "DenseMask array str must be bool"),
            (lambda: masks.Causal() & np.ones((3, 3), bool), MaskError, r"ndarray must be a Mask: wrap .* as DenseMask"),
            (lambda: masks.Causal() | np.ones(3, bool), MaskError, "mask ndarray must be a Mask"),
            (lambda: masks.PerHead(()), MaskError, r"PerHead masks \(\) must be a tuple of at least one Mask"),
            (lambda: masks.PerRow(NUMBER), MaskError, r"PerRow masks 1\.5 must be a tuple of at least one Mask"),
            (lambda: masks.PerHead((masks.Causal(), NUMBER)), MaskError, "mask float must be a Mask: wrap a boolean array"),
            (lambda: masks.Placed(NUMBER, [0], [0]), MaskError, r"Placed mask 1\.5 must be structure without arrays"),
            (
                lambda: masks.Placed(masks.PerHead((masks.Lengths([1]),)), [0], [0]),
                MaskError,
                r"Placed mask PerHead\(masks=\(Lengths\(kv=\[1\], .* must be structure without arrays, or None",
            ),
            (lambda: masks.Placed(None, [0.5], [0]), MaskError, "Placed query_positions float64 must be integers"),
            (lambda: masks.Placed(None, [0], [True]), MaskError, "Placed key_positions bool must be integers"),
            (lambda: masks.Not(NUMBER), MaskError, "mask float must be a Mask"),
            (lambda: masks.Or(masks.Causal(), NUMBER), MaskError, "mask float must be a Mask: wrap"),
        ],
    )
    def test_a_mask_that_cannot_be(self, make: Callable[[], Mask], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            _ = make()

    @pytest.mark.parametrize(
        ("mask", "text"),
        [
            (masks.Causal(), "Causal with T = 3 queries and S = 5 keys must say where a query stands: align='start'"),
            (masks.Window(before=1, after=1), "Window with T = 3 queries and S = 5 keys must say"),
            (masks.Chunked(size=2), "Chunked with T = 3 queries and S = 5 keys must say"),
            (
                masks.Causal(query_positions=[0, 1]),
                r"query_positions \(2,\) must broadcast to \(\*batch, T\) = \(2, 3\)",
            ),
            (masks.Prefix(6), r"Prefix length 6 must be in 0\.\.S = 5"),
            (masks.Prefix([3, -1]), r"Prefix length \[3, -1\] must be in 0\.\.S = 5"),
            (masks.Segments([0, 1, 2, 3, 4]), "Segments with T = 3 and S = 5 must be given q"),
            (masks.Segments([0, 1, 2]), r"Segments kv \(3,\) must broadcast to \(\*batch, S\) = \(2, 5\)"),
            (masks.Segments([0] * 5, [0] * 5), r"Segments q \(5,\) must broadcast to \(\*batch, T\) = \(2, 3\)"),
            (masks.Lengths([5, 6]), r"Lengths kv \[5, 6\] must be in 0\.\.S = 5"),
            (masks.Lengths([5, 5], [4, 3]), r"Lengths q \[4, 3\] must be in 0\.\.T = 3"),
            (masks.Lengths([1, 2, 3]), r"Lengths kv \(3,\) must broadcast to \(\*batch,\) = \(2,\)"),
            (masks.PerHead((masks.Prefix(1),) * 2), "PerHead masks, 2, must be one for each of H = 1 query heads"),
            (masks.PerRow((masks.Prefix(1),) * 3), r"PerRow masks, 3, must be one for each row of the last axis of \(2,\)"),
            (masks.PerHead((masks.Prefix(6),)), r"Prefix length 6 must be in 0\.\.S = 5"),
            (masks.PerRow((masks.Prefix(1), masks.Lengths([6]))), r"Lengths kv \[6\] must be in 0\.\.S = 5"),
            (masks.Placed(None, [0, 1], [0]), r"Placed query_positions \(2,\) must broadcast to \(\*batch, T\) = \(2, 3\)"),
            (
                masks.Placed(masks.PerHead((masks.Causal(),) * 2), [0], [0]),
                "PerHead masks, 2, must be one for each of H = 1 query heads",
            ),
            (
                masks.Placed(masks.Causal(), [0], [0, 1]),
                r"Placed key_positions \(2,\) must broadcast to \(\*batch, S\) = \(2, 5\)",
            ),
            (
                masks.DenseMask(np.ones((5, 3), bool)),
                r"DenseMask array \(5, 3\) must broadcast to \(\*batch, H, T, S\) = \(2, 1, 3,",
            ),
        ],
    )
    @pytest.mark.parametrize("inside", INSIDE)
    def test_a_mask_that_does_not_fit_in_any_backend(self, mask: Mask, text: str, inside: str) -> None:
        whole = INSIDE[inside](mask)
        natives = [torch_masks.native(whole, CPU), jax_masks.native(whole), whole]
        for native, read in zip(natives, [torch_masks.read, jax_masks.read, np.asarray], strict=True):
            with pytest.raises(MaskError, match=text, check=lambda caught: type(caught) is MaskError):
                native.check(of(T, S), read)

    @pytest.mark.parametrize("number", [2**31, 2**40, -(2**31) - 1, -(2**63)])
    def test_a_number_that_jax_would_cut(self, number: int) -> None:
        for ids in ([number], np.array([number])):
            with pytest.raises(MaskError, match=rf"Segments kv {abs(number)} must be below 2\*\*31, which JAX counts to"):
                _ = masks.Segments(ids)

    @pytest.mark.parametrize("mask", [masks.Window(before=2**63 - 1, after=0), masks.Chunked(size=2**63 - 1)], ids=repr)
    def test_a_bound_of_sys_maxsize_is_no_bound_or_refused_by_us(self, mask: Mask) -> None:
        got = jax_masks.allowed(jax_masks.native(mask), of(S, S))
        np.testing.assert_array_equal(np.broadcast_to(np.asarray(got), (B, 1, S, S)), table(mask, of(S, S)))
