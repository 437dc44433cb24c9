"""Multi-head latent attention (DeepSeek): keys and values of all heads from one small latent per token.

    [c; r] = x W_kv_down + b        c = norm(c) (R)        r = rotate(r) (P), one rotary key for all heads
    [n_h; m_h] = (norm(x W_q_down + b) W_q_up)[h], or (x W_q)[h] without a latent of queries        m_h = rotate(m_h)
    [k_h; v_h] = (c W_kv_up)[h]
    expanded:  score_h[t, s] = (n_h[t] . k_h[s] + m_h[t] . r[s]) * scale        context_h = weights_h v_h
    absorbed:  score_h[t, s] = (W_uk_h n_h[t] . c[s] + m_h[t] . r[s]) * scale   context_h = (weights_h c) W_uv_h

Both forms are one function. The absorbed one reads one key head [c; r] and one value head c for all query heads, so that a
cache holds R + P numbers a token, and nothing is expanded while decoding.

References:
    DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C; DeepSeek-V3, arXiv:2412.19437, section 2.1.1.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from attention.spec.attend import UNOBSERVED, Observer, attend, unchanged
from attention.spec.axes import Array, Sizes, check_broadcast
from attention.spec.errors import DTypeError, ShapeError
from attention.spec.kernels import PRECISION
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.latent_forms import absorb, expand, many_heads, one_head
from attention.spec.layers.multi_head import cache_checks
from attention.spec.layers.projection import normed, project
from attention.spec.masks.algebra import STRUCTURE, Mask, both, evaluate
from attention.spec.norms import Norm, RMSNorm
from attention.spec.options import ARRAY, Option, arrays_by_name, check_options, checked, instance, one_of
from attention.spec.params import Param, nest
from attention.spec.positions import Rotary, check_integral
from attention.spec.random import DROPOUT_RATE, keep
from attention.spec.scores import WIDTH, Dot, ScaledDot

FORMS = ("auto", "expanded", "absorbed")
FORM = one_of(*FORMS)
WIDTHS = ("embed_dim", "num_heads", "kv_rank", "nope_dim", "rope_dim", "value_dim")
SWITCHES = ("down_bias", "q_bias", "out_bias")

INPUTS = arrays_by_name("x")


@dataclass(frozen=True)
class LatentAttention(Contract):
    """The contract of a multi-head latent attention layer. Hashable; holds no array.

    DeepSeek's own numbers: `positions=Rotary(style="interleaved", scaling=YarnScaling(...))`, whose scores are sharpened by
    `score=ScaledDot(mscale**2 / sqrt(nope_dim + rope_dim))` with mscale = 0.1 mscale_all_dim ln factor + 1.

    Args:
        embed_dim: M, the width of input and output.
        num_heads: H.
        kv_rank: R, the width of the latent of keys and values.
        nope_dim: the features of a query or key head without a position.
        rope_dim: P, those that are rotated; an even number. A head is `nope_dim + rope_dim` wide, in this order.
        value_dim: E, the width of a value head.
        q_rank: the width of the latent of queries; None projects queries at once.
        down_bias: whether the projections to the latents have biases.
        q_bias: whether the projection to the query heads has one.
        out_bias: whether the output projection has one.
        norm: of each latent.
        positions: the rotary of the `rope_dim` features.
        score: `ScaledDot()`, whose None is 1 / sqrt(nope_dim + rope_dim), or `Dot()`.
        mask: structure that always holds, such as `Causal()`; lengths and arrays come with the call.
        dropout_rate: probability of dropping a weight while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range.
        MaskError: `mask` holds an array.
    """

    embed_dim: int
    num_heads: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_rank: int | None = None
    down_bias: bool = False
    q_bias: bool = False
    out_bias: bool = False
    norm: RMSNorm = RMSNorm(eps=1e-6)
    positions: Rotary = Rotary(style="interleaved")
    score: Dot | ScaledDot = ScaledDot()
    mask: Mask | None = None
    dropout_rate: float = 0.0
    precision: str | None = None

    call_kwargs: ClassVar[frozenset[str]] = frozenset({"mask", "positions", "dropout_seed", "intermediates"})

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(WIDTHS, WIDTH),
        "q_rank": WIDTH | ", or None",
        "norm": instance(RMSNorm),
        "positions": instance(Rotary),
        "score": instance(ScaledDot, Dot),
        "mask": STRUCTURE,
        "precision": PRECISION,
        "dropout_rate": DROPOUT_RATE,
    }

    def __post_init__(self) -> None:
        check_options(self)
        _ = self.positions.width(self.rope_dim)

    @property
    def width(self) -> int:
        """D, the width of a query or key head."""
        return self.nope_dim + self.rope_dim

    @property
    def cache_sizes(self) -> tuple[int, int, int]:
        """What a cache of this layer is made with: one head, its rotary key as the key, its latent as the value.

        >>> LatentAttention(8, 2, kv_rank=5, nope_dim=3, rope_dim=2, value_dim=3).cache_sizes
        (1, 2, 5)
        """
        return 1, self.rope_dim, self.kv_rank

    @property
    def inputs(self) -> dict[str, int]:
        """The width of the input."""
        return {"x": self.embed_dim}

    @property
    def norms(self) -> dict[str, Norm]:
        return {"kv_norm": self.norm} if self.q_rank is None else {"q_norm": self.norm, "kv_norm": self.norm}

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree."""
        m, h, d, e, r = self.embed_dim, self.num_heads, self.width, self.value_dim, self.kv_rank
        q, name = (m, "q_proj") if self.q_rank is None else (self.q_rank, "q_up")
        down = {} if self.q_rank is None else {"q_down.kernel": Param((m, q), "MR", inputs=1), "q_down.bias": Param((q,), "R")}
        tree = {
            **down,
            f"{name}.kernel": Param((q, h, d), "MHD" if self.q_rank is None else "RHD", inputs=1),
            f"{name}.bias": Param((h, d), "HD") if self.q_bias else None,
            "kv_down.kernel": Param((m, r + self.rope_dim), "MR", inputs=1),
            "kv_down.bias": Param((r + self.rope_dim,), "R"),
            "kv_up.kernel": Param((r, h, self.nope_dim + e), "RHD", inputs=1),
            "out_proj.kernel": Param((h, e, m), "HEM", inputs=2),
            "out_proj.bias": Param((m,), "M") if self.out_bias else None,
        }
        for part, norm in self.norms.items():
            tree |= nest(part, norm.params(q if part == "q_norm" else r, "R"))
        absent = () if self.down_bias else ("q_down.bias", "kv_down.bias")
        return {name: param for name, param in tree.items() if param is not None and name not in absent}

    @checked(x=ARRAY)
    def sizes(self, x: Array) -> Sizes:
        """Return the sizes of the expanded attention of a call.

        Args:
            x: `(*batch, T, M)`.

        Raises:
            ShapeError: a rank or a size does not fit.
        """
        if len(x.shape) < 2 or x.shape[-1] != self.embed_dim:
            raise ShapeError(f"x {tuple(x.shape)} must be (*batch, T, M) with M = {self.embed_dim}")
        *batch, t, _ = x.shape
        return Sizes(tuple(batch), t, t, self.num_heads, self.num_heads, self.width, self.value_dim)

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        n = self.sizes(arrays["x"])
        return {"output": (*n.batch, n.T, self.embed_dim), "weights": n.scores, "logsumexp": n.scores[:-1]}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return what a call fixes beside its arrays, for the keywords `mask`, `positions` and `dropout_seed`.

        Returns:
            "allowed": bool `(*batch, H, T, T)`. "table": cosines and sines `(*batch, T, P / 2)` float64. "keep": bool like
            `allowed`, or None without dropout.
        """
        sizes, positions, seed = self.sizes(arrays["x"]), call.get("positions"), call.get("dropout_seed")
        check_places(positions, sizes)
        allowed = evaluate(both(self.mask, call.get("mask")), sizes)
        where = np.arange(sizes.T) if positions is None else np.asarray(positions)
        return {
            "allowed": np.ones(sizes.scores, bool) if allowed is None else np.broadcast_to(allowed, sizes.scores),
            "table": self.positions.tables(where, self.rope_dim),
            "keep": keep(seed, self.dropout_rate, sizes.scores) if self.dropout_rate and seed is not None else None,
        }

    def formula(
        self,
        xp: Any,
        weights: Mapping[str, Array],
        arrays: Mapping[str, Array],
        resolved: ResolvedCall,
        *,
        constant: Callable[[Array], Array] = unchanged,
        observe: Observer = UNOBSERVED,
        form: str = "expanded",
    ) -> dict[str, Array]:
        """Return the layer's output and intermediates; `form` is "expanded" or "absorbed", the rest as in `Contract`."""
        x = arrays["x"]
        asking, asked, _ = zero_masked_inputs_dense(xp, resolved["allowed"], observe("input", x), observe("input", x), x)
        queries = self._queries(xp, weights, asking, resolved["table"], observe)
        latents = self._latents(xp, weights, asked, resolved["table"], observe)
        kernel = weights["kv_up.kernel"]
        if form == "absorbed":
            moved = observe("absorbed", absorb(xp, kernel, queries[0]))
            q, k, v = one_head(xp, moved, queries[1], *latents)
        else:
            q, k, v = many_heads(xp, *queries, project(xp, weights, "kv_up", latents[0][..., 0, :], observe), latents[1])
        intermediates = attend(
            xp,
            q,
            k,
            v,
            scale=self.score.factor(self.width),
            allowed=resolved["allowed"],
            keep=resolved["keep"],
            dropout_rate=self.dropout_rate,
            constant=constant,
            observe=observe,
        )
        if form == "absorbed":
            intermediates["context"] = observe("values", expand(xp, kernel, intermediates["context"], self.nope_dim))
        return {**intermediates, "output": project(xp, weights, "out_proj", intermediates["context"], observe, summed=2)}

    def _queries(
        self, xp: Any, weights: Mapping[str, Array], x: Array, table: tuple[Array, Array], observe: Observer
    ) -> tuple[Array, Array]:
        """Return the two parts of the query heads: `(*batch, T, H, nope_dim)`, and `(*batch, T, H, P)`, rotated."""
        if self.q_rank is None:
            q = project(xp, weights, "q_proj", x, observe)
        else:
            latent = normed(xp, self.norms, weights, "q_norm", project(xp, weights, "q_down", x, observe), observe)
            q = project(xp, weights, "q_up", latent, observe)
        cos, sin = (xp.asarray(part) for part in table)
        return q[..., : self.nope_dim], observe("rotated", self.positions.rotate(xp, q[..., self.nope_dim :], cos, sin))

    def _latents(
        self, xp: Any, weights: Mapping[str, Array], x: Array, table: tuple[Array, Array], observe: Observer
    ) -> tuple[Array, Array]:
        """Return the normed latent `(*batch, S, 1, R)` and the rotated key `(*batch, S, 1, P)`, one head each."""
        made = project(xp, weights, "kv_down", x, observe)[..., None, :]
        latent = normed(xp, self.norms, weights, "kv_norm", made[..., : self.kv_rank], observe)
        cos, sin = (xp.asarray(part) for part in table)
        return latent, observe("rotated", self.positions.rotate(xp, made[..., self.kv_rank :], cos, sin))

    def unresolved(self) -> LatentAttention:
        return replace(self, mask=None, precision=None)

    def chosen(self, form: str, cache: Any, x: Array) -> str:
        """Return the form of a call, "auto" being the absorbed one with a cache and the expanded one without.

        Raises:
            OptionError: no such form, or the contract has no meaning with this cache: see `cache_checks.check_continues`.
            DTypeError: no cache, or that of another framework.
            ShapeError: the cache has other batch axes.
        """
        FORM.check("form", form)
        if cache is None:
            return "expanded" if form == "auto" else form
        *_, t, _ = x.shape
        sizes = Sizes(tuple(getattr(cache, "batch", ())), t, t, self.num_heads, 1, self.rope_dim, self.kv_rank)
        cache_checks.check_continues(self, cache, None, sizes)
        if not cache.memory.is_native(x):
            raise DTypeError(f"cache {type(cache).__module__}.{type(cache).__name__} must be of the framework of x")
        if cache.batch != tuple(x.shape[:-2]):
            raise ShapeError(f"cache of batch {cache.batch} must have batch = {tuple(x.shape[:-2])} as x has")
        return "absorbed" if form == "auto" else form


def check_places(positions: Array, sizes: Sizes) -> None:
    """Raise unless `positions` is None or integers that broadcast to `(*batch, T)`.

    Raises:
        PositionError: no integers.
        ShapeError: the wrong shape.
    """
    if positions is None:
        return
    check_integral("positions", positions)
    check_broadcast("positions", positions, (*sizes.batch, sizes.T), "(*batch, T)")
