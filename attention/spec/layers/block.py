"""Base contract of encoder and decoder blocks: residual branches, each with a norm before it or after the sum."""

# Arguments may come from code without type checks.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array
from attention.spec.errors import OptionError, shown
from attention.spec.layers.contract import Contract, ResolvedCall, Shapes
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.layers.projection import normed
from attention.spec.layers.tokens import check_tokens, dropped, existing, kept, only, seed_at
from attention.spec.norms import LayerNorm, Norm, RMSNorm
from attention.spec.options import Option, arrays_by_name, check_options, checked, one_of
from attention.spec.params import Param, inner, nest
from attention.spec.random import DROPOUT_RATE

ORDERS = ("post", "pre")

INPUTS = arrays_by_name("x")


@dataclass(frozen=True, kw_only=True)
class Block(Contract):
    """What encoder and decoder blocks share. Abstract.

    Args:
        norm: `LayerNorm()` or `RMSNorm()`; one for each branch.
        order: "post", after each sum, or "pre", before each branch.
        dropout_rate: probability of dropping a feature of a branch's output while training.

    Raises:
        OptionError: an option outside its range, or parts whose widths do not fit.
    """

    norm: LayerNorm | RMSNorm = LayerNorm(eps=1e-5)
    order: str = "post"
    dropout_rate: float = 0.0

    @property
    @abstractmethod
    def own_attention(self) -> MultiHeadAttention:
        """The self-attention."""

    @abstractmethod
    def calls(self, call: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what each part is called with beside arrays and seed, by name."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {"order": one_of(*ORDERS), "dropout_rate": DROPOUT_RATE}

    def __post_init__(self) -> None:
        check_norm("norm", self.norm)
        check_options(self)

    @property
    def width(self) -> int:
        """M."""
        return self.own_attention.embed_dim

    @property
    def norms(self) -> dict[str, Norm]:
        return {f"norm{i}": self.norm for i, _ in enumerate(self.parts, 1)}

    @property
    def params(self) -> dict[str, Param]:
        tree: dict[str, Param] = {}
        for i, (name, part) in enumerate(self.parts.items(), 1):
            tree |= nest(name, part.params) | nest(f"norm{i}", self.norm.params(self.width))
        return tree

    @checked(arrays=INPUTS)
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        self.check(arrays)
        return {"output": tuple(arrays["x"].shape)}

    @checked(arrays=INPUTS)
    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raise ShapeError unless the inputs fit the block and each other."""
        check_tokens("x", arrays["x"], self.width)
        if "memory" in self.inputs:
            arrays_by_name("x", "memory").check("arrays", arrays)
            batch = tuple(arrays["x"].shape[:-2])
            check_tokens("memory", arrays["memory"], self.inputs["memory"], "S", batch)

    @checked(arrays=INPUTS)
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return the resolved of each part by its name, "present" `(*batch, T, 1)`, and "dropout1" and so on."""
        self.check(arrays)
        seed = call.pop("dropout_seed", None)
        made: ResolvedCall = {"present": existing(self.own_attention, arrays["x"], call.get("mask"))}
        for i, (name, given) in enumerate(self.calls(call).items(), 1):
            taken = _taken(arrays, name)
            made[name] = self.parts[name].resolve(taken, **given, dropout_seed=seed_at(seed, name))
            made[f"dropout{i}"] = kept(self.dropout_rate, arrays["x"].shape, seed_at(seed, f"dropout{i}"))
        return made

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
        def branch(name: str, x: Array) -> Array:
            taken = _taken({**arrays, "x": x}, name)
            own = inner(name, weights)
            return self.parts[name].formula(xp, own, taken, resolved[name], constant=constant, observe=observe)["output"]

        there = xp.asarray(resolved["present"])
        x = only(xp, arrays["x"], there)
        for i, name in enumerate(self.parts, 1):
            norm = f"norm{i}"
            y = branch(name, normed(xp, self.norms, weights, norm, x, observe) if self.order == "pre" else x)
            x = observe("sum", x + dropped(xp, y, resolved[f"dropout{i}"], self.dropout_rate, observe))
            x = normed(xp, self.norms, weights, norm, x, observe) if self.order == "post" else x
        return {"output": only(xp, x, there)}

    def pinned(self) -> Self:
        return replace(self, **{name: part.pinned() for name, part in self._fields().items()})

    def _fields(self) -> dict[str, Contract]:
        """Return the parts by the names of the fields that hold them."""
        return {f.name: part for f in fields(self) if isinstance(part := getattr(self, f.name), Contract)}

    def unresolved(self) -> Self:
        return replace(self, **{name: part.unresolved() for name, part in self._fields().items()})


def check_part(name: str, part: Any, kind: type[Contract]) -> None:
    """Raise OptionError unless a part is of its kind."""
    if not isinstance(part, kind):
        raise OptionError(f"{name} {shown(part)} must be {kind.__name__}(...)")


def check_norm(name: str, norm: Any) -> None:
    """Raise OptionError unless this is a norm under which a padded token, which is a row of zeros, has a gradient."""
    if not isinstance(norm, (LayerNorm, RMSNorm)):
        raise OptionError(f"{name} {shown(norm)} must be LayerNorm(...) or RMSNorm(...)")
    if norm.eps == 0:
        raise OptionError(f"{name} eps 0 must be positive: a padded token is a row of zeros")


def _taken(arrays: Mapping[str, Array], name: str) -> dict[str, Array]:
    """Return the arrays that the part called `name` takes."""
    if name == "ffn":
        return {"x": arrays["x"]}
    return {"query": arrays["x"], **({"key": arrays["memory"]} if name == "cross_attn" else {})}
