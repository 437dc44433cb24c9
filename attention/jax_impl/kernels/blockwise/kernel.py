"""The kernel `blockwise` in JAX: exact attention that never stores the scores, for any device.

time ~ the tiles that the mask leaves        memory ~ the sequence

A row of tiles keeps a running maximum and sum (forward.py), the backward pass recomputes the weights from them
(backward.py), and the mask's schedule lists the tiles to visit (tiles.py). On CPU products are float32 for every input
dtype: XLA computes them faster than half-precision products unless the processor has native ones, without loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from attention.jax_impl import random
from attention.jax_impl.kernels.blockwise.derivatives import differentiable
from attention.jax_impl.kernels.blockwise.plan import Inputs, NonDiff, Plan
from attention.jax_impl.kernels.blockwise.score_mod import trace
from attention.jax_impl.kernels.blockwise.scores import LOG2E
from attention.jax_impl.kernels.blockwise.tiles import tiling
from attention.jax_impl.masks import zero_masked
from attention.spec.kernels import Request
from attention.spec.kernels.auto_rules import structure
from attention.spec.kernels.tuning import tile_for
from attention.spec.random import count
from attention.spec.scores import bind, heads_first


@dataclass(frozen=True)
class Blockwise:
    """Exact attention, tile by tile.

    Attributes:
        tile: the largest tile, (queries, keys); None takes the one tuned on this machine, or the default.
    """

    name: str = "blockwise"
    rounds: tuple[str, ...] = ("weights", "d scores", "logsumexp")
    tile: tuple[int, int] | None = None

    def refuses(self, request: Request) -> str | None:
        """Refuse arrays with an axis of size 0.

        Raises:
            ShapeError: score_mod changes the shape of the scores.
            DTypeError: it changes their dtype.
        """
        if 0 in (*request.q.shape, *request.k.shape, *request.v.shape):
            return "does not support axes of size 0"
        _check_mod(request)
        return None

    def run(self, request: Request) -> dict[str, jax.Array]:
        """Return the context and the logsumexp."""
        plan, consts, numbers = self.plan(request)
        q, k, v = zero_masked(request)
        key = None
        if request.dropout_rate:
            _ = count(request.sizes.scores)
            key = random.key(request.dropout_seed)
        nondiff = NonDiff(request.mask, key, numbers)
        context, logsumexp = _attend(plan, q, k, v, request.bias, request.sinks, consts, nondiff, request.scale)
        return {"context": context, "logsumexp": logsumexp}

    def plan(self, request: Request) -> tuple[Plan, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Return the static plan of a request, and the arrays that its score_mod closes over; see `Traced`."""
        user, dtype = request.score_mod, request.compute
        score_mod, consts, numbers = (None, (), ()) if user is None else trace(user, dtype)
        cut = tiling(request.sizes, request.mask, self.tile or _tuned(request))
        # Only on CPU is the bitwise exponential faster than the device's own.
        binary = request.device == "cpu" and request.compute == "float32"
        products = request.bias is None and request.softcap is None and score_mod is None
        plan = Plan(
            sizes=request.sizes,
            cut=cut,
            tile=cut.ahead,
            dtype=request.dtype,
            compute=request.compute,
            scale=1.0 if _wide(request) else request.scale,
            softcap=request.softcap,
            score_mod=score_mod,
            rate=request.dropout_rate,
            precision=request.precision,
            binary=binary,
            unit=LOG2E if binary and products else 1.0,
        )
        return plan, consts, numbers


def _tuned(request: Request) -> tuple[int, int] | None:
    """Return the tile that was measured for such calls on this machine, or None."""
    name = "cpu" if request.device == "cpu" else jax.devices()[0].device_kind
    return tile_for("jax.blockwise", name, request.dtype, request.sizes.D, structure(request.mask), None)


def _wide(request: Request) -> bool:
    """Return whether products are in the compute dtype: faster on CPU; float16 would underflow; float32 and float64 as is."""
    return request.device == "cpu" or request.dtype != "bfloat16"


@partial(jax.jit, static_argnames=("plan", "scale"))
def _attend(
    plan: Plan,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    sinks: jax.Array | None,
    consts: tuple[jax.Array, ...],
    nondiff: NonDiff,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    of, compute = plan.sizes, plan.compute
    if plan.scale == 1.0:
        q, k, v = (x.astype(compute) for x in (q, k, v))
        q = q * jnp.asarray(scale * plan.unit, compute)
    inputs = Inputs(
        _rows(q, plan.cut.whole[0]),
        _rows(k, plan.cut.whole[1]),
        _rows(v, plan.cut.whole[1]),
        None if bias is None else _scores(plan, bias),
        None if sinks is None else sinks.astype(compute),
        consts,
    )
    context, logsumexp, _ = differentiable(plan, inputs, nondiff)
    context = heads_first(jnp, context[:, :, : of.T]).reshape(*of.batch, of.T, of.H, of.E)
    return context, logsumexp[..., : of.T].reshape(*of.batch, of.H, of.T)


def _rows(x: jax.Array, size: int) -> jax.Array:
    """Return `(*batch, n, heads, width)` as `(N, heads, size, width)`, with zeros beyond n."""
    x = heads_first(jnp, x.reshape(-1, *x.shape[-3:]))
    return jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0)))


def _scores(plan: Plan, x: jax.Array) -> jax.Array:
    """Return an array that broadcasts to `(*batch, H, T, S)` as `(N or 1, H or 1, T' or 1, S' or 1)`."""
    x = x.reshape((1,) * (len(plan.sizes.scores) - x.ndim) + x.shape)
    if any(size > 1 for size in x.shape[:-3]):
        x = jnp.broadcast_to(x, (*plan.sizes.batch, *x.shape[-3:]))
    x = x.reshape(-1, *x.shape[-3:])
    missing = [0 if n == 1 else size - n for n, size in zip(x.shape[2:], plan.cut.whole, strict=True)]
    return jnp.pad(x, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))


def _check_mod(request: Request) -> None:
    of = request.sizes
    corner = replace(of, batch=(1,) * len(of.batch), T=min(2, of.T), S=min(2, of.S), H=min(2, of.H))
    call = bind(request.score_mod, corner, jnp.arange)
    if call is not None:
        _ = jax.eval_shape(call, jax.ShapeDtypeStruct(corner.scores, request.compute))
