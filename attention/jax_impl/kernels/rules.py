"""The rules of "auto" in JAX: the preferred kernel by device and call, each with its measurement.

`attention kernels measure FILE` measures anew; `attention kernels explain` shows the rule that holds for a call.
"""

from attention.spec.kernels.auto_rules import STRUCTURES, Rule
from attention.spec.kernels.cost import Traits

CPU = "benchmarks/results/rules-cpu.json: jax "

RULES: tuple[Rule, ...] = (
    Rule(
        "few queries against many keys",
        ("decode", "blockwise", "xla"),
        CPU + "decode, cache, few",
        devices=("cpu",),
        queries=(1, 8),
        keys=(64, None),
    ),
    Rule(
        "scores too many to be written down",
        ("blockwise", "xla"),
        CPU + "none, causal, window, prefix, softcap",
        devices=("cpu",),
        masks=("none", "causal", "window", "prefix"),
        keys=(128, None),
    ),
    Rule(
        "scores too many to be written down, under a mask of numbers",
        ("blockwise", "xla"),
        CPU + "documents, lengths, general",
        devices=("cpu",),
        masks=("documents", "lengths", "general"),
        keys=(256, None),
    ),
    Rule(
        "few scores: the formula as it stands",
        ("reference", "xla"),
        CPU + "none, documents, lengths, general",
        devices=("cpu",),
        masks=("none", "documents", "lengths", "general"),
        keys=(64, 255),
    ),
    Rule(
        "scores too many to be written down",
        ("blockwise", "xla"),
        "not measured: xla writes all scores to memory, the other none",
        devices=("gpu", "tpu"),
        keys=(512, None),
    ),
)

EVERY = tuple(name for name in STRUCTURES if name != "none")

TRAITS: dict[str, Traits] = {
    "xla": Traits(writes_scores=True),
    "reference": Traits(writes_scores=True),
    "blockwise": Traits(follows=EVERY, tile=(512, 512), window=(256, 256)),
    "decode": Traits(follows=EVERY, tile=(1, 512)),
    "cudnn": Traits(follows=("causal", "window", "lengths")),
    "pallas": Traits(follows=EVERY),
    "splash": Traits(follows=EVERY),
}
"""How each kernel works, as far as its cost depends on it."""
