"""How a program uses its parameters: in which order, on what, and which axes it sums over; no value is looked at.

    Use("fc.weight", "product", roles={"in": ((4, 1),), "out": ((6, 4),)}, after={"norm.weight"})

Two programs that compute the same use corresponding parameters after corresponding ones, and sum over corresponding axes, so
that a use settles what names and shapes leave open, whether or not the numbers that come out agree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attention.parity.param_mapping.block_moves import Shape

Digits = tuple[tuple[int, int], ...]
"""Size and stride, in elements of the parameter, of each axis that counts in a role, the slowest first."""
MOST_USES = 20_000
"""A program that uses its parameters more often is not followed to its end."""

PRODUCTS = frozenset({"product", "scale", "gather", "other"})
"""Kinds of use after which the result is the parameter's own; a sum with a parameter is not."""


@dataclass(frozen=True)
class View:
    """Elements of one parameter, as an array: what remains of it after slices, transposes and reshapes.

    Attributes:
        name: of the parameter.
        start: the address of the first element.
        shape: of the view.
        strides: in elements, 0 where it is broadcast; None where they are not known.
    """

    name: str
    start: int
    shape: Shape
    strides: Shape | None

    @classmethod
    def whole(cls, name: str, shape: Shape) -> View:
        """Return the whole of a parameter."""
        return cls(name, 0, shape, strides_of(shape))

    @property
    def span(self) -> tuple[int, int]:
        """The addresses that it lies between; all of them where strides are not known."""
        if self.strides is None:
            return (0, 2**62)
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (self.start, self.start + last + 1)

    def reshaped(self, shape: Shape) -> View:
        """Return it in another shape; the strides are lost where no view has that shape."""
        if self.strides is None:
            return View(self.name, self.start, shape, None)
        # Axes that count on from one another are one; what remains can be split, and not be joined.
        digits: list[tuple[int, int]] = []
        for size, stride in zip(self.shape, self.strides, strict=True):
            if digits and digits[-1][1] == stride * size:
                digits[-1] = (digits[-1][0] * size, stride)
            elif size != 1:
                digits.append((size, stride))
        strides: list[int] = []
        for size in reversed(shape):
            extent, step = digits.pop() if size > 1 and digits else (1, 0)
            if extent % size:
                return View(self.name, self.start, shape, None)
            strides.insert(0, step)
            if extent > size:
                digits.append((extent // size, step * size))
        return View(self.name, self.start, shape, tuple(strides))

    def digits(self, axes: Iterable[int]) -> Digits | None:
        """Return how some of its axes count."""
        if self.strides is None:
            return None
        return tuple((self.shape[axis], self.strides[axis]) for axis in axes if self.shape[axis] > 1)


def strides_of(shape: Shape) -> Shape:
    """Return the strides of an array in row-major order, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True)
class Use:
    """One place where a program computes with a parameter.

    Attributes:
        view: what part of it.
        kind: "product", "scale", "gather", "sum" or "other".
        roles: how its elements count in each role, such as "in" and "out"; empty where that is not known.
        after: places in the list of uses: the last parameters that the other operand was computed with.
    """

    view: View
    kind: str
    roles: Mapping[str, Digits]
    after: frozenset[int]


@dataclass
class Uses:
    """All uses of the parameters of one run, in order.

    Args:
        found: the uses.
        before: for each, the uses that what it was computed on was computed with, as bits.
        transposed: names of kernels of transposed convolutions that read them from the end, as torch's do.
    """

    found: list[Use] = field(default_factory=list[Use])
    before: list[int] = field(default_factory=list[int], repr=False)
    transposed: set[str] = field(default_factory=set[str])

    def add(self, view: View, kind: str, roles: Mapping[str, Digits | None], after: frozenset[int]) -> frozenset[int]:
        """Append a use, and return the last parameters that its result was computed with.

        Args:
            view: what is used.
            kind: how.
            roles: how its elements count; a role that is not known makes all unknown.
            after: the last parameters of the other operand.
        """
        if len(self.found) >= MOST_USES:
            raise UntracedUse(f"more than {MOST_USES} uses of parameters")
        known = {name: digits for name, digits in roles.items() if digits is not None}
        self.found.append(Use(view, kind, known if len(known) == len(roles) else {}, after))
        at = len(self.found) - 1
        before = 0
        for other in after:
            before |= self.before[other] | 1 << other
        self.before.append(before)
        return frozenset({at}) if kind in PRODUCTS else after

    @property
    def kinds(self) -> dict[str, frozenset[str]]:
        """What each parameter is used for; of a matrix product with how many inputs, "product 16"."""
        found: dict[str, frozenset[str]] = {}
        for use in self.found:
            inputs = math.prod(size for size, _ in use.roles.get("in", ()))
            matrix = use.kind == "product" and use.roles and not use.roles.get("window")
            kind = f"product {inputs}" if matrix else use.kind
            found[use.view.name] = found.get(use.view.name, frozenset()) | {kind}
        return found

    @property
    def biases(self) -> dict[str, str]:
        """What is added to the product of a parameter, by the parameter's name: one that is used for nothing else."""
        added: dict[str, set[str]] = {}
        other: set[str] = set()
        for use in self.found:
            before = [self.found[at] for at in use.after]
            kernels = {each.view.name for each in before}
            if use.kind == "sum" and len(kernels) == 1 and all(each.kind in {"product", "scale"} for each in before):
                added.setdefault(kernels.pop(), set()).add(use.view.name)
            else:
                other.add(use.view.name)
        pairs = {kernel: next(iter(names)) for kernel, names in added.items() if len(names) == 1 and not names & other}
        counts = Counter(pairs.values())
        return {kernel: bias for kernel, bias in pairs.items() if counts[bias] == 1}

    def last(self, sets: Iterable[frozenset[int]]) -> frozenset[int]:
        """Return the uses among several sets that come before no other of them."""
        every = frozenset[int]().union(*sets)
        if len(every) < 2:
            return every
        before = 0
        for at in every:
            before |= self.before[at]
        return frozenset(at for at in every if not before >> at & 1)


class UntracedUse(Exception):
    """A program whose uses of its parameters are not followed."""


def product_roles(view: View, batch: Sequence[int], summed: Sequence[int]) -> dict[str, Any]:
    """Return the roles of a parameter's axes in a matrix product.

    Args:
        view: the parameter.
        batch: its axes that both operands share, in order.
        summed: its axes that are summed over, in the order of the other operand's axes.
    """
    rest = [axis for axis in range(len(view.shape)) if axis not in {*batch, *summed}]
    return {"batch": view.digits(batch), "in": view.digits(summed), "out": view.digits(rest)}
