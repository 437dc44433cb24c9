"""Position-wise MLP: up-projection, activation (optionally gated), down-projection; contract and formula.

    hidden = f(x W_up + b_up)                                     W_up (M, A)
    hidden = f(x W_gate + b_gate) * (x W_up + b_up)               swiglu, geglu, geglu_tanh; W_gate (M, A)
    output = drop(hidden) W_down + b_down                         W_down (A, M)

Dropout follows the activation, as in torch.nn.TransformerEncoderLayer.

References:
    Vaswani et al., arXiv:1706.03762, section 3.3; Shazeer, arXiv:2002.05202 (the gated forms).
"""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attention.spec import random
from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array
from attention.spec.kernels import PRECISION
from attention.spec.layers.activations import GATED, NAMES, PLAIN
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.projection import project
from attention.spec.layers.tokens import check_tokens, dropped, kept
from attention.spec.options import Option, arrays_by_name, check_options, checked, one_of
from attention.spec.params import Param
from attention.spec.scores import WIDTH

INPUTS = arrays_by_name("x")


@dataclass(frozen=True)
class FeedForward(Contract):
    """The contract of a feed-forward layer. Hashable; holds no array.

    Args:
        embed_dim: M, the width of the input and of the output.
        hidden_dim: A, the width in between.
        activation: one of `activations.NAMES`; "gelu" is the one with erf.
        bias: whether the projections have biases.
        dropout_rate: probability of dropping a hidden feature while training.
        precision: least precision of float32 products, one of `kernels.PRECISIONS`.

    Raises:
        OptionError: an option outside its range.

    >>> FeedForward(embed_dim=4, hidden_dim=16, activation="swiglu", bias=False).params.keys()
    dict_keys(['up.kernel', 'gate.kernel', 'down.kernel'])
    """

    embed_dim: int
    hidden_dim: int
    activation: str = "relu"
    bias: bool = True
    dropout_rate: float = 0.0
    precision: str | None = None

    call_kwargs: ClassVar[frozenset[str]] = frozenset({"dropout_seed"})

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        **dict.fromkeys(("embed_dim", "hidden_dim"), WIDTH),
        "activation": one_of(*NAMES),
        "precision": PRECISION,
        "dropout_rate": random.DROPOUT_RATE,
    }

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def gated(self) -> bool:
        """Whether the hidden features are a product of two projections."""
        return self.activation in GATED

    @property
    def curve(self) -> str:
        """The name of the function of one projection."""
        return GATED.get(self.activation, self.activation)

    @property
    def inputs(self) -> dict[str, int]:
        return {"x": self.embed_dim}

    @property
    def params(self) -> dict[str, Param]:
        m, a = self.embed_dim, self.hidden_dim
        shapes = {"up": (m, a, "MA"), "gate": (m, a, "MA"), "down": (a, m, "AM")}
        tree: dict[str, Param] = {}
        for name, (rows, columns, axes) in shapes.items():
            if name == "gate" and not self.gated:
                continue
            tree[f"{name}.kernel"] = Param((rows, columns), axes, inputs=1)
            if self.bias:
                tree[f"{name}.bias"] = Param((columns,), axes[1])
        return tree

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        check_tokens("x", arrays["x"], self.embed_dim)
        return {"output": tuple(arrays["x"].shape)}

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return "keep": bool `(*batch, T, A)`, or None without dropout."""
        check_tokens("x", arrays["x"], self.embed_dim)
        shape = (*arrays["x"].shape[:-1], self.hidden_dim)
        return {"keep": kept(self.dropout_rate, shape, **call)}

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
        x = arrays["x"]
        hidden = project(xp, weights, "up", observe("input", x), observe)
        if self.gated:
            gate = observe("activated", PLAIN[self.curve](xp, project(xp, weights, "gate", observe("input", x), observe)))
            hidden = observe("gated", gate * hidden)
        else:
            hidden = observe("activated", PLAIN[self.curve](xp, hidden))
        hidden = dropped(xp, hidden, resolved["keep"], self.dropout_rate, observe)
        return {"output": project(xp, weights, "down", hidden, observe)}
