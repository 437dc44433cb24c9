"""Operands: another array in a product, a transposed kernel, or another chunk of one array.

torch = u w, jax = v w        torch = x W^T, jax = x W        torch = the first third of x, jax = the second
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from attention.parity.diagnosis.rules.operand_pair import Finding, Known, OperandPair

MOST_OPERANDS, MOST_ELEMENTS, MOST_CHUNKS = 24, 100_000, 6


def transposed_kernel(pair: OperandPair) -> Finding | None:
    """Name a square kernel that one side multiplies by as it is, and the other transposed."""
    for known, kernel in _products(pair):
        made = [_multiplied(pair, side, known, kernel) for side in ("torch", "jax")]
        if made[0] and made[1] and made[0] != made[1]:
            told = {"x W": "x W", "x W^T": "x W^T"}
            name = f"a square kernel is transposed: torch computes {told[made[0]]}, jax {told[made[1]]}"
            evidence = f"x = {known.label}, W = {kernel.label}, as torch holds it"
            return Finding(name, evidence, made[1], made[0])
    return None


def _products(pair: OperandPair) -> Iterator[tuple[Known, Known]]:
    """Yield arrays and square kernels whose product has the size of the arrays that part."""
    kernels = [k for k in pair.known if k.given and k.torch.ndim == 2 and k.torch.shape[0] == k.torch.shape[1] > 1]
    for known, kernel in product(list(pair.of_size())[:MOST_OPERANDS], kernels):
        if known[0].torch.shape[-1] == kernel.torch.shape[0] == known[0].jax.shape[-1] and pair.torch.size <= MOST_ELEMENTS:
            yield known[0], kernel


def _multiplied(pair: OperandPair, side: str, known: Known, kernel: Known) -> str:
    x, value = getattr(known, side), getattr(pair, side)
    # The kernel as torch holds it, so that both sides are told of the same one.
    plain, turned = x @ kernel.torch, x @ kernel.torch.T
    return next((name for name, y in (("x W", plain), ("x W^T", turned)) if pair.equal(value.reshape(y.shape), y)), "")


def other_chunk(pair: OperandPair) -> Finding | None:
    """Name the chunk of a known array's last axis that each side takes, of the whole axis or within each head."""
    for known in pair.known:
        for count in range(2, MOST_CHUNKS + 1):
            if known.torch.size != count * pair.torch.size or not known.torch.ndim or not known.jax.ndim:
                continue
            made = [_chunk(pair, side, known, count) for side in ("torch", "jax")]
            if made[0] and made[1] and made[0] != made[1]:
                (n, heads), (m, others) = made[0], made[1]
                first = f"{n} of {count}{f' within each of {heads}' if heads > 1 else ''}"
                second = f"{m}{f' within each of {others}' if others > 1 else ''}"
                name = f"chunk {first} on torch, chunk {second} on jax: another order of gates, or of q, k, v"
                evidence = f"both parts of x = {known.label}, counted from 1"
                return Finding(name, evidence, f"chunk {second}", f"chunk {first}")
    return None


def _chunk(pair: OperandPair, side: str, known: Known, count: int) -> tuple[int, int] | None:
    """Return which chunk of an array's last axis a side's array is, from 1, and of how many parts of it; None if it is none."""
    x, value = getattr(known, side), getattr(pair, side)
    width = x.shape[-1]
    if width % count:
        return None
    found: list[tuple[int, int]] = []
    for heads in (h for h in range(1, width // count + 1) if width // count % h == 0):
        parts = np.moveaxis(x.reshape(*x.shape[:-1], heads, count, -1), -2, 0)
        found += [(i, heads) for i, part in enumerate(parts, 1) if pair.equal(part.reshape(-1), value.reshape(-1))]
    return found[0] if len(found) == 1 else None


def exchanged_operand(pair: OperandPair) -> Finding | None:
    """Name u w on one side and v w on the other, of known u, v and w: a gate taken for another."""
    same = [k for k in pair.of_size() if k[0].torch.size <= MOST_ELEMENTS][:MOST_OPERANDS]
    for known, w, w2 in same:
        for name, inverse in (("product", np.divide), ("sum", np.subtract)):
            u, v = inverse(pair.torch, w), inverse(pair.jax, w2)
            torch = [i for i, (_, x, _) in enumerate(same) if pair.equal(x, u, slack=1e3)]
            jax = [i for i, (_, _, y) in enumerate(same) if pair.equal(y, v, slack=1e3)] if torch else []
            if len(torch) == len(jax) == 1 and torch != jax:
                first, second = same[torch[0]][0].label, same[jax[0]][0].label
                evidence = f"torch = the {name} of w and a, jax = of w and b, w = {known.label}, a = {first}, b = {second}"
                return Finding(
                    f"another operand of a {name}: two arrays exchanged, such as gates", evidence, f"{second}", f"{first}"
                )
    return None


RULES = (transposed_kernel, other_chunk, exchanged_operand)
