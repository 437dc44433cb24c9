"""Key/value caches: contiguous, slotted and paged."""

from attention.spec.cache.cache import (
    TOKENS,
    Appended,
    Cache,
    Memory,
    check_integers,
    check_rise,
    counts,
    overflow,
    unallocated,
)

__all__ = [
    "TOKENS",
    "Appended",
    "Cache",
    "Memory",
    "check_integers",
    "check_rise",
    "counts",
    "overflow",
    "unallocated",
]
