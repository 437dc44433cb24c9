"""Contract: the interface of every layer's description (inputs, formula, call resolution, building in a backend).

    weights = contract.init(seed)
    results = contract.formula(xp, weights, arrays, contract.resolve(arrays, **call))

The formula is the layer's mathematics over the array API: the oracle on NumPy float64, its gradients on `jax.numpy`. What a
call fixes beside its arrays (allowed keys, rotary tables, dropped weights) is resolved first, in NumPy.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from attention.spec.attend import UNOBSERVED, Observer, unchanged
from attention.spec.axes import Array
from attention.spec.errors import OptionError, UnknownName, shown
from attention.spec.layers.architecture import Architecture
from attention.spec.options import ARRAYS, Option, checked

BACKENDS = {"torch": "attention.torch_impl", "jax": "attention.jax_impl"}

ResolvedCall = dict[str, Any]
"""What a call fixes beside its arrays: NumPy arrays by name, None where nothing is fixed."""

Shapes = dict[str, tuple[int, ...]]

BACKEND = Option(f"one of {', '.join(BACKENDS)}", lambda value: type(value) is str and value in BACKENDS, UnknownName)


class Contract(Architecture):
    """The description of a layer. Abstract; a layer is a frozen dataclass, hashable, that holds no array."""

    outputs: ClassVar[tuple[str, ...]] = ("output",)
    """What the built layer returns, in order; intermediates are returned beside it."""

    call_kwargs: ClassVar[frozenset[str]] = frozenset({"mask"})
    """The keywords of a call, beside its arrays, that change its results."""

    @property
    def parts(self) -> dict[str, Contract]:
        """The layers inside this one, by the prefix of their parameters."""
        return {}

    @property
    @abstractmethod
    def inputs(self) -> dict[str, int]:
        """The width of each array that a call takes, by keyword, the one with T rows first."""

    @property
    def attends_self(self) -> bool:
        """Whether a call may give its first input alone."""
        return True

    @abstractmethod
    def results(self, arrays: Mapping[str, Array]) -> Shapes:
        """Return the shape of everything that the formula returns and that has a gradient, `outputs` first.

        Raises:
            ShapeError: the arrays do not fit the contract or each other.
        """

    @abstractmethod
    def resolve(self, arrays: Mapping[str, Array], **call: Any) -> ResolvedCall:
        """Return what a call fixes beside its arrays, in NumPy.

        Args:
            arrays: of the call; only their shapes are read.
            call: the keywords that a built layer takes beside arrays, such as `mask`.

        Raises:
            MaskError: a mask does not fit.
            PositionError: positions are missing or do not fit.
        """

    @abstractmethod
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
        """Return the layer's outputs and intermediates by name.

        Args:
            xp: the array namespace.
            weights: canonical, float64.
            arrays: of the call, float64.
            resolved: what `resolve` returned.
            constant: the framework's stop-gradient.
            observe: called with every value that a layer stores, by name; see `Observer`.
        """

    @checked(arrays=ARRAYS)
    def optional(self, arrays: Mapping[str, Array]) -> Shapes:
        """Return the shapes of optional arrays, which default to zeros, so that calls share a compilation."""
        del arrays
        return {}

    def pinned(self) -> Self:
        """Return the contract with products at full precision: no TF32, no bfloat16 passes."""
        return replace(self, precision="highest")  # type: ignore[type-var]  # every subclass is a dataclass

    def unresolved(self) -> Self:
        """Return the contract without the options that `resolve` reads, so that calls with other values share a compilation."""
        return self

    def build(self, backend: str, *, weights: Mapping[str, Array] | None = None, **options: Any) -> Any:
        """Return the layer in a framework: "torch" (an `nn.Module`) or "jax" (an `nnx.Module`).

        Args:
            backend: the framework.
            weights: canonical, to load; first weights are not drawn then. None draws them.
            options: of the layer: `seed` (of first weights) and `dtype`.

        Raises:
            UnknownName: no such backend.
            MissingExtra: the framework is not installed.
            OptionError: a seed of first weights beside weights.
            ParamError: weights are missing, unexpected or misshapen.
        """
        BACKEND.check("backend", backend)
        layer = getattr(importlib.import_module(BACKENDS[backend]), type(self).__name__)
        if weights is None:
            return layer(self, **options)
        if options.setdefault("seed") is not None:
            raise OptionError(
                f"seed {shown(options['seed'])} must be None where weights are given: first weights are not drawn"
            )
        made = layer(self, **options)
        made.load_weights(weights)
        return made
