"""Options of torch operations: the option which, if changed, reproduces the array of the JAX program.

grid_sample(x, grid, align_corners=False) = jax        although torch has align_corners=True
"""

from __future__ import annotations

from attention.parity.diagnosis.rules.arrays import near
from attention.parity.diagnosis.rules.operand_pair import Finding, OperandPair


def other_option(pair: OperandPair) -> Finding | None:
    """Name the option of a torch operation that would make the JAX side's array."""
    for event in pair.region[0]:
        for (own, other), value in event.alternatives.items():
            # The other side may lay it out otherwise.
            if near(pair.torch, event.value) and not near(pair.jax, event.value) and near(pair.jax, value):
                return Finding(
                    f"{own} on torch, {other} on jax", f"torch's {event.op} with {other} makes what jax makes", other
                )
    return None


RULES = (other_option,)
