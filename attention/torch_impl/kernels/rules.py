"""Rules: which kernel "auto" prefers in torch, by device, beside the measurement that says so.

`attention kernels --measure FILE` measures anew; `attention kernels --explain` shows the rule that holds for a call.
"""

from attention.spec.cost import Traits
from attention.spec.rules import STRUCTURES, Rule

CPU = "benchmarks/results/rules-cpu.json: torch "
STRUCTURED = ("window", "documents", "lengths", "prefix", "general")

RULES: tuple[Rule, ...] = (
    Rule(
        "few queries against many keys",
        ("decode", "sdpa", "blockwise"),
        CPU + "decode",
        devices=("cpu",),
        queries=(1, 8),
        keys=(512, None),
        differentiated=False,
    ),
    Rule(
        "a mask that leaves tiles empty",
        ("blockwise", "sdpa"),
        CPU + "window, documents, lengths, prefix, general",
        devices=("cpu",),
        masks=STRUCTURED,
        keys=(512, None),
    ),
    Rule(
        "packed documents",
        ("varlen", "flex", "sdpa"),
        "not measured: FlashAttention's varlen functions skip other documents",
        devices=("cuda",),
        dtypes=("bfloat16", "float16"),
        masks=("documents",),
        keys=(512, None),
    ),
    Rule(
        "a mask that leaves tiles empty",
        ("flex", "sdpa"),
        "not measured: Dong et al., arXiv:2412.05496, sections 4 and 5",
        devices=("cuda",),
        masks=STRUCTURED,
        keys=(512, None),
    ),
)

EVERY = tuple(name for name in STRUCTURES if name != "none")

TRAITS: dict[str, Traits] = {
    "sdpa": Traits(follows=("causal",)),
    "reference": Traits(writes_scores=True),
    "flex": Traits(follows=EVERY),
    "blockwise": Traits(follows=EVERY, tile=(512, 512)),
    "decode": Traits(follows=EVERY, tile=(1, 512)),
    "varlen": Traits(follows=("documents", "causal", "window")),
}
"""How each kernel works, as far as its cost depends on it."""
