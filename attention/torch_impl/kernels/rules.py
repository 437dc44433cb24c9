"""The rules of "auto" in PyTorch: the preferred kernel by device and call, each with its measurement.

`attention kernels measure FILE` measures anew; `attention kernels explain` shows the rule that holds for a call.
"""

from attention.spec.kernels.auto_rules import STRUCTURES, Rule
from attention.spec.kernels.cost import Traits

CPU = "benchmarks/results/rules-cpu.json: torch "
STRUCTURED = ("window", "documents", "lengths", "prefix", "general")
HALF = ("bfloat16", "float16")

RULES: tuple[Rule, ...] = (
    Rule(
        "few queries against many keys",
        ("decode", "sdpa", "blockwise"),
        CPU + "decode, few",
        devices=("cpu",),
        masks=("none",),
        queries=(1, 8),
        keys=(64, None),
        differentiated=False,
    ),
    Rule(
        "few queries against a cache that is not full, in half precision",
        ("decode", "sdpa", "blockwise"),
        CPU + "cache",
        devices=("cpu",),
        dtypes=HALF,
        queries=(1, 8),
        keys=(128, None),
        differentiated=False,
    ),
    Rule(
        "few queries against a cache that is not full",
        ("decode", "sdpa", "blockwise"),
        CPU + "cache",
        devices=("cpu",),
        queries=(1, 8),
        keys=(512, None),
        differentiated=False,
    ),
    Rule(
        "gradients under a mask that leaves nearly all tiles empty",
        ("blockwise", "sdpa"),
        CPU + "documents",
        devices=("cpu",),
        masks=("documents",),
        keys=(256, None),
        differentiated=True,
    ),
    Rule(
        "a mask that leaves tiles empty",
        ("blockwise", "sdpa"),
        CPU + "window, documents, lengths, prefix",
        devices=("cpu",),
        masks=("window", "documents", "lengths", "prefix"),
        keys=(512, None),
    ),
    Rule(
        "gradients in half precision while scores are few: the fused kernel's are slow",
        ("reference", "sdpa"),
        CPU + "none, causal, window, documents, lengths",
        devices=("cpu",),
        dtypes=("bfloat16",),
        masks=("none", "causal", "window", "documents", "lengths"),
        keys=(64, 256),
        heads=(0, 16),
        square=True,
        differentiated=True,
    ),
    Rule(
        "what the fused kernel lacks, without all scores at once",
        ("sdpa", "blockwise"),
        CPU + "none, causal, general, softcap",
        devices=("cpu",),
        keys=(256, None),
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
    "blockwise": Traits(follows=EVERY, tile=(256, 256), window=(64, 64)),
    "decode": Traits(follows=EVERY, tile=(1, 512)),
    "varlen": Traits(follows=("documents", "causal", "window")),
}
"""How each kernel works, as far as its cost depends on it."""
