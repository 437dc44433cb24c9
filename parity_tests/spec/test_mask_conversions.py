"""Foreign masks: each conversion allows exactly the pairs that its framework allows, from arrays of any framework.

convert(mask).allowed = framework's weights(mask) > 0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch.nn.functional import scaled_dot_product_attention

from attention.spec.errors import MaskError
from attention.spec.masks import DenseMask, Segments
from attention.spec.masks.algebra import Mask
from attention.torch_impl.params import to_numpy
from parity_tests.support.absent import needs
from parity_tests.support.drawn_masks import of, table

B, H, T, S, D = 2, 3, 4, 5, 2
SIZES = of(T, S, (B,), heads=H)
RANDOM = np.random.default_rng(5)

# Key 1 is in every row that anybody sees, so that no framework has an empty row to do its own thing with.
KEEP = RANDOM.random((B, H, T, S)) < 0.5
KEEP[..., 1] = True
KEYS = KEEP[:, 0, 0]

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda x: x,
    "list": lambda x: x.tolist(),
    "torch": torch.tensor,
    "jax": jnp.asarray,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def allows(mask: Mask, wanted: np.ndarray) -> None:
    held = mask.map(lambda x: to_numpy(x) if isinstance(x, torch.Tensor) else np.asarray(x))
    np.testing.assert_array_equal(table(held, SIZES), np.broadcast_to(wanted, SIZES.scores))


def torch_weights(**masks: Any) -> np.ndarray:
    """The weights that torch's own layer gives."""
    layer = torch.nn.MultiheadAttention(H * D, H, batch_first=True).eval()
    q, kv = torch.tensor(RANDOM.random((B, T, H * D))).float(), torch.tensor(RANDOM.random((B, S, H * D))).float()
    with torch.no_grad():
        return layer(q, kv, kv, average_attn_weights=False, **masks)[1].numpy()


def sdpa_weights(attn_mask: torch.Tensor) -> np.ndarray:
    """The weights of torch's function, which the identity in the place of the values shows."""
    q, k = torch.tensor(RANDOM.random((B, H, T, D))), torch.tensor(RANDOM.random((B, H, S, D)))
    return scaled_dot_product_attention(q, k, torch.eye(S).double().expand(B, H, S, S), attn_mask=attn_mask).numpy()


class TestValues:
    @each_kind
    def test_torch_key_padding_mask_drops_where_true(self, kind: str) -> None:
        drop = ~KEYS
        allows(DenseMask.from_torch_key_padding_mask(KINDS[kind](drop)), KEYS[:, None, None, :])
        allows(DenseMask.from_torch_key_padding_mask(KINDS[kind](drop)), torch_weights(key_padding_mask=torch.tensor(drop)) > 0)

    @each_kind
    def test_torch_attn_mask_drops_where_true(self, kind: str) -> None:
        for drop in (~KEEP[0, 0], ~KEEP.reshape(B * H, T, S)):
            heads = H if drop.ndim == 3 else None
            wanted = torch_weights(attn_mask=torch.tensor(drop)) > 0
            allows(DenseMask.from_torch_attn_mask(KINDS[kind](drop), heads), wanted)
            assert wanted.any(-1).all()
            assert not wanted.all()

    @each_kind
    def test_sdpa_keeps_where_true(self, kind: str) -> None:
        for keep in (KEEP[0, 0], KEEP[:, :1], KEEP):
            allows(DenseMask.from_sdpa(KINDS[kind](keep)), sdpa_weights(torch.tensor(keep)) > 0)

    @each_kind
    def test_additive_keeps_where_zero(self, kind: str) -> None:
        # A list is of float64, whose least number is another.
        for low in (-np.inf, np.finfo(np.float64 if kind == "list" else np.float32).min):
            bias = np.where(KEEP, 0.0, low).astype(np.float64 if kind == "list" else np.float32)
            allows(DenseMask.from_additive(KINDS[kind](bias)), sdpa_weights(torch.tensor(bias, dtype=torch.float64)) > 0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_the_least_number_of_any_dtype_is_minus_infinity(self, dtype: torch.dtype) -> None:
        for low in (torch.finfo(dtype).min, -torch.inf):
            allows(DenseMask.from_additive(torch.tensor(np.where(KEEP, 0.0, low)).to(dtype)), KEEP)
        name = str(dtype).removeprefix("torch.")
        if name != "float64":
            allows(DenseMask.from_additive(jnp.where(KEEP, 0.0, jnp.finfo(name).min).astype(name)), KEEP)

    @each_kind
    @pytest.mark.parametrize("dtype", ["bool", "int64", "int32"])
    def test_huggingface_keeps_where_one(self, kind: str, dtype: str) -> None:
        with jax.enable_x64(dtype == "int64"):
            allows(DenseMask.from_huggingface(KINDS[kind](KEYS.astype(dtype))), KEYS[:, None, None, :])

    @needs("torch", "transformers")
    def test_huggingface_keeps_what_bert_gives_weight_to(self) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=8, hidden_size=H * D, num_hidden_layers=1, num_attention_heads=H, intermediate_size=4
        )
        config._attn_implementation = "eager"  # noqa: SLF001 - transformers' own way to have weights returned
        model = transformers.BertModel(config, add_pooling_layer=False).eval()
        mask = torch.tensor(KEYS.astype(np.int64))
        with torch.no_grad():
            weights = model(torch.ones(B, S, dtype=torch.int64), attention_mask=mask, output_attentions=True).attentions[0]
        held = DenseMask.from_huggingface(mask).map(to_numpy)
        np.testing.assert_array_equal(table(held, of(S, S, (B,), heads=H)), weights.numpy() > 0)

    @each_kind
    @pytest.mark.parametrize("dtype", ["bool", "float32", "int32"])
    def test_flax_keeps_where_true_or_one(self, kind: str, dtype: str) -> None:
        q, k = jnp.asarray(RANDOM.random((B, T, H, D))), jnp.asarray(RANDOM.random((B, S, H, D)))
        for keep in (KEEP, KEEP[:, :1], KEEP[0, :1]):
            weights = linen.dot_product_attention_weights(q, k, mask=jnp.asarray(keep.astype(dtype)).astype(bool))
            allows(DenseMask.from_flax(KINDS[kind](keep.astype(dtype))), np.asarray(weights) > 0)

    def test_what_flax_makes_is_taken_as_it_is(self) -> None:
        held = DenseMask.from_flax(nnx.make_causal_mask(jnp.ones((B, S))))
        np.testing.assert_array_equal(table(held, of(S, S, (B,), heads=H))[0, 0], np.tri(S, dtype=bool))

    @each_kind
    def test_keras_keeps_where_one_for_every_head(self, kind: str) -> None:
        # Keras is not installed here: its documentation is the source (layers.MultiHeadAttention, attention_mask).
        allows(DenseMask.from_keras(KINDS[kind](KEEP[:, 0])), KEEP[:, :1])
        allows(DenseMask.from_keras(KINDS[kind](KEEP[:, 0].astype(np.int32))), KEEP[:, :1])

    @each_kind
    def test_cu_seqlens_number_the_documents_and_leave_the_tail_out(self, kind: str) -> None:
        offsets = KINDS[kind](np.array([0, 2, 2, 5], np.int32))
        for size, ids in ((None, [0, 0, 2, 2, 2]), (5, [0, 0, 2, 2, 2]), (7, [0, 0, 2, 2, 2, -1, -1])):
            mask = Segments.from_cu_seqlens(offsets, size)
            np.testing.assert_array_equal(np.asarray(mask.kv), ids)
            assert mask.q is None
        mask = Segments.from_cu_seqlens(offsets, 6, cu_seqlens_q=KINDS[kind](np.array([0, 1, 3, 4], np.int32)))
        np.testing.assert_array_equal(np.asarray(mask.q), [0, 1, 1, 2])
        np.testing.assert_array_equal(np.asarray(mask.kv), [0, 0, 2, 2, 2, -1])

    @each_kind
    def test_positions_that_restart_begin_documents(self, kind: str) -> None:
        positions = KINDS[kind](np.array([[0, 1, 2, 0, 1], [3, 0, 0, 1, -1]], np.int32))
        np.testing.assert_array_equal(np.asarray(Segments.from_positions(positions).kv), [[0, 0, 0, 1, 1], [-1, 0, 1, 1, -1]])

    def test_conversions_of_traced_arrays_compile(self) -> None:
        from attention import jax_impl  # noqa: F401, PLC0415 - which makes masks known to JAX

        @jax.jit
        def made(keys: Any, offsets: Any) -> Any:
            padding = DenseMask.from_torch_key_padding_mask(keys == 0) & DenseMask.from_huggingface(keys)
            return padding, Segments.from_cu_seqlens(offsets, S)

        padding, packed = made(jnp.asarray(KEYS.astype(np.int32)), jnp.asarray([0, 2, 4]))
        allows(padding, KEYS[:, None, None, :])
        np.testing.assert_array_equal(packed.kv, [0, 0, 1, 1, -1])
        drawn = torch.vmap(lambda keys: DenseMask.from_huggingface(keys[None]).array)(torch.tensor(KEYS.astype(np.int64)))
        np.testing.assert_array_equal(drawn[:, 0, 0, 0], KEYS)


FLOATS = np.where(KEEP, 0.0, -np.inf)
IDS = np.array([[1, 1, 2]])


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (
                lambda x: DenseMask.from_torch_key_padding_mask(x(FLOATS[:, 0, 0])),
                "must be bool, True = drop the key; a mask of 0",
            ),
            (
                lambda x: DenseMask.from_torch_key_padding_mask(x(IDS)),
                r"from_torch_key_padding_mask int.* must be bool, True = drop",
            ),
            (
                lambda x: DenseMask.from_torch_attn_mask(x(FLOATS[0, 0])),
                "must be bool, True = drop the pair; a mask of 0 and -inf",
            ),
            (lambda x: DenseMask.from_torch_attn_mask(x(KEEP)), r"\(2, 3, 4, 5\) must be \(T, S\) or \(B \* H, T, S\)"),
            (lambda x: DenseMask.from_torch_attn_mask(x(KEEP[0])), "num_heads None must be H, a divisor of B . H = 3"),
            (lambda x: DenseMask.from_torch_attn_mask(x(KEEP[0]), 2), "num_heads 2 must be H, a divisor of B . H = 3"),
            (
                lambda x: DenseMask.from_sdpa(x(FLOATS)),
                r"from_sdpa float.* must be bool, True = may attend; a mask of 0 and -inf is",
            ),
            (lambda x: DenseMask.from_sdpa(x(KEYS[0])), r"from_sdpa \(5,\) must be \(\*batch, H, T, S\) or \(T, S\)"),
            (lambda x: DenseMask.from_additive(x(KEEP)), "from_additive bool must be floating: 0 = may attend, -inf = may not"),
            (
                lambda x: DenseMask.from_additive(x(np.array([[0.0, -1e4]]))),
                "must be 0 or at most -.*: pass other values as bias=",
            ),
            (lambda x: DenseMask.from_additive(x(np.array([[0.0, np.nan]]))), "must be 0 or at most -.*: pass other"),
            (lambda x: DenseMask.from_additive(x(np.array([[0.0, np.inf]]))), "must be 0 or at most -.* values as bias="),
            (
                lambda x: DenseMask.from_huggingface(x(IDS)),
                r"must be 1 = may attend or 0 = may not; ids of documents are Segments",
            ),
            (lambda x: DenseMask.from_huggingface(x(FLOATS[:, 0, 0])), r"and a mask of 0 and -inf is DenseMask\.from_additive"),
            (lambda x: DenseMask.from_huggingface(x(KEEP[:, 0])), r"from_huggingface \(2, 4, 5\) must be \(B, S\)"),
            (lambda x: DenseMask.from_flax(x(KEEP[0, 0])), r"from_flax \(4, 5\) must be \(\*batch, H, T, S\)"),
            (lambda x: DenseMask.from_keras(x(KEEP)), r"from_keras \(2, 3, 4, 5\) must be \(B, T, S\)"),
            (lambda x: Segments.from_cu_seqlens(x(np.array([[0, 1]]))), r"cu_seqlens \(1, 2\) must be \(documents \+ 1,\)"),
            (lambda x: Segments.from_cu_seqlens(x(np.array([0.0, 1.0]))), "cu_seqlens float.* must be integers"),
            (lambda x: Segments.from_cu_seqlens(x(np.array([1, 2]))), r"cu_seqlens \[1, 2\] must begin at 0 and never fall"),
            (
                lambda x: Segments.from_cu_seqlens(x(np.array([0, 3, 2]))),
                r"cu_seqlens \[0, 3, 2\] must begin at 0 and never fall",
            ),
            (lambda x: Segments.from_cu_seqlens(x(np.array([0, 3])), 2), "size 2 must be an int >= 3, where documents end"),
            (lambda x: Segments.from_cu_seqlens(x(np.array([0, 3])), size_q=2), "size_q 2 must come with cu_seqlens_q"),
            (lambda x: Segments.from_positions(x(np.array(3))), r"from_positions positions \(\) must be \(\*batch, S\)"),
            (lambda x: Segments.from_positions(x(np.array([0.5]))), "positions float.* must be integers"),
        ],
    )
    @pytest.mark.parametrize("kind", ["numpy", "torch", "jax"])
    def test_a_convention_that_is_not_this_one(self, make: Callable[[Any], Mask], text: str, kind: str) -> None:
        with pytest.raises(MaskError, match=text, check=lambda caught: type(caught) is MaskError):
            _ = make(KINDS[kind])

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: DenseMask.from_sdpa([[True], [True, False]]), "must be bool in rows of one length"),
            (lambda: DenseMask.from_additive([[0.0], [0.0, 1.0]]), "must be floating in rows of one length"),
            (lambda: DenseMask.from_flax("mask"), "DenseMask.from_flax str must be bool, in an array"),
            (lambda: DenseMask.from_keras(np.array([[["a"]]])), "from_keras <U1 must be bool, or 1 = may attend"),
            (lambda: Segments.from_cu_seqlens([]), r"cu_seqlens \[\] must begin at 0"),
            (lambda: Segments.from_cu_seqlens(7), "cu_seqlens 7 must be integers: a list or an array"),
            (lambda: jax.jit(lambda x: DenseMask.from_additive(x).array)(jnp.zeros((2, 2))), "must be known numbers: make the"),
            (lambda: jax.jit(lambda x: Segments.from_cu_seqlens(x).kv)(jnp.arange(2)), "known numbers, or come with size:"),
        ],
    )
    def test_what_no_conversion_can_read(self, make: Callable[[], Any], text: str) -> None:
        with pytest.raises(MaskError, match=text, check=lambda caught: type(caught) is MaskError):
            _ = make()
