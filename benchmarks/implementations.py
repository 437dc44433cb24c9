"""The implementations to time: every kernel of both backends, "auto", and other libraries.

implementations = {"torch auto", "torch sdpa", ..., "jax auto", "jax xla", ...} + PEERS
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

from attention._extras import require
from attention.spec.errors import UnknownName
from benchmarks import peers_jax, peers_torch
from benchmarks.adapters import Attention, Implementation
from benchmarks.cases import Case
from benchmarks.machine import SIDES, torch_device

PEERS: dict[str, Implementation] = {peer.name: peer for peer in (*peers_torch.PEERS, *peers_jax.PEERS)}


def ours(sides: Sequence[str] = SIDES) -> Iterator[Implementation]:
    """Yield "auto" and every kernel of each backend.

    Raises:
        MissingExtra: a framework is not installed.
    """
    for side in sides:
        require(side, extra=side, wanted_by=f"side {side!r}")
        for kernel in ("auto", *importlib.import_module(f"attention.{side}_impl.kernels").KERNELS):
            dense = kernel == "reference"
            yield Implementation(f"{side} {kernel}", side, partial(_prepared, side, kernel), ours=True, dense=dense)


def implementations(sides: Sequence[str] = SIDES, wanted: Sequence[str] = (), *, peers: bool = True) -> list[Implementation]:
    """Return who takes part: all that are here and quick to make, or those whose names hold a word that is wanted.

    Args:
        sides: "torch", "jax".
        wanted: parts of names; an exact name means that one alone.
        peers: whether others than ours take part.

    Raises:
        UnknownName: no name contains the word.
        MissingExtra: a framework is not installed.
    """
    every = [*ours(sides), *(peer for peer in PEERS.values() if peers and peer.side in sides)]
    if not wanted:
        return [implementation for implementation in every if not implementation.slow and not missing(implementation)]
    names = [implementation.name for implementation in every]
    chosen: set[str] = set()
    for word in wanted:
        found = {word} & set(names) or {name for name in names if word.lower() in name.lower()}
        if not found:
            raise UnknownName(f"implementation {word!r} must be part of one of {', '.join(names)}")
        chosen |= found
    return [implementation for implementation in every if implementation.name in chosen]


def find(name: str) -> Implementation:
    """Return the implementation of this exact name.

    Raises:
        UnknownName: there is none.
    """
    side = name.partition(" ")[0]
    known = (
        PEERS
        if name in PEERS
        else {implementation.name: implementation for implementation in ours([side] if side in SIDES else [])}
    )
    if name not in known:
        raise UnknownName(f"implementation {name!r} must be one of {', '.join([*known, *PEERS])}")
    return known[name]


def missing(implementation: Implementation) -> str | None:
    """Return which package an implementation lacks here, or None."""
    return next((f"{name} is not installed" for name in implementation.packages if find_spec(name) is None), None)


def _prepared(side: str, kernel: str, case: Case) -> Attention:
    """Return our own functional core by the kernel's name; the mask is an argument of each call, as a user gives it."""
    backend = importlib.import_module(f"attention.{side}_impl")

    def function(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return backend.dot_product_attention(q, k, v, mask=mask, implementation=kernel)

    if side == "jax":
        return Attention(function, (case.spec_mask,))
    torch = importlib.import_module("torch")
    return Attention(function, (backend.masks.native(case.spec_mask, torch.device(torch_device())),))
