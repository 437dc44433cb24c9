"""Linear attention: a feature map instead of the softmax, so that keys and values are summed in advance.

    q = query W_q + b_q    k = key W_k + b_k    v = value W_v + b_v
    context[t] = sum_s f(q[t]) . f(k[s]) v[s] / (sum_s f(q[t]) . f(k[s]) + eps)        over the keys that t may attend to
    f(x) = elu(x) + 1 = x + 1 where x > 0, exp(x) elsewhere        f(x) = max(x, 0)        each feature by itself
    quadratic:  the sums as written, T * S products
    scan:       f(q[t]) A[t] / (f(q[t]) z[t] + eps),  A[t] = A[t - 1] + f(k[t]) v[t]^T,  z[t] = z[t - 1] + f(k[t])
                if causal; without it A and z are of all keys. [A z] is the state that a decode carries.

Both forms are one function; the second costs time and memory that grow with T alone. With "relu" a query may answer to no
key at all; its row is then empty, and an empty row gives 0 here as everywhere.

References:
    Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, equations 5, 7, 9 to 12, and the authors' code
    (idiap/fast-transformers), from which the eps of 1e-6 is taken.
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import COMPUTE, Array, Sizes, dtype_name
from attention.spec.errors import DTypeError, OptionError, ShapeError
from attention.spec.kernels import PRECISION
from attention.spec.kernels.nan_safety import zero_masked_inputs_dense
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.linear_forms import features, quadratic, ratio, with_ones
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.projection import project
from attention.spec.masks import Causal
from attention.spec.norms import EPS
from attention.spec.options import ARRAY, Option, arrays_by_name, check_options, checked, one_of
from attention.spec.params import Param
from attention.spec.scores import WIDTH

FEATURES = ("elu+1", "relu")

INPUTS = arrays_by_name("query")


@dataclass(frozen=True)
class LinearAttention(Contract):
    """The contract of a linear attention layer. Hashable; holds no array.

    Args:
        embed_dim: M, the width of inputs and output.
        num_heads: H.
        num_kv_heads: K, a divisor of H; None means H.
        head_dim: D; None means M / H.
        value_dim: E, the width of a value head; None means D.
        causal: whether a token attends only to itself and to those before it; T = S then.
        feature_map: f, "elu+1" or "relu".
        eps: added to the denominator; >= 0.
        qkv_bias: whether the three input projections have biases.
        out_bias: whether the output projection has one.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    value_dim: int | None = None
    causal: bool = False
    feature_map: str = "elu+1"
    eps: float = 1e-6
    qkv_bias: bool = True
    out_bias: bool = True
    precision: str | None = None

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("embed_dim", "num_heads", "num_kv_heads", "head_dim", "value_dim"), WIDTH | ""),
        **dict.fromkeys(("embed_dim", "num_heads"), WIDTH),
        "feature_map": one_of(*FEATURES),
        "eps": EPS,
        "precision": PRECISION,
    }

    def __post_init__(self) -> None:
        check_options(self)
        _ = self.attention

    @cached_property
    def attention(self) -> MultiHeadAttention:
        """The layer with the same projections and mask, whose weights are made by a softmax."""
        return MultiHeadAttention(
            self.embed_dim,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.value_dim,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            mask=Causal() if self.causal else None,
            precision=self.precision,
        )

    @property
    def inputs(self) -> dict[str, int]:
        """The model width of each input."""
        return self.attention.inputs

    @property
    def params(self) -> dict[str, Param]:
        """The parameter tree: that of multi-head attention."""
        return self.attention.params

    @checked(arrays=INPUTS)
    def sizes_of(self, arrays: Mapping[str, Array]) -> Sizes:
        """Return the sizes of a call, as `MultiHeadAttention` does."""
        return self.attention.sizes_of(arrays)

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        n = self.sizes_of(arrays)
        return {"output": (*n.batch, n.T, self.embed_dim)}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return the resolved of a call: "allowed", bool `(*batch, H, T, S)`."""
        return {"allowed": self.attention.resolve(arrays, **call)["allowed"]}

    def formula(
        self,
        xp: Any,
        weights: Mapping[str, Array],
        arrays: Mapping[str, Array],
        resolved: ResolvedCall,
        *,
        constant: Callable[[Array], Array] = unchanged,
        observe: Observer = UNOBSERVED,
    ) -> dict[str, Array]:
        del constant
        query = arrays["query"]
        key = arrays.get("key", query)
        value = arrays.get("value", key)
        given = zero_masked_inputs_dense(
            xp, resolved["allowed"], observe("input", query), observe("input", key), observe("input", value)
        )
        names = ("q_proj", "k_proj", "v_proj")
        q, k, v = (project(xp, weights, name, x, observe) for name, x in zip(names, given, strict=True))
        q, k = (features(xp, self.feature_map, x) for x in (q, k))
        mixed = observe("mixed", ratio(xp, quadratic(xp, q, k, with_ones(xp, v), resolved["allowed"]), self.eps))
        return {"mixed": mixed, "output": project(xp, weights, "out_proj", mixed, observe, summed=2)}

    def unresolved(self) -> LinearAttention:
        return replace(self, causal=False, precision=None)

    def state_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Return `(*batch, K, D, E + 1)`, the shape of the state: the sums of f(k) v^T, and of f(k) in the last column."""
        return (*sizes.batch, sizes.K, sizes.D, sizes.E + 1)

    def check_state(self, state: Array, sizes: Sizes, dtype: str, *, carries: bool) -> None:
        """Raise unless `state` is None or one that a call of these sizes may go on from, if it `carries` any.

        Raises:
            OptionError: the layer is not causal.
            ShapeError: the wrong shape.
            DTypeError: not in the compute dtype.
        """
        if carries and not self.causal:
            raise OptionError("state must be None, and not returned, where causal is False: every token needs all keys")
        if state is None:
            return
        ARRAY.check("state", state)
        if tuple(state.shape) != self.state_shape(sizes):
            raise ShapeError(f"state {tuple(state.shape)} must be (*batch, K, D, E + 1) = {self.state_shape(sizes)}")
        if dtype_name(state) != COMPUTE[dtype]:
            raise DTypeError(f"state {dtype_name(state)} must be {COMPUTE[dtype]}, in which {dtype} computes")
