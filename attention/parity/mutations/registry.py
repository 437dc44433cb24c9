"""The registry of mutation kinds, and all mutations that a port of one contract can have."""

from __future__ import annotations

from functools import lru_cache

from attention.parity.contracts.probes import Probe
from attention.parity.mutations.catalog_arrays import POSITIONS, PROJECTIONS
from attention.parity.mutations.catalog_attention import MASKS, SCORES
from attention.parity.mutations.catalog_layers import BLOCKS, NORMS
from attention.parity.mutations.mutation import FittedScalar, Mutation
from attention.parity.mutations.operators import Operator
from attention.spec.errors import UnknownName, shown
from attention.spec.layers.contract import Contract

KINDS = {kind.name: kind for kind in (*SCORES, *MASKS, *POSITIONS, *PROJECTIONS, *NORMS, *BLOCKS)}


@lru_cache(maxsize=32)
def hypotheses(contract: Contract) -> tuple[tuple[Mutation, ...], tuple[FittedScalar, ...]]:
    """Return every mutation that a port of a contract can have: those that can be listed, and numbers to be fitted."""
    found = [item for kind in KINDS.values() for item in kind.mutations(contract)]
    return tuple(x for x in found if isinstance(x, Mutation)), tuple(x for x in found if isinstance(x, FittedScalar))


def generated(name: str) -> Operator:
    """Return the operator that applies the mutation of this name, as it is generated for the contract of the call.

    The operator raises UnknownName for a contract that has no such mutation.
    """

    def mutate(probe: Probe) -> Probe:
        for mutation in hypotheses(probe.contract)[0]:
            if mutation.name == name:
                return mutation.operator(probe)
        raise UnknownName(f"mutation {shown(name)} must be one of the contract's")

    return mutate
