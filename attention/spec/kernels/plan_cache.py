"""Plans: what was found out about a call, kept for the next one that differs in nothing but numbers.

plan(signature) = what checking and choosing gave, the first time that a signature was met without an error

A signature holds all that checks and choices read: sizes, dtypes, switches, and by its identity each object of structure. What
depends on the numbers in an array never goes into a plan. An object whose identity is part of a signature is kept by the plan,
so that no other can take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Generic, TypeVar

from attention.spec.axes import Array, Sizes
from attention.spec.kernels.kernel import Kernel, Request
from attention.spec.masks.algebra import Mask

MOST = 256
"""How many plans are kept; the one that was made first makes backend."""

P = TypeVar("P")
_ONE_AT_A_TIME = Lock()


class Plans(dict[Hashable, P], Generic[P]):
    """Plans by signature; `get` finds one.

    >>> plans = Plans[str]()
    >>> plans.get((2, "float32")), plans.keep((2, "float32"), "made"), plans.get((2, "float32"))
    (None, 'made', 'made')
    """

    def keep(self, signature: Hashable, plan: P) -> P:
        """Return a plan that was made for a signature, kept for the next call."""
        with _ONE_AT_A_TIME:
            if len(self) >= MOST:
                _ = self.pop(next(iter(self)))
            self[signature] = plan
        return plan


Ready = Callable[[Array, Array, Array], Array]
"""Makes the context of q, k and v of one signature."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The plan of a call of attention: what makes its context, and what the signature names by its identity."""

    run: Ready
    keeps: tuple[object, ...]

    @classmethod
    def of(cls, request: Request, kernel: Kernel, *keeps: object) -> Call:
        """Return the plan of a checked request and of the kernel that was chosen for it.

        A kernel that has a method `ready(request)` is asked for what makes the context of other arrays of the same
        signature, or for None; the others get a request each time, which nothing checks again.
        """
        # None for the arrays, which a plan must not keep alive.
        structure = {part.name: getattr(request, part.name) for part in fields(request)} | dict.fromkeys("qkv")

        def run(q: Array, k: Array, v: Array) -> Array:
            new = object.__new__(Request)
            vars(new).update(structure, q=q, k=k, v=v)
            return kernel.run(new)["context"]

        ready: Ready | None = getattr(kernel, "ready", _never)(request)
        return cls(run if ready is None else ready, keeps)


def _never(request: Request) -> None:
    del request


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """The plan of a call of a layer: what its checks found, and the plans of the attention inside.

    Attributes:
        sizes: of the call.
        mask: of the call, checked, in the framework's own arrays.
        plain: whether nothing but projections stands before and behind the attention: every token is read, no document has
            to be kept from another, and the contract adds nothing to the keys or to the scores.
        keeps: what the signature names by its identity.
        calls: the plans of the attention inside.
    """

    sizes: Sizes
    mask: Mask | None
    plain: bool
    keeps: tuple[object, ...] = ()
    calls: Plans[Call] = field(default_factory=Plans[Call])
