"""Probes: calls derived from a contract so that no known mistake can hide.

A probe differs from a naive test in what it refuses to leave at a convenient value: biases are random and not 0, T is 13 and
longer than any window here, T != S both ways, groups have two heads, a batch row is empty, padded tokens are NaN and inf,
positions lie beyond 8,190, scores saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attention.spec.algebra import Mask, both
from attention.spec.axes import Sizes
from attention.spec.errors import MaskError
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Dense, Lengths, Segments
from attention.spec.params import Weights, cast, numpy_dtype

B, N, FEW = 3, 13, 5
FAR = 8190


@dataclass(frozen=True, eq=False)
class Probe:
    """One call of one layer, with everything given.

    Attributes:
        name: what it is there to catch.
        contract: the layer.
        dtype: of weights and arrays.
        weights: canonical.
        arrays: "query", and "key", "value", "bias" where the call has them.
        cotangents: what the gradients are pulled back from: "output" and perhaps "logsumexp".
        mask: the call's own mask, or None.
        query_positions: integers for rotary, or None.
        key_positions: the same for the keys.
        dropout_seed: an int while training, or None.
        stages: names of stages that the call returns as well.
    """

    name: str
    contract: MultiHeadAttention
    dtype: str
    weights: Weights = field(repr=False)
    arrays: dict[str, np.ndarray] = field(repr=False)
    cotangents: dict[str, np.ndarray] = field(repr=False)
    mask: Mask | None = None
    query_positions: np.ndarray | None = None
    key_positions: np.ndarray | None = None
    dropout_seed: int | None = None
    stages: tuple[str, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """The sizes of the call."""
        query = self.arrays["query"]
        key = self.arrays.get("key", query)
        return self.contract.sizes(query, key, self.arrays.get("value", key))

    def call(self) -> dict[str, Any]:
        """Return the keyword arguments that a layer takes beside the arrays."""
        names = ("mask", "query_positions", "key_positions", "dropout_seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Drawer:
    """Draws probes of one contract in one dtype; the same seed draws the same numbers."""

    contract: MultiHeadAttention
    dtype: str
    seed: int = 0

    @property
    def selfish(self) -> bool:
        """Whether queries, keys and values may be one array."""
        return len(set(self.contract.inputs.values())) == 1

    def weights(self) -> Weights:
        """Return first weights, with biases that are not 0."""
        rng = np.random.default_rng(self.seed)
        drawn = self.contract.init(self.seed)
        biases = {name: rng.normal(0, 0.5, p.shape) for name, p in self.contract.params.items() if not p.inputs}
        return cast({**drawn, **biases}, self.dtype)

    def draw(self, name: str, t: int = N, s: int = N, *, scale: float = 1.0, biased: bool = False, **call: Any) -> Probe:
        """Return a probe of `t` queries and `s` keys.

        Args:
            name: what it is there to catch.
            t: T.
            s: S; other than `t`, keys and values are arrays of their own.
            scale: standard deviation of the inputs.
            biased: whether the call has a bias.
            call: further fields of the probe.
        """
        rng = np.random.default_rng((self.seed, t, s))
        widths = self.contract.inputs
        names = ("query",) if self.selfish and t == s else ("query", "key", "value")
        arrays = {n: rng.normal(0, scale, (B, t if n == "query" else s, widths[n])) for n in names}
        sizes = (B, self.contract.num_heads, t, s)
        if biased:
            arrays["bias"] = rng.normal(size=sizes)
        cotangents = {"output": rng.normal(size=(B, t, self.contract.embed_dim))}
        if "logsumexp" in call.get("stages", ()):
            cotangents["logsumexp"] = rng.normal(size=sizes[:-1])
        kind = numpy_dtype(self.dtype)
        return Probe(
            name,
            replace(self.contract, precision="highest"),
            self.dtype,
            self.weights(),
            {n: x.astype(kind) for n, x in arrays.items()},
            {n: x.astype(kind if n == "output" else np.promote_types(kind, np.float32)) for n, x in cotangents.items()},
            **call,
        )

    def allows(self, t: int, s: int) -> bool:
        """Return whether the contract's mask has a meaning for T queries and S keys."""
        c = self.contract
        try:
            mask = both(c.mask, None)
            if mask is not None:
                mask.check(Sizes((B,), t, s, c.num_heads, c.kv_heads, c.width, c.value_width), np.asarray)
        except MaskError:
            return False
        return True


def probes(contract: MultiHeadAttention, dtype: str = "float32", seed: int = 0) -> list[Probe]:
    """Return every probe that the contract has a meaning for.

    Args:
        contract: the layer.
        dtype: of weights and arrays.
        seed: of all numbers.
    """
    drawer = Drawer(contract, dtype, seed)
    return [*_square(drawer), *_rectangular(drawer), *_rotary(drawer), *_dropped(drawer)]


def _square(drawer: Drawer) -> Iterator[Probe]:
    if not drawer.allows(N, N):
        return
    yield drawer.draw("plain")
    yield drawer.draw("saturated scores", scale=6.0)
    yield drawer.draw("bias", biased=True)
    yield _poisoned(drawer, "padding", Lengths(kv=[N, 8, 0], q=[N, 8, 0]))
    yield drawer.draw("packed", mask=Segments(kv=_documents()))
    yield drawer.draw("mask per head", mask=Dense(_holes(drawer.contract.num_heads)))
    yield drawer.draw("stages", mask=Lengths(kv=[N, 8, 0]), stages=("weights", "logsumexp"))


def _rectangular(drawer: Drawer) -> Iterator[Probe]:
    rotary = drawer.contract.positions is not None
    for name, t, s in (("few queries", FEW, N), ("few keys", N, FEW)):
        if drawer.allows(t, s):
            where: dict[str, Any] = {"query_positions": np.arange(t) + 2, "key_positions": np.arange(s)} if rotary else {}
            yield drawer.draw(name, t, s, **where)


def _rotary(drawer: Drawer) -> Iterator[Probe]:
    if drawer.contract.positions is None:
        return
    far = np.arange(N) + FAR
    yield drawer.draw("far positions", query_positions=far, key_positions=far)
    lengths = np.asarray([N, 8, 4])
    left = np.maximum(np.arange(N) - (N - lengths)[:, None], 0)
    mask = Lengths(kv=lengths, q=lengths, padding="left")
    yield _poisoned(drawer, "left padding", mask, query_positions=left, key_positions=left)


def _dropped(drawer: Drawer) -> Iterator[Probe]:
    if drawer.contract.dropout_rate:
        yield drawer.draw("dropout", dropout_seed=7)


def _documents() -> np.ndarray:
    """Return three rows of document ids; -1 is padding."""
    return np.asarray([[0] * 4 + [1] * 6 + [2] * 3, [5] * 13, [1] * 7 + [-1] * 2 + [0] * 4])


def _holes(heads: int) -> np.ndarray:
    """Return a random mask with rows that see nothing and keys that nobody sees, for one head and for all."""
    allowed = np.random.default_rng(5).random((B, heads, N, N)) < 0.6
    allowed[0, 0, 3] = allowed[1, :, 6] = False
    allowed[0, -1, :, 2] = allowed[2, :, :, 11] = False
    return allowed


def _poisoned(drawer: Drawer, name: str, mask: Lengths, **call: Any) -> Probe:
    """Return a probe with NaN and inf in every padded token."""
    probe = drawer.draw(name, mask=mask, **call)
    arrays = {name: x.copy() for name, x in probe.arrays.items()}
    for row, length in enumerate(mask.kv):
        gone = slice(None, N - int(length)) if mask.padding == "left" else slice(int(length), None)
        for x in arrays.values():
            x[row, gone, 0::2], x[row, gone, 1::2] = np.nan, np.inf
    return replace(probe, arrays=arrays)
