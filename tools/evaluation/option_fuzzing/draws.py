"""One random call of one random contract, small enough to be printed as code.

drawn(number, seed).probe() = the call in float64, its numbers drawn from the draw's own seed
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import CALL, Probe
from attention.spec.errors import AttentionError
from attention.spec.layers.block import Block
from attention.spec.layers.contract import Contract
from attention.spec.layers.linear import LinearAttention
from attention.spec.layers.stack import Stack
from attention.spec.masks.algebra import Mask
from attention.spec.positions import AxialRotary
from tools.evaluation.option_fuzzing.hidden_tokens import poison
from tools.evaluation.option_fuzzing.masks import Batch, given
from tools.evaluation.option_fuzzing.values import FRAMES, KINDS, make
from tools.evaluation.random_contracts import Frame, Pick

BATCHES: tuple[Batch, ...] = ((), (2,), (2,), (2,), (1, 2))
INTERMEDIATES = ("weights", "mean_weights", "logsumexp", "context", "masked")
"""Intermediates that hidden tokens do not reach. Those before the mask are whatever a kernel makes of them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """A call: its contract, its sizes, and everything that it is given beside numbers.

    Args:
        contract: the layer.
        T: queries, or tokens.
        S: keys; the tokens of a memory.
        batch: the batch axes.
        mask: of the call, or None.
        memory_mask: of the memory of a decoder, or None.
        query_positions: integers, or None.
        key_positions: the same for the keys.
        positions: the same where queries and keys are the same tokens.
        dropout_seed: an int while training, or None.
        given: how many of the contract's inputs the call is given; the others default to the one before.
        state: whether an alignment's query is a single state, without an axis T.
        bias: the shape of what is added to the scores, or None.
        intermediates: that are returned as well.
        poisoned: whether tokens that nothing reads hold NaN, inf and huge numbers.
        implementation: of the kernels.
        seed: of all numbers.
    """

    contract: Contract
    T: int
    S: int
    batch: Batch = (2,)
    mask: Mask | None = None
    memory_mask: Mask | None = None
    query_positions: Any = None
    key_positions: Any = None
    positions: Any = None
    dropout_seed: int | None = None
    given: int = 3
    state: bool = False
    bias: tuple[int, ...] | None = None
    intermediates: tuple[str, ...] = ()
    poisoned: bool = False
    implementation: str = "auto"
    seed: int = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input that the call is given."""
        made: dict[str, tuple[int, ...]] = {}
        for name, width in list(self.contract.inputs.items())[: self.given]:
            rows = (self.T if name in ("query", "x") else self.S,)
            made[name] = (*self.batch, *(() if self.state and name == "query" else rows), width)
        return made

    def call(self) -> dict[str, Any]:
        """Return the keywords of the call beside its arrays."""
        return {name: getattr(self, name) for name in CALL if name in self.contract.call_kwargs}

    def check(self) -> None:
        """Raise AttentionError unless the contract takes the call."""
        arrays = {name: np.zeros(shape) for name, shape in self.shapes().items()}
        _ = self.contract.params, self.contract.results(arrays), self.contract.resolve(arrays, **self.call())

    def probe(self) -> Probe:
        """Return the call with its numbers."""
        rng = np.random.default_rng(self.seed)
        arrays = {name: rng.normal(size=shape) for name, shape in self.shapes().items()}
        call = self.call()
        if self.poisoned:
            poison(self.contract, arrays, self.contract.resolve(arrays, **call), rng)
        if self.bias is not None:
            arrays["bias"] = rng.normal(size=self.bias)
        params = self.contract.params
        learned = {n: p.fill + rng.normal(0, 0.5, p.shape) for n, p in params.items() if not p.inputs}
        weights = {n: x.astype(np.float64) for n, x in {**self.contract.init(self.seed), **learned}.items()}
        wanted = (*self.contract.outputs, *self.intermediates)
        cotangents = {n: rng.normal(size=shape) for n, shape in self.contract.results(arrays).items() if n in wanted}
        return Probe(
            "random options", self.contract, "float64", weights, arrays, cotangents, **call, intermediates=self.intermediates
        )


def drawn(number: int, seed: int = 0) -> Draw:
    """Return the draw of a number.

    Args:
        number: which draw, >= 0.
        seed: of all draws.
    """
    pick = Pick(np.random.default_rng((seed, number)))
    while True:
        try:
            draw = _drawn(pick)
            draw.check()
        # Not every option goes with every other one: those that do not are refused by name, and drawn again.
        except AttentionError:
            continue
        return draw


def _drawn(pick: Pick) -> Draw:
    frame, kind, batch = pick.one(FRAMES), pick.one(KINDS), pick.one(BATCHES)
    contract: Contract = make(pick, frame, kind)
    memory, whole = frame.S, len(contract.inputs)
    draw = Draw(contract=contract, T=frame.T, S=memory, batch=batch, given=whole, seed=int(pick.rng.integers(2**31)))
    draw = replace(draw, given=_given(pick, draw))
    if "key" not in contract.inputs:
        frame = replace(frame, S=frame.T)
    draw = replace(draw, poisoned=pick.chance(0.5), state=contract.outputs != ("output",) and pick.chance(0.3))
    if draw.state:
        frame = replace(frame, T=1)
    masks = _masks(pick, frame, draw, memory)
    return replace(draw, **masks, **_options(pick, frame, draw), **_places(pick, frame, draw), T=frame.T)


def _given(pick: Pick, draw: Draw) -> int:
    """Return how many inputs a call is given: those that are left out default to the one before."""
    inputs, whole = draw.contract.inputs, draw.given
    if whole == 1 or "memory" in inputs:
        return whole
    if draw.contract.attends_self and draw.T == draw.S and pick.chance(0.6):
        return pick.one((1, 2))
    return pick.one((2, 3)) if inputs["key"] == inputs["value"] else whole


def _masks(pick: Pick, frame: Frame, draw: Draw, memory: int) -> dict[str, Mask]:
    """Return the masks of a call."""
    made: dict[str, Mask] = {}
    heads = frame.H if has_heads(draw.contract) else 1
    if "mask" in draw.contract.call_kwargs and pick.chance(0.8):
        made["mask"] = given(pick, frame, draw.batch, heads)
    if "memory_mask" in draw.contract.call_kwargs and pick.chance(0.7):
        made["memory_mask"] = given(pick, replace(frame, S=memory), draw.batch, heads)
    return made


def _options(pick: Pick, frame: Frame, draw: Draw) -> dict[str, Any]:
    """Return the options of a call beside masks and positions."""
    contract, call_kwargs, made = draw.contract, draw.contract.call_kwargs, dict[str, Any]()
    if "dropout_seed" in call_kwargs and contract.drops:
        made["dropout_seed"] = pick.maybe(int(pick.rng.integers(2**31)), 0.7)
    if "bias" in call_kwargs and pick.chance(0.3):
        made["bias"] = _bias(pick, (*draw.batch, frame.H, frame.T, frame.S))
    if "intermediates" in call_kwargs and pick.chance(0.4):
        made["intermediates"] = tuple(name for name in INTERMEDIATES if pick.chance(0.6))
    # Linear attention has forms of its own.
    if has_heads(contract) and not isinstance(contract, LinearAttention):
        made["implementation"] = pick.one(("auto", "auto", "reference"))
    return made


def has_heads(contract: Contract) -> bool:
    """Return whether the contract has query heads, which masks may tell apart."""
    return isinstance(contract, (Block, Stack)) or hasattr(contract, "num_heads")


def attention(contract: Any) -> Any:
    """Return the attention that the mask of a call is for."""
    block = contract.block if isinstance(contract, Stack) else contract
    return block.own_attention if isinstance(block, Block) else block


def _bias(pick: Pick, scores: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape that broadcasts to that of the scores."""
    shape = tuple(1 if pick.chance(0.3) else n for n in scores)
    return shape[int(pick.rng.integers(0, len(shape) - 1)) :] if pick.chance(0.3) else shape


def _places(pick: Pick, frame: Frame, draw: Draw) -> dict[str, np.ndarray]:
    """Return the positions of a call: none, counted on from somewhere, or in any order, for each batch row or for all."""
    own: Any = getattr(attention(draw.contract), "positions", None)
    counts = {"query_positions": frame.T, "key_positions": frame.S, "positions": frame.T}
    counts = {name: count for name, count in counts.items() if name in draw.contract.call_kwargs}
    axial = isinstance(own, AxialRotary)
    if own is None or not (axial or frame.T != frame.S or pick.chance(0.5)):
        return {}
    rows, ordered, first = pick.one(((), draw.batch)), pick.chance(0.5), pick.one((0, 0, 3, 8190))
    tail = (2,) if axial else ()

    def places(count: int) -> np.ndarray:
        if ordered and not axial:
            return np.broadcast_to(np.arange(count) + first, (*rows, count)).copy()
        return np.asarray(pick.rng.integers(0, 9, (*rows, count, *tail))) + first

    return {name: places(count) for name, count in counts.items()}
