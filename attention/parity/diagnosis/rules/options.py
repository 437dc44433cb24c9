"""Options: an operation of torch that makes what the other side makes, once one of its options is another.

grid_sample(x, grid, align_corners=False) = jax        although torch has align_corners=True
"""

from __future__ import annotations

from attention.parity.diagnosis.rules.operand_pair import Finding, Scene


def other_option(scene: Scene) -> Finding | None:
    """Name the option of a torch operation that would make the JAX side's array."""
    for event in scene.region[0]:
        for (own, other), value in event.alternatives.items():
            if event.value.size == scene.torch.size and scene.equal(event.value.reshape(-1), scene.torch.reshape(-1)):
                made = value.reshape(-1)
                if made.size == scene.jax.size and scene.equal(made, scene.jax.reshape(-1), slack=100):
                    evidence = f"torch's {event.op} with {other} makes what jax makes"
                    return Finding(f"{own} on torch, {other} on jax", evidence, other)
    return None


RULES = (other_option,)
