"""Cost model: arithmetic and memory traffic of a request, and the least time that a machine needs for them.

    pairs             n = density * B * H * T * S                 scores that a kernel computes
    forward FLOPs     2 n (D + E)                                 q k^T, then weights v
    backward FLOPs    2 n (2 D + 2 E)                             dq and dk, then dv and d weights
                      2 n (3 D + 2 E)                             and q k^T once more where no weights were kept
    time           >= max(FLOPs / peak, bytes / bandwidth)        roofline
    intensity         FLOPs / bytes                               above peak / bandwidth, arithmetic is the limit

Bytes are those that must be moved at least once: every input read, every output written, keys that no query may attend to
not read by a kernel that skips them; a kernel that writes its scores down adds each of them, written and read. Exponentials
are not counted, by the convention of the papers.

References:
    Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009; Dao, "FlashAttention-2", arXiv:2307.08691, section 4.1
    (4 T S D H forward, halved for a causal mask; 2.5 times that backward); Dao et al., arXiv:2205.14135, theorem 2.
"""

# NumPy leaves the type of its numbers open.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any

import numpy as np

from attention.spec.axes import COMPUTE
from attention.spec.errors import OptionError, shown
from attention.spec.kernels.auto_rules import STRUCTURES, structure
from attention.spec.kernels.request import Request
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import EMPTY, FULL, Schedule, schedule

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """Work of one call.

    Attributes:
        flops: floating-point additions and multiplications of the products.
        bytes: moved between memory and processor.
    """

    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.bytes if self.bytes else inf


@dataclass(frozen=True)
class Machine:
    """The peak rates of a device, as measured or as specified.

    Attributes:
        peak: FLOP/s of a matrix product in the dtype in question.
        bandwidth: byte/s between memory and processor.

    >>> h200 = Machine(peak=790e12, bandwidth=4.3e12)
    >>> round(h200.ridge), h200.limit(Cost(flops=1e12, bytes=1e9)), h200.seconds(Cost(flops=0.0, bytes=4.3e9))
    (184, 'arithmetic', 0.001)
    """

    peak: float
    bandwidth: float

    def __post_init__(self) -> None:
        for name in ("peak", "bandwidth"):
            value = getattr(self, name)
            if not 0 < value < inf:
                raise OptionError(f"Machine {name} {shown(value)} must be a positive finite number, of FLOP/s or byte/s")

    @property
    def ridge(self) -> float:
        """The intensity, in FLOPs for each byte, above which arithmetic is the limit."""
        return self.peak / self.bandwidth

    def seconds(self, cost: Cost) -> float:
        """Return the least time in seconds: the larger of compute and memory time, with full overlap."""
        return max(cost.flops / self.peak, cost.bytes / self.bandwidth)

    def limit(self, cost: Cost) -> str:
        """Return "arithmetic" or "memory", whichever takes longer."""
        return "arithmetic" if cost.intensity > self.ridge else "memory"


@dataclass(frozen=True)
class Traits:
    """How a kernel works, as far as its cost depends on it.

    Attributes:
        follows: masks, of `rules.STRUCTURES`, whose empty tiles it skips.
        tile: queries and keys of a tile that it skips or computes.
        window: the same under a window, where short tiles waste less; None: as `tile`.
        writes_scores: whether all scores are in memory at once.
    """

    follows: tuple[str, ...] = ()
    tile: tuple[int, int] = (128, 128)
    window: tuple[int, int] | None = None
    writes_scores: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.follows if name not in STRUCTURES]
        if unknown:
            raise OptionError(f"Traits follows {shown(unknown[0])} must be among {', '.join(STRUCTURES)}")


@dataclass(frozen=True)
class Prediction:
    """Bounds of the cost of a request; they differ only if the mask's values are traced.

    Attributes:
        least: cost if every unknown tile is empty.
        most: cost if none is.
        density: the least and the most share of the scores that are computed.
    """

    least: Cost
    most: Cost
    density: tuple[float, float]


@dataclass(frozen=True)
class _Work:
    """The shares of a call that are done: of the scores, and of the keys that are read; and how many masks there are."""

    density: float
    keys: float
    masks: int


def predict(request: Request, traits: Traits = Traits(), *, backward: bool = False) -> Prediction:
    """Return the predicted cost of a request for a kernel with these traits.

    Args:
        request: the call; only its sizes, dtype, mask, bias and sinks are used, not the values of q, k or v.
        traits: of the kernel.
        backward: whether the gradients of q, k and v are made as well.

    >>> from attention.spec import Causal
    >>> from attention.spec.axes import Sizes
    >>> request = Request(None, None, None, Sizes((1,), T=4, S=4, H=2, K=1, D=8, E=8), "float32", scale=1.0, mask=Causal())
    >>> predict(request).most  # 2 * 2*4*4 * (8 + 8) FLOPs; 4 bytes * (64 q + 32 k + 32 v + 64 out) + 4*4 of a mask
    Cost(flops=1024.0, bytes=784.0)
    >>> predict(request, Traits(follows=("causal",), tile=(1, 1))).density  # 10 of 16
    (0.625, 0.625)
    """
    least, most = _work(request, traits)
    low, high = (_cost(request, traits, work, backward=backward) for work in (least, most))
    return Prediction(low, high, (least.density, most.density))


def _work(request: Request, traits: Traits) -> tuple[_Work, _Work]:
    """Return the least and the most work."""
    if request.mask is None:
        every = _Work(1.0, 1.0, 0)
        return every, every
    mask, kind = _read(request.mask), structure(request.mask)
    tile = traits.window if kind == "window" and traits.window else traits.tile
    tiles = schedule(mask or request.mask, request.sizes, tile, known=mask is not None)
    if kind not in traits.follows:
        every = _Work(1.0, 1.0, prod(tiles.kinds.shape[:-2]))
        return every, every
    sure = tiles if mask is not None else replace(tiles, kinds=np.where(tiles.kinds == FULL, FULL, EMPTY))
    # A mask that is followed is never held as an array.
    return _Work(sure.density, _read_keys(sure), 0), _Work(tiles.density, _read_keys(tiles), 0)


def _read(mask: Mask) -> Mask | None:
    """Return the mask with its arrays as NumPy's, or None where a compiler or an accelerator holds their numbers."""
    try:
        return mask.map(lambda x: np.asarray(x, bool if "bool" in str(x.dtype) else np.int64))
    except (TypeError, RuntimeError):
        return None


def _read_keys(tiles: Schedule) -> float:
    """Return the share of the keys that some query of some head may attend to, up to whole tiles."""
    if not tiles.kinds.size:
        return 0.0
    seen: Any = np.any(tiles.kinds != EMPTY, axis=(-3, -2))
    _, keys = tiles.extents()
    return float(np.mean(seen @ keys)) / tiles.S


def _cost(request: Request, traits: Traits, work: _Work, *, backward: bool) -> Cost:
    of = request.sizes
    rows, item, wide = prod(of.batch), BYTES[request.dtype], BYTES[COMPUTE[request.dtype]]
    pairs = work.density * rows * of.H * of.T * of.S
    q, context = rows * of.T * of.H * of.D * item, rows * of.T * of.H * of.E * item
    kv = work.keys * rows * of.S * of.K * (of.D + of.E) * item
    scores = pairs * wide if traits.writes_scores else 0.0
    beside = _beside(request, work)
    # Scores and weights, each written and read.
    cost = Cost(2.0 * pairs * (of.D + of.E), float(q + kv + context + beside + 4 * scores))
    if not backward:
        return cost
    again = 0 if traits.writes_scores else 1
    statistics = 0.0 if traits.writes_scores else 2 * rows * of.H * of.T * wide  # logsumexp, written and read
    # Inputs, output and its gradient are read, three gradients written; kept weights are read, d weights and d scores both.
    moved = 2 * q + kv + rows * of.S * of.K * (of.D + of.E) * item + 2 * context + beside + 5 * scores + statistics
    return cost + Cost(2.0 * pairs * ((2 + again) * of.D + 2 * of.E), float(moved))


def _beside(request: Request, work: _Work) -> float:
    """Return the bytes read besides q, k and v: a bias, and a mask that is a boolean array."""
    bias = 0 if request.bias is None else prod(request.bias.shape) * BYTES[request.dtype]
    return float(bias + work.masks * request.sizes.T * request.sizes.S)
