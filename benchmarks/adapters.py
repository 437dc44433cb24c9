"""Implementation: the description of one way to compute attention, from which programs are built.

adapter(case) -> function(q, k, v, *extras)        whatever can be made once is made before
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case

FUSED = ("weights", "d scores", "logsumexp")
"""What a fused kernel that others wrote may round on purpose; see `spec.kernels.Kernel.rounds`."""


@dataclass(frozen=True)
class Attention:
    """A way to attend, prepared for one case.

    Args:
        function: `function(q, k, v, *extras) -> output`, all in the implementation's layout.
        extras: further arguments, such as a mask, which a compiler shall not take for constants.
    """

    function: Callable[..., Any]
    extras: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Implementation:
    """A way to attend: a kernel of ours, or an adapter of what others offer.

    Args:
        name: what tables call it.
        side: "torch" or "jax": whose arrays it takes.
        make: prepares it for a case.
        lacks: why it cannot take a case, or None.
        layout: the order of axes that it likes best, "BTHD" or "BHTD"; its inputs are made so.
        packages: what must be installed.
        rounds: what it may round on purpose; ours say so themselves.
        ours: whether it is this project's.
        dense: whether it makes all scores at once.
        slow: whether it must be asked for by name, because it is long in the making.
    """

    name: str
    side: str
    make: Callable[[Case], Attention]
    lacks: Callable[[Case], str | None] = lambda _: None
    layout: str = "BTHD"
    packages: tuple[str, ...] = ()
    rounds: tuple[str, ...] = FUSED
    ours: bool = False
    dense: bool = False
    slow: bool = False
