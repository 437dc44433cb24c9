"""Random numbers in NumPy: the counter-based generator of dropout, and the generators of JAX and Flax NNX."""

from attention.spec.random.counter_bits import (
    DROPOUT_RATE,
    PARITY,
    ROTATIONS,
    WORD,
    Key,
    bits,
    count,
    fold_in,
    keep,
    keep_threshold,
    key,
    label,
    mantissa,
    threefry2x32,
    uniform,
)

__all__ = [
    "DROPOUT_RATE",
    "PARITY",
    "ROTATIONS",
    "WORD",
    "Key",
    "bits",
    "count",
    "fold_in",
    "keep",
    "keep_threshold",
    "key",
    "label",
    "mantissa",
    "threefry2x32",
    "uniform",
]
