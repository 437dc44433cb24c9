"""Cases: named contracts, each with a reason to exist. Tests, `attention parity` and benchmarks all run these.

Small sizes are unequal and share no factor where the contract lets them, so that no axis can stand in for another.
"""

from __future__ import annotations

from dataclasses import dataclass

from attention.spec.errors import UnknownName
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Causal, Chunked, Prefix, Window
from attention.spec.positions import Rotary
from attention.spec.scores import Dot


@dataclass(frozen=True)
class Case:
    """A contract with a name.

    Args:
        name: what `attention parity --contract` takes.
        contract: the layer.
        about: what it is there to show.
        source: where its form comes from.
    """

    name: str
    contract: MultiHeadAttention
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
    )
}


def find(name: str) -> Case:
    """Return the case called `name`.

    Raises:
        UnknownName: there is none.
    """
    if name not in CASES:
        raise UnknownName(f"contract {name!r} must be one of {', '.join(CASES)}")
    return CASES[name]
