"""Named example contracts with the reason for each: the cases of tests, `attention verify` and benchmarks.

Small sizes are unequal and share no factor where the contract lets them, so that a swapped axis is detected.
"""

from __future__ import annotations

from dataclasses import dataclass

from attention.spec.errors import UnknownName
from attention.spec.layers.alignment import AlignmentAttention
from attention.spec.layers.alignment_scores import Additive, Concat, General
from attention.spec.layers.contract import Contract
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.latent import LatentAttention
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.stack import Encoder
from attention.spec.layers.transformer import DecoderBlock, EncoderBlock
from attention.spec.masks import Causal, Chunked, Prefix, Window
from attention.spec.norms import L2Norm, LayerNorm, RMSNorm
from attention.spec.positions import Alibi, AxialRotary, RelativeBias, RelativeKeys, Rotary, YarnScaling
from attention.spec.scores import Cosine, Dot, ScaledDot


@dataclass(frozen=True)
class Case:
    """A contract with a name.

    Args:
        name: what `attention verify --contract` takes.
        contract: the layer.
        about: what it is there to show.
        source: where its form comes from.
    """

    name: str
    contract: Contract
    about: str
    source: str


# M = 22, H = 6, D = 10: M != H * D, so a transposed kernel cannot pass; K = 3 gives groups of two.
_M, _H, _K, _D = 22, 6, 3, 10


def _layer(**options: object) -> MultiHeadAttention:
    return MultiHeadAttention(**{"embed_dim": _M, "num_heads": _H, "head_dim": _D, **options})  # type: ignore[arg-type]


CASES = {
    case.name: case
    for case in (
        Case("self", _layer(), "plain self-attention", "Vaswani et al., arXiv:1706.03762"),
        Case(
            "cross",
            _layer(num_kv_heads=_K, value_dim=7, kdim=13, vdim=17),
            "keys and values of other widths, E != D, grouped heads, any T and S",
            "torch.nn.MultiheadAttention's kdim and vdim",
        ),
        Case("causal", _layer(mask=Causal()), "each position sees itself and the past", "GPT-2"),
        Case("causal_start", _layer(mask=Causal(align="start")), "T != S, aligned at the first key", "torch SDPA, jax.nn"),
        Case("causal_end", _layer(mask=Causal(align="end")), "T != S, aligned at the last key", "FlashAttention 2.1"),
        Case("grouped", _layer(num_kv_heads=_K, mask=Causal()), "query heads share key heads", "arXiv:2305.13245"),
        Case("multi_query", _layer(num_kv_heads=1), "one key head for all queries", "Shazeer, arXiv:1911.02150"),
        Case(
            "window",
            _layer(mask=Causal() & Window(before=4, after=0)),
            "four keys besides a query's own",
            "Mistral 7B, arXiv:2310.06825",
        ),
        Case("local", _layer(mask=Window(before=2, after=3)), "a window on both sides", "Longformer, arXiv:2004.05150"),
        Case("chunked", _layer(mask=Causal() & Chunked(5)), "causal inside chunks of five", "Llama 4"),
        Case(
            "prefix",
            _layer(mask=Causal() | Prefix(3)),
            "all see the first three keys",
            "T5, arXiv:1910.10683, section 3.2",
        ),
        Case(
            "rotary",
            _layer(mask=Causal(), positions=Rotary(style="half"), num_kv_heads=_K, qkv_bias=False, out_bias=False),
            "rotate-half positions, grouped heads, no biases",
            "Llama, arXiv:2302.13971, as in transformers",
        ),
        Case(
            "rotary_interleaved",
            _layer(mask=Causal(), positions=Rotary(base=500.0, style="interleaved", rotary_dim=4)),
            "neighbouring features rotate, four of ten",
            "GPT-J; Su et al., arXiv:2104.09864",
        ),
        Case("softcap", _layer(mask=Causal(), softcap=50.0), "scores bounded by 50", "Gemma 2, arXiv:2408.00118"),
        Case("dot", _layer(score=Dot(), qkv_bias=False), "unscaled scores", "Luong et al., arXiv:1508.04025"),
        Case(
            "dropout",
            _layer(dropout_rate=0.3),
            "the same weights dropped everywhere",
            "Srivastava et al., JMLR 15, 2014",
        ),
        Case(
            "qk_norm",
            _layer(mask=Causal(), positions=Rotary(), qk_norm=RMSNorm(eps=1e-6), num_kv_heads=_K, qkv_bias=False),
            "query and key heads normed, then rotated",
            "Qwen3, arXiv:2505.09388",
        ),
        Case("qk_layer_norm", _layer(qk_norm=LayerNorm(eps=1e-6)), "LayerNorm of heads", "ViT-22B, arXiv:2302.05442"),
        Case("qk_l2_norm", _layer(qk_norm=L2Norm(), mask=Causal()), "heads on the sphere", "Henry et al., arXiv:2010.04245"),
        Case(
            "cosine",
            _layer(score=Cosine(initial=10.0, most=12.0)),
            "a learned temperature for each head",
            "Swin V2, arXiv:2111.09883",
        ),
        Case(
            "sinks",
            _layer(sinks=True, mask=Causal() & Window(before=4, after=0), num_kv_heads=_K),
            "each head learns a logit that takes weight",
            "GPT-OSS; Xiao et al., arXiv:2309.17453",
        ),
        Case(
            "off_by_one", _layer(softmax="off_by_one"), "a head may attend to nothing", "Miller, Attention is off by one, 2023"
        ),
        Case("gate", _layer(gate="elementwise", num_kv_heads=_K), "a sigmoid gate on each feature", "arXiv:2505.06708"),
        Case("gate_per_head", _layer(gate="headwise", out_dim=9), "a sigmoid gate on each head", "arXiv:2505.06708"),
        Case(
            "appended",
            _layer(add_bias_kv=True, add_zero_attn=True, value_dim=7, mask=Causal()),
            "a learned key and one of zeros for every query",
            "torch.nn.MultiheadAttention's add_bias_kv and add_zero_attn",
        ),
        Case(
            "partial_bias",
            _layer(qkv_bias=(True, False, True), mask=Causal()),
            "keys without a bias",
            "Whisper, arXiv:2212.04356",
        ),
        Case(
            "yarn", _layer(mask=Causal(), positions=Rotary(scaling=YarnScaling(4.0, 32))), "scaled rotary", "arXiv:2309.00071"
        ),
        Case("axial", _layer(positions=AxialRotary(rotary_dim=8)), "rows and columns of an image", "arXiv:2403.13298"),
        Case("alibi", _layer(mask=Causal(), positions=Alibi()), "scores fall with distance", "arXiv:2108.12409"),
        Case(
            "relative_bias",
            _layer(positions=RelativeBias(8, 20), score=Dot(), qkv_bias=False, out_bias=False),
            "a learned bias for each bucket of distances",
            "T5, arXiv:1910.10683",
        ),
        Case("relative_keys", _layer(positions=RelativeKeys(4)), "a learned key for each distance", "arXiv:1803.02155"),
        Case(
            "additive",
            AlignmentAttention(_M, 13, 17, Additive(hidden=7, bias=True)),
            "v tanh(W1 q + W2 k) over encoder states",
            "Bahdanau et al., arXiv:1409.0473",
        ),
        Case(
            "additive_chunked",
            AlignmentAttention(_M, 13, 17, Additive(hidden=7, chunk_size=3), softcap=2.0),
            "the same, a few hidden features at a time",
            "Chen et al., arXiv:1604.06174 (recomputation)",
        ),
        Case("concat", AlignmentAttention(_M, 13, 17, Concat(hidden=7)), "v tanh(W [q; k])", "Luong et al., arXiv:1508.04025"),
        Case("general", AlignmentAttention(_M, 13, 17, General()), "q W k", "Luong et al., arXiv:1508.04025"),
        Case(
            "article",
            AlignmentAttention(_M, 13, 17, ScaledDot(), attn_dim=19),
            "projected states and scaled dot products",
            "the Attention(hidden_dim) of many a tutorial",
        ),
        Case(
            "latent",
            LatentAttention(_M, 6, kv_rank=7, nope_dim=5, rope_dim=4, value_dim=3, q_rank=11, mask=Causal()),
            "keys and values from one low-rank latent",
            "DeepSeek-V2, arXiv:2405.04434",
        ),
        Case(
            "differential",
            DifferentialAttention(_M, 6, depth=2, num_kv_heads=3, head_dim=10, mask=Causal(), positions=Rotary()),
            "the difference of two softmaxes",
            "Ye et al., arXiv:2410.05258",
        ),
        Case(
            "linear",
            LinearAttention(_M, 6, 3, head_dim=10, value_dim=7, causal=True, eps=0.01),
            "kernelised, causal by a scan",
            "Katharopoulos et al., arXiv:2006.16236",
        ),
        Case(
            "encoder",
            Encoder(EncoderBlock(_layer(), FeedForward(_M, 17, "gelu")), depth=2),
            "two post-norm blocks",
            "Vaswani et al., arXiv:1706.03762; torch.nn.TransformerEncoder",
        ),
        Case(
            "encoder_pre_norm",
            EncoderBlock(
                _layer(mask=Causal(), positions=Rotary(), num_kv_heads=_K, qkv_bias=False, out_bias=False),
                FeedForward(_M, 17, "swiglu", bias=False),
                norm=RMSNorm(eps=1e-6),
                order="pre",
            ),
            "RMSNorm, rotary, gated feed-forward",
            "Llama, arXiv:2302.13971",
        ),
        Case(
            "decoder",
            DecoderBlock(_layer(mask=Causal()), _layer(kdim=13), FeedForward(_M, 17, "gelu_tanh")),
            "causal self-attention, then attention to a memory",
            "Vaswani et al., arXiv:1706.03762; torch.nn.TransformerDecoderLayer",
        ),
    )
}


def find(name: str) -> Case:
    """Return the case called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in CASES:
        raise UnknownName.among("contract", name, CASES)
    return CASES[name]
