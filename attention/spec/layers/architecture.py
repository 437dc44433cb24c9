"""Architecture: any model as named parameter shapes, before a framework builds it.

    params = own params, and those of each part under the part's name
    weights = architecture.init(seed)        the same bits in NumPy, torch and JAX

A contract is an architecture that has a formula too. A model of your own, made of contracts and of arrays beside them, needs
no more than this to have the same weights in both backends: declare its parameters here, subclass `Layer` in each backend.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from attention.spec.errors import OptionError, shown
from attention.spec.norms import Norm
from attention.spec.params import Param, Weights, init, nest


def check_contract(layer: str, contract: object, kind: type[Architecture], *more: object, **other: object) -> None:
    """Raise OptionError unless a layer is made of its contract, and of nothing else by place.

    Args:
        layer: the layer's name.
        contract: what it is given.
        kind: what it must be.
        more: further positional arguments, which are refused.
        other: arguments by name that no layer has, such as those of torch's and flax's.
    """
    if isinstance(contract, kind) and not more and not other:
        return
    wanted = f"spec.{kind.__name__}"
    if isinstance(contract, int):
        # Arguments of torch.nn and flax.nnx belong to the contract.
        given = ", ".join(map(shown, (contract, *more)))
        raise OptionError(f"contract {type(contract).__name__} must be a {wanted}: {layer}({wanted}({given}))")
    if not isinstance(contract, kind):
        raise OptionError(f"contract {shown(contract)} must be a {wanted}")
    if more:
        raise OptionError(f"{layer} {', '.join(map(shown, more))} must be given by name: seed=, dtype=")
    given = ", ".join(f"{name}={shown(value)}" for name, value in other.items())
    raise OptionError(f"{layer} {given} must be one of seed=, dtype=, or an option of {wanted}(...)")


class Architecture:
    """The description of a model. Abstract; a model is a frozen dataclass, hashable, that holds no array.

    >>> from dataclasses import dataclass
    >>> from attention import spec
    >>> @dataclass(frozen=True)
    ... class Tagger(spec.Architecture):
    ...     attention: spec.MultiHeadAttention
    ...     tags: int
    ...
    ...     @property
    ...     def parts(self):
    ...         return {"attention": self.attention}
    ...
    ...     @property
    ...     def params(self):
    ...         readout = spec.Param((self.attention.embed_dim, self.tags), "ME", inputs=1)
    ...         return {**self.part_params(), "readout.kernel": readout}
    >>> sorted(Tagger(spec.MultiHeadAttention(6, 2), tags=3).init(seed=0))[-2:]
    ['attention.v_proj.kernel', 'readout.kernel']
    """

    @property
    @abstractmethod
    def params(self) -> dict[str, Param]:
        """The parameter tree, by canonical name."""

    @property
    def parts(self) -> Mapping[str, Architecture]:
        """The parts of the model, by the prefix of their parameters."""
        return {}

    def part_params(self) -> dict[str, Param]:
        """Return the parameters of all parts, by their names in the whole."""
        return {name: param for at, part in self.parts.items() for name, param in nest(at, part.params).items()}

    @property
    def own_params(self) -> dict[str, Param]:
        """The parameters that belong to no part."""
        begins = tuple(f"{name}." for name in self.parts)
        return {name: param for name, param in self.params.items() if not name.startswith(begins)}

    @property
    def norms(self) -> dict[str, Norm]:
        """The norms among the parameters, by the name that theirs begin with."""
        return {}

    @property
    def drops(self) -> bool:
        """Whether training drops anything, in this model or in a part of it."""
        return bool(getattr(self, "dropout_rate", 0.0)) or any(part.drops for part in self.parts.values())

    def init(self, seed: int, dtype: str = "float32") -> Weights:
        """Return first weights: the same bits here, in torch and in JAX."""
        return init(self.params, seed, dtype)
