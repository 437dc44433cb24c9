"""Result of fault localisation: the chosen pair of operations and the evidence."""

from __future__ import annotations

from dataclasses import dataclass

from attention.parity.tracing.activation_patching import Pair, Swap


@dataclass(frozen=True, eq=False)
class Choice:
    """Where the mistake is.

    Attributes:
        kind: "different", "layout", "absent in jax", "absent in torch", or "unproven" where no swap repairs the outputs.
        torch: index of the torch event to show.
        jax: index of the JAX event to show.
        swap: the evidence, where there is any.
        instances: the pairs of the same operations, each time that their lines run.
        sizes: how many events of either side without a partner lie behind the pair that was swapped.
    """

    kind: str
    torch: int
    jax: int
    swap: Swap | None = None
    instances: tuple[Pair, ...] = ()
    sizes: tuple[int, int] = (0, 0)
