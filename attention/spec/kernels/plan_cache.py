"""Plan cache: the chosen kernel and checked options of a call, reused for calls with the same signature.

plan(signature) = the checked options and the chosen kernel of the first call with this signature

A signature has all that checks and choices depend on: sizes, dtypes, options, and the identity of each mask or contract. Values
of arrays never enter a plan. A plan keeps references to objects whose identity is in its signature, so that no other object
gets the same identity.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Generic, TypeVar

from attention.spec.axes import Array, Sizes
from attention.spec.kernels.kernel import Kernel
from attention.spec.kernels.request import Request
from attention.spec.masks.algebra import Mask

MOST = 256
"""The number of plans kept; the oldest is dropped."""

P = TypeVar("P")
_ONE_AT_A_TIME = Lock()


class Plans(dict[Hashable, P], Generic[P]):
    """Plans by signature; `get` finds one.

    >>> plans = Plans[str]()
    >>> plans.get((2, "float32")), plans.keep((2, "float32"), "made"), plans.get((2, "float32"))
    (None, 'made', 'made')
    """

    def keep(self, signature: Hashable, plan: P) -> P:
        """Store the plan of a signature and return it."""
        with _ONE_AT_A_TIME:
            if len(self) >= MOST:
                _ = self.pop(next(iter(self)))
            self[signature] = plan
        return plan


Ready = Callable[[Array, Array, Array], Array]
"""A function from q, k and v of one signature to the context."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The plan of a functional attention call: a function to its context, and the objects that the signature identifies."""

    run: Ready
    keeps: tuple[object, ...]

    @classmethod
    def of(cls, request: Request, kernel: Kernel, *keeps: object) -> Call:
        """Return the plan of a checked request and its chosen kernel.

        A kernel may have a method `ready(request)` that returns a function from q, k and v to the context, or None; other
        kernels get a new request per call, which is not checked again.
        """
        # A plan must not keep the arrays alive.
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
class LayerCall:
    """The plan of a layer call: results of its checks, and the plans of the attention calls inside.

    Attributes:
        sizes: of the call.
        mask: of the call, checked, in the framework's own arrays.
        plain: whether the layer is projections around attention alone: no masked token, no NaN to confine, no appended
            keys, norms, biases or gates.
        keeps: the objects that the signature identifies.
        calls: the plans of the attention inside.
    """

    sizes: Sizes
    mask: Mask | None
    plain: bool
    keeps: tuple[object, ...] = ()
    calls: Plans[Call] = field(default_factory=Plans[Call])
