"""Random calls of random contracts, each determined by its number and the seed.

    drawn(number, seed) = numbers(seed, number) in the form(seed, number // GROUP)

A form is a contract, its sizes and dtype, and the kind of its mask. The draws of a group share it, and so what JAX compiles
for it, but neither weights, inputs, their scale, lengths and documents, nor positions and dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.spec.attend import INTERMEDIATES
from attention.spec.axes import COMPUTE
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import AttentionError
from attention.spec.layers.contract import Contract
from attention.spec.masks import DenseMask, Lengths, Segments
from attention.spec.masks.algebra import Mask
from attention.spec.params import cast
from attention.spec.positions import AxialRotary
from tools.evaluation.random_contracts import FRAMES, KINDS, Frame, Pick

GROUP = 10
"""Draws of one form."""
DTYPES = tuple(COMPUTE)
SCALES = (-3.0, 2.0)
"""Exponents of ten between which the standard deviation of the inputs is drawn, evenly."""
FIRST = (0, 0, 3, 500, 8190)
"""Where positions may begin."""

MaskOf = Callable[[np.random.Generator], "Mask | None"]


@dataclass(frozen=True, eq=False)
class Form:
    """What the draws of a group share.

    Args:
        contract: the layer.
        frame: its sizes.
        dtype: of weights and inputs.
        mask: makes the mask of a call.
        alone: whether the first input stands for all.
        biased: whether the call has a bias.
        placed: whether positions are given.
        intermediates: that the call returns as well.
    """

    contract: Contract
    frame: Frame
    dtype: str
    mask: MaskOf
    alone: bool
    biased: bool
    placed: bool
    intermediates: tuple[str, ...]

    @property
    def axial(self) -> bool:
        """Whether positions are rows and columns of an image."""
        return isinstance(getattr(self.contract, "positions", None), AxialRotary)

    def call(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return the keywords of a call."""
        f, call_kwargs = self.frame, self.contract.call_kwargs
        made: dict[str, Any] = {"mask": self.mask(rng)} if "mask" in call_kwargs else {}
        if "memory_mask" in call_kwargs:
            made["memory_mask"] = Lengths(rng.integers(0, f.S + 1, f.B))
        if "dropout_seed" in call_kwargs and self.contract.drops:
            made["dropout_seed"] = int(rng.integers(2**31))
        if "intermediates" in call_kwargs:
            made["intermediates"] = self.intermediates
        first = int(rng.choice(FIRST))
        for name, count in (("query_positions", f.T), ("key_positions", f.S), ("positions", f.T)):
            if self.placed and name in call_kwargs:
                where = np.arange(count) + first
                made[name] = np.stack([where // 5, where % 5], axis=-1) if self.axial else where
        return made

    def arrays(self, rng: np.random.Generator, scale: float) -> dict[str, np.ndarray]:
        """Return the inputs, of this standard deviation."""
        f = self.frame
        rows = {"query": f.T, "x": f.T}
        names = list(self.contract.inputs)[: 1 if self.alone else None]
        made = {n: rng.normal(0, scale, (f.B, rows.get(n, f.S), self.contract.inputs[n])) for n in names}
        if self.biased:
            made["bias"] = rng.normal(size=self.contract.optional(made)["bias"])
        return made

    def probe(self, rng: np.random.Generator) -> Probe:
        """Return a call of this form."""
        scale, kind, params = 10.0 ** rng.uniform(*SCALES), numpy_dtype(self.dtype), self.contract.params
        arrays, call = self.arrays(rng, scale), self.call(rng)
        learned = {n: p.fill + rng.normal(0, 0.5, p.shape) for n, p in params.items() if not p.inputs}
        wanted = (*self.contract.outputs, *({"logsumexp"} & set(self.intermediates)))
        cotangents = {n: rng.normal(size=shape) for n, shape in self.contract.results(arrays).items() if n in wanted}
        # What a kernel keeps to itself is in the compute dtype.
        inner = np.promote_types(kind, np.float32)
        return Probe(
            f"scale {scale:.2g}",
            self.contract,
            self.dtype,
            cast({**self.contract.init(int(rng.integers(2**31))), **learned}, self.dtype),
            {n: x.astype(kind) for n, x in arrays.items()},
            {n: x.astype(inner if n in INTERMEDIATES and n != "context" else kind) for n, x in cotangents.items()},
            **call,
        )


def drawn(number: int, seed: int = 0, dtypes: tuple[str, ...] = DTYPES) -> Probe:
    """Return the call of a number.

    Args:
        number: which draw, >= 0.
        seed: of all draws.
        dtypes: one of which each form is drawn.
    """
    probe = form(number // GROUP, seed, dtypes).probe(np.random.default_rng((seed, 1, number)))
    return replace(probe, name=f"draw {number}, {probe.name}")


@lru_cache(maxsize=4)
def form(group: int, seed: int = 0, dtypes: tuple[str, ...] = DTYPES) -> Form:
    """Return the form that the draws of a group share."""
    pick = Pick(np.random.default_rng((seed, 0, group)))
    while True:
        try:
            found = _form(pick, dtypes)
            probe = found.probe(np.random.default_rng(0))
            _ = found.contract.resolve(probe.arrays, **probe.call())
        # Not every option goes with every other one: those that do not are refused by name, and drawn again.
        except AttentionError:
            continue
        return found


def _form(pick: Pick, dtypes: tuple[str, ...]) -> Form:
    frame, square = (f := pick.one(FRAMES)), f.T == f.S
    contract = pick.one(KINDS)(pick, frame).pinned()
    call_kwargs = contract.call_kwargs
    axial = isinstance(getattr(contract, "positions", None), AxialRotary)
    # A layer without positions takes none, but for a block, which hands them to its attention.
    looks = getattr(contract, "positions", None) is not None or "positions" in call_kwargs
    return Form(
        contract,
        frame,
        pick.one(dtypes),
        _mask(pick, frame, getattr(contract, "num_heads", 1)),
        alone=contract.attends_self and square and pick.chance(0.7),
        biased="bias" in call_kwargs and pick.chance(0.2),
        placed=looks and (axial or not square or pick.chance(0.4)),
        intermediates=("weights", "logsumexp") if "intermediates" in call_kwargs and pick.chance(0.2) else (),
    )


def _mask(pick: Pick, f: Frame, heads: int) -> MaskOf:
    """Return the generator of a form's masks: none, padding on either side, documents, or bits."""
    asks, filled, over = pick.chance(0.5), pick.one((0.2, 0.6, 0.9)), pick.one((1, heads))

    def padded(side: str) -> MaskOf:
        def make(rng: np.random.Generator) -> Mask:
            kv = rng.integers(0, f.S + 1, f.B)
            q = kv if f.T == f.S else rng.integers(0, f.T + 1, f.B)
            return Lengths(kv, q if asks else None, padding=side)

        return make

    kinds: tuple[MaskOf, ...] = (
        lambda _: None,
        lambda _: None,
        lambda _: None,
        padded("right"),
        padded("left"),
        lambda rng: Segments(rng.integers(-1, 3, (f.B, f.S)), rng.integers(-1, 3, (f.B, f.T))),
        lambda rng: DenseMask(rng.random((f.B, over, f.T, f.S)) < filled),
    )
    return pick.one(kinds)
