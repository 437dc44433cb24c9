"""The registry: every kind of mutation that the diagnosis knows, and all hypotheses about one contract."""

from __future__ import annotations

from functools import lru_cache

from attention.parity.mutations.catalog_arrays import POSITIONS, PROJECTIONS
from attention.parity.mutations.catalog_attention import MASKS, SCORES
from attention.parity.mutations.catalog_layers import BLOCKS, NORMS
from attention.parity.mutations.mutation import FittedScalar, Mutation
from attention.spec.layers.contract import Contract

KINDS = {kind.name: kind for kind in (*SCORES, *MASKS, *POSITIONS, *PROJECTIONS, *NORMS, *BLOCKS)}


@lru_cache(maxsize=32)
def hypotheses(contract: Contract) -> tuple[tuple[Mutation, ...], tuple[FittedScalar, ...]]:
    """Return every mistake that a port of a contract can make: those that can be listed, and numbers to be fitted."""
    found = [item for kind in KINDS.values() for item in kind.hypotheses(contract)]
    return tuple(x for x in found if isinstance(x, Mutation)), tuple(x for x in found if isinstance(x, FittedScalar))
