"""Probes: calls derived from a contract that reveal every known mutation of it.

A probe avoids the convenient values of a naive test: biases are random and not 0, T is 13 and longer than any window here,
T != S both ways, groups have two heads, a batch row is empty, padded tokens are NaN and inf, positions exceed 8,190, scores
saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attention.spec.attend import INTERMEDIATES
from attention.spec.axes import Sizes
from attention.spec.dtypes import numpy_dtype
from attention.spec.errors import MaskError, OptionError, shown
from attention.spec.layers.contract import Contract
from attention.spec.masks import DenseMask, Lengths, Segments
from attention.spec.masks.algebra import Mask
from attention.spec.options import SEED, checked
from attention.spec.params import Weights, cast
from attention.spec.positions import AxialRotary

B, N, FEW = 3, 13, 5
FAR = 8190
CALL = ("mask", "memory_mask", "query_positions", "key_positions", "positions", "dropout_seed")


@dataclass(frozen=True, eq=False)
class Probe:
    """One call of one layer, with all its inputs.

    Attributes:
        name: the mistakes that it reveals.
        contract: the layer.
        dtype: of weights and arrays.
        weights: canonical.
        arrays: "query", and "key", "value", "bias" where the call has them.
        cotangents: of the outputs, for the gradients: "output" and perhaps "logsumexp".
        mask: the call's own mask, or None.
        memory_mask: the same for the memory of a decoder.
        query_positions: integers for rotary, or None.
        key_positions: the same for the keys.
        positions: the same for a layer whose queries and keys are the same tokens.
        dropout_seed: an int while training, or None.
        intermediates: names of intermediates that the call returns as well.
    """

    name: str
    contract: Contract
    dtype: str
    weights: Weights = field(repr=False)
    arrays: dict[str, np.ndarray] = field(repr=False)
    cotangents: dict[str, np.ndarray] = field(repr=False)
    mask: Mask | None = None
    memory_mask: Mask | None = None
    query_positions: np.ndarray | None = None
    key_positions: np.ndarray | None = None
    positions: np.ndarray | None = None
    dropout_seed: int | None = None
    intermediates: tuple[str, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call of a multi-head layer."""
        return self.contract.sizes_of(self.arrays)  # type: ignore[attr-defined]  # other layers hold several attentions

    def call(self) -> dict[str, Any]:
        """Return the keyword arguments that a layer takes beside the arrays."""
        return {name: getattr(self, name) for name in CALL if name in self.contract.call_kwargs}


@dataclass(frozen=True)
class Drawer:
    """Draws probes of one contract in one dtype; the same seed draws the same numbers."""

    contract: Contract
    dtype: str
    seed: int = 0

    def weights(self) -> Weights:
        """Return initial weights, with noise on biases, scales and tables, which would start at convenient values."""
        rng = np.random.default_rng(self.seed)
        drawn = self.contract.init(self.seed)
        others = {n: p.fill + rng.normal(0, 0.5, p.shape) for n, p in self.contract.params.items() if not p.inputs}
        return cast({**drawn, **others}, self.dtype)

    def draw(self, name: str, t: int = N, s: int = N, *, scale: float = 1.0, biased: bool = False, **call: Any) -> Probe:
        """Return a probe of `t` queries and `s` keys.

        Args:
            name: the mistakes that it reveals.
            t: T.
            s: S; other than `t`, every input is an array of its own.
            scale: standard deviation of the inputs.
            biased: whether the call has a bias.
            call: further fields of the probe.
        """
        rng = np.random.default_rng((self.seed, t, s))
        first, *others = self.contract.inputs.items()
        alone = self.contract.attends_self and t == s
        rows = {first: t} if alone else {first: t, **dict.fromkeys(others, s)}
        arrays = {n: rng.normal(0, scale, (B, count, width)) for (n, width), count in rows.items()}
        if biased:
            arrays["bias"] = rng.normal(size=self.contract.optional(arrays)["bias"])
        wanted = (*self.contract.outputs, *({"logsumexp"} & set(call.get("intermediates", ()))))
        cotangents = {n: rng.normal(size=shape) for n, shape in self.contract.results(arrays).items() if n in wanted}
        if self.axial:
            call = {"query_positions": self.places(t), "key_positions": self.places(s), **call}
        kind = numpy_dtype(self.dtype)
        # Internal values of a kernel have the compute dtype.
        inner = np.promote_types(kind, np.float32)
        return Probe(
            name,
            self.contract.pinned(),
            self.dtype,
            self.weights(),
            {n: x.astype(kind) for n, x in arrays.items()},
            {n: x.astype(inner if n in INTERMEDIATES and n != "context" else kind) for n, x in cotangents.items()},
            **call,
        )

    @property
    def axial(self) -> bool:
        """Whether positions are rows and columns of an image."""
        return isinstance(getattr(self.contract, "positions", None), AxialRotary)

    def places(self, count: int, first: int = 0) -> np.ndarray:
        """Return `count` positions from `first` on: integers, or rows and columns of an image five wide."""
        where = np.arange(count) + first
        return np.stack([where // 5, where % 5], axis=-1) if self.axial else where

    def takes(self, *names: str) -> bool:
        """Return whether a call of the contract takes all these keywords."""
        return self.contract.call_kwargs.issuperset(names)

    def allows(self, t: int, s: int, **call: Any) -> bool:
        """Return whether the contract's mask applies to T queries and S keys."""
        try:
            probe = self.draw("", t, s, **call)
            _ = self.contract.resolve(probe.arrays, **probe.call())
        except MaskError:
            return False
        return True


def check_contract(contract: object) -> None:
    """Raise OptionError unless this is a contract."""
    if not isinstance(contract, Contract):
        raise OptionError(
            f"contract {shown(contract)} must be a contract such as spec.MultiHeadAttention(embed_dim=8, num_heads=2)"
        )


@checked(seed=SEED)
def probes(contract: Contract, dtype: str = "float32", seed: int = 0) -> list[Probe]:
    """Return every probe that applies to the contract.

    Args:
        contract: the layer.
        dtype: of weights and arrays.
        seed: of all numbers.
    """
    check_contract(contract)
    drawer = Drawer(contract, numpy_dtype(dtype).name, seed)
    return [*_square(drawer), *_rectangular(drawer), *_placed(drawer), *_dropped(drawer)]


def _square(drawer: Drawer) -> Iterator[Probe]:
    if not drawer.allows(N, N):
        return
    yield drawer.draw("plain")
    yield drawer.draw("saturated scores", scale=6.0)
    if not drawer.takes("mask"):
        return
    yield _poisoned(drawer, "padding", Lengths(kv=[N, 8, 0], q=[N, 8, 0]))
    packed: dict[str, Any] = _masked(drawer, Segments(kv=_documents()))
    yield drawer.draw("packed", **packed)
    if drawer.takes("intermediates"):
        heads = drawer.contract.results(drawer.draw("").arrays)["weights"][-3]
        yield drawer.draw("mask per head", mask=DenseMask(_holes(heads)))
        intermediates = ("weights", "logsumexp")
        yield drawer.draw("intermediates", mask=Lengths(kv=[N, 8, 0]), intermediates=intermediates, biased=drawer.takes("bias"))


def _masked(drawer: Drawer, mask: Mask) -> dict[str, Mask]:
    """Return the keywords that set this mask in every attention of a call."""
    return {name: mask for name in ("mask", "memory_mask") if drawer.takes(name)}


def _rectangular(drawer: Drawer) -> Iterator[Probe]:
    if len(drawer.contract.inputs) == 1:
        return
    placed = getattr(drawer.contract, "positions", None) is not None
    for name, t, s in (("few queries", FEW, N), ("few keys", N, FEW)):
        where: dict[str, Any] = {"query_positions": drawer.places(t, 2), "key_positions": drawer.places(s)} if placed else {}
        if drawer.allows(t, s, **where):
            yield drawer.draw(name, t, s, **where)


def _placed(drawer: Drawer) -> Iterator[Probe]:
    names = ("query_positions", "key_positions") if drawer.takes("query_positions", "key_positions") else ("positions",)
    if getattr(drawer.contract, "positions", None) is None or not drawer.takes(*names):
        return
    far = drawer.places(N, FAR)
    yield drawer.draw("far positions", **dict.fromkeys(names, far))
    lengths = np.asarray([N, 8, 4])
    left = np.maximum(np.arange(N) - (N - lengths)[:, None], 0)
    if drawer.axial:
        left = np.stack([left, left[:, ::-1]], axis=-1)
    mask = Lengths(kv=lengths, q=lengths, padding="left")
    yield _poisoned(drawer, "left padding", mask, **dict.fromkeys(names, left))


def _dropped(drawer: Drawer) -> Iterator[Probe]:
    if drawer.takes("dropout_seed") and drawer.contract.drops:
        yield drawer.draw("dropout", dropout_seed=7)


def _documents() -> np.ndarray:
    """Return three rows of document ids; -1 is padding."""
    return np.asarray([[0] * 4 + [1] * 6 + [2] * 3, [5] * 13, [1] * 7 + [-1] * 2 + [0] * 4])


def _holes(heads: int) -> np.ndarray:
    """Return a random mask with empty rows and with hidden keys, for one head and for all."""
    allowed = np.random.default_rng(5).random((B, heads, N, N)) < 0.6
    allowed[0, 0, 3] = allowed[1, :, 6] = False
    allowed[0, -1, :, 2] = allowed[2, :, :, 11] = False
    return allowed


def _poisoned(drawer: Drawer, name: str, mask: Lengths, **call: Any) -> Probe:
    """Return a probe with NaN and inf in every padded token."""
    probe = drawer.draw(name, **_masked(drawer, mask), **call)
    arrays = {name: x.copy() for name, x in probe.arrays.items()}
    for row, length in enumerate(mask.kv):
        gone = slice(None, N - int(length)) if mask.padding == "left" else slice(int(length), None)
        for x in arrays.values():
            x[row, gone, 0::2], x[row, gone, 1::2] = np.nan, np.inf
    return replace(probe, arrays=arrays)
