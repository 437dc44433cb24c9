"""The registry: every kind of mutation that the diagnosis knows, and all hypotheses about one contract."""

from __future__ import annotations

from functools import lru_cache

from attention.parity.mutations.catalog_arrays import PLACING, PROJECTING
from attention.parity.mutations.catalog_attention import SCORING, VISIBILITY
from attention.parity.mutations.catalog_layers import LAYERING, NORMING
from attention.parity.mutations.mutation import Dial, Mistake
from attention.spec.layers.contract import Contract

KNOBS = {knob.name: knob for knob in (*SCORING, *VISIBILITY, *PLACING, *PROJECTING, *NORMING, *LAYERING)}


@lru_cache(maxsize=32)
def hypotheses(contract: Contract) -> tuple[tuple[Mistake, ...], tuple[Dial, ...]]:
    """Return every mistake that a port of a contract can make: those that can be listed, and numbers to be fitted."""
    found = [item for knob in KNOBS.values() for item in knob.hypotheses(contract)]
    return tuple(x for x in found if isinstance(x, Mistake)), tuple(x for x in found if isinstance(x, Dial))
