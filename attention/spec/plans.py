"""Plans: what was found out about a call, kept for the next one that differs in nothing but numbers.

plan(signature) = make(), which checks, chooses and may raise, the first time that a signature is met

A signature holds all that `make` reads: sizes, dtypes, switches, and by its identity each object of structure. What depends on
the numbers in an array never goes into a plan. An object whose identity is part of a signature is kept by the plan, so that
no other can take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from attention.spec.algebra import Mask
from attention.spec.axes import Array, Sizes
from attention.spec.kernels import Kernel, Request

MOST = 256
"""How many plans are kept; the one that was made first makes room."""

P = TypeVar("P")


class Plans(Generic[P]):
    """Plans by signature.

    >>> plans = Plans[str]()
    >>> [plans.get((2, "float32"), lambda: made) for made in ("one", "another")]
    ['one', 'one']
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, P] = {}

    def get(self, signature: Hashable, make: Callable[[], P]) -> P:
        """Return the plan of a signature, made if there is none yet; if `make` raises or gives None, nothing is kept."""
        plan = self._made.get(signature)
        if plan is None:
            plan = make()
            if plan is None:
                return plan
            if len(self._made) >= MOST:
                # Another thread may have been as quick.
                _ = self._made.pop(next(iter(self._made), None), None)
            self._made[signature] = plan
        return plan

    def __len__(self) -> int:
        return len(self._made)


@dataclass(frozen=True, slots=True)
class Call:
    """The plan of a call of attention: its request, but for the arrays, and the kernel that answers it.

    Attributes:
        structure: the fields of the request by name.
        kernel: the one that was chosen.
        keeps: what the signature names by its identity.
    """

    structure: dict[str, Any]
    kernel: Kernel
    keeps: tuple[object, ...]

    @classmethod
    def of(cls, request: Request, kernel: Kernel, *keeps: object) -> Call:
        """Return the plan of a checked request."""
        # None for its arrays, which a plan must not keep alive.
        structure = {part.name: getattr(request, part.name) for part in fields(request)}
        return cls(structure | dict.fromkeys("qkv"), kernel, keeps)

    def run(self, q: Array, k: Array, v: Array) -> dict[str, Array]:
        """Return the stages of other arrays of the same signature, which nothing checks again."""
        request = object.__new__(Request)
        vars(request).update(self.structure, q=q, k=k, v=v)
        return self.kernel.run(request)


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """The plan of a call of a layer: what its checks found.

    Attributes:
        sizes: of the call.
        mask: of the call, checked, in the framework's own arrays.
        plain: whether nothing but projections stands before and behind the attention: every token is read, no document has
            to be kept from another, and the contract adds nothing to the keys or to the scores.
        keeps: what the signature names by its identity.
    """

    sizes: Sizes
    mask: Mask | None
    plain: bool
    keeps: tuple[object, ...] = ()
