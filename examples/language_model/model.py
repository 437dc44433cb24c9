"""A language model: which token comes next, given those before it.

    x_t = E[token_t]
    x = x + attention(norm(x))    x = x + ffn(norm(x))        `depth` blocks; causal, rotary, grouped heads, a gated ffn
    logits_t = E norm(x_t)                                    the same E: read in and read out
    loss = -mean_t log softmax(logits_t)[token_{t+1}]         in nats; exp(loss) is the perplexity

One architecture in two sizes: SmolLM2's 135 million trained parameters and the 0.3 million that learn to write like Jane Austen
are both of this class. `model_torch.py` and `model_jax.py` build it, each in its framework.

References:
    Touvron et al., arXiv:2302.13971 (the block); Press and Wolf, arXiv:1608.05859 (one E for both ends).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention import spec
from attention.spec.errors import OptionError


@dataclass(frozen=True)
class LanguageModel(spec.Architecture):
    """The whole model.

    Args:
        vocabulary: V, how many tokens there are.
        decoder: of the embedded tokens; its blocks see no later token.

    Raises:
        OptionError: a vocabulary that is no positive int, or a decoder without a mask.
    """

    vocabulary: int
    decoder: spec.Encoder

    def __post_init__(self) -> None:
        if not isinstance(self.vocabulary, int) or self.vocabulary < 1:
            raise OptionError(f"vocabulary {self.vocabulary!r} must be a positive int")
        if self.attention.mask is None:
            raise OptionError("decoder's mask None must be Causal(): what is to be said may not be seen")

    @property
    def attention(self) -> spec.MultiHeadAttention:
        """The attention of every block."""
        return self.decoder.block.own_attention

    @property
    def width(self) -> int:
        """M."""
        return self.decoder.block.width

    @property
    def parts(self) -> dict[str, spec.Architecture]:
        return {"decoder": self.decoder}

    @property
    def params(self) -> dict[str, spec.Param]:
        # What the last norm makes has length sqrt(M), so that first logits of this spread are of the size of 1.
        return {"embed": spec.Param((self.vocabulary, self.width), "VM", spread=self.width**-0.5), **self.part_params()}


def sized(vocabulary: int, *, width: int, depth: int, heads: int, kv_heads: int, hidden: int, window: int) -> LanguageModel:
    """Return the architecture of these sizes, built as Mistral is.

    Args:
        vocabulary: V.
        width: M.
        depth: how many blocks.
        heads: H, of `width / heads` features each.
        kv_heads: K, heads that keys and values have; `heads / kv_heads` query heads read each of them.
        hidden: A, the width inside the feed-forward layer.
        window: tokens that a query sees, itself included, so that a text may become longer than any that was learned from.
    """
    norm, seen = spec.RMSNorm(eps=1e-5), spec.Window(before=window - 1, after=0)
    attention = spec.MultiHeadAttention(
        width,
        heads,
        num_kv_heads=kv_heads,
        qkv_bias=False,
        out_bias=False,
        mask=spec.Causal() & seen,
        positions=spec.Rotary(base=10_000.0),
    )
    feed_forward = spec.FeedForward(width, hidden, "swiglu", bias=False)
    block = spec.EncoderBlock(attention, feed_forward, norm=norm, order="pre")
    return LanguageModel(vocabulary, spec.Encoder(block, depth, final_norm=norm))


def surprise(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return -log p of each token but the first, in nats: float64 `(B, T - 1)`.

    Args:
        logits: `(B, T, V)` of what follows each token.
        tokens: `(B, T)` integers.

    >>> surprise(np.zeros((1, 2, 8)), np.array([[3, 5]])) / np.log(2)
    array([[3.]])
    """
    # In float64, for a sum over a large vocabulary loses as many digits in float32 as all of the model does.
    x = logits[:, :-1].astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    said = np.take_along_axis(x, tokens[:, 1:, None], axis=-1)[..., 0]
    return np.log(np.exp(x).sum(axis=-1)) - said
