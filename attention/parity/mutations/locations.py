"""Locations: the parts of a contract to which a mutation applies.

    contract.block.attention        weights "layers.0.self_attn.", "layers.1.self_attn."        attentions 0 and 1 of a call

One class builds every layer of a stack, so a mistake in it is in all of them: a location is one part in every layer.
"""

# A part's fields depend on which layer it is.
# pyright: standard, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from attention.parity.contracts.probes import Probe
from attention.parity.mutations import operators
from attention.parity.mutations.operators import Operator
from attention.spec.layers.block import Block
from attention.spec.layers.contract import Contract, ResolvedCall
from attention.spec.layers.differential import DifferentialAttention
from attention.spec.layers.feed_forward import FeedForward
from attention.spec.layers.stack import Stack
from attention.spec.masks.algebra import Mask

ModulePath = tuple[str, ...]

NAMES = {"attention": "self_attn", "self_attention": "self_attn", "cross_attention": "cross_attn", "feed_forward": "ffn"}
"""The module names of a block's parts, by field."""
LABELS = {"self_attention": "self-attention", "cross_attention": "cross-attention"}


@dataclass(frozen=True)
class Location:
    """A part of a contract.

    Attributes:
        whole: the contract.
        path: the fields that lead to the part, such as "block.attention"; "" for the whole.
        module_paths: the prefixes of its parameters' names, one for each layer of a stack.
        label: distinguishes it from similar parts; "" if there is one of its kind.
    """

    whole: Contract
    path: str = ""
    module_paths: tuple[ModulePath, ...] = ((),)
    label: str = ""

    @property
    def contract(self) -> Any:
        """The part."""
        return self.within(self.whole)

    def within(self, contract: Contract) -> Any:
        """Return the part of another contract, which a mutation may already have changed."""
        part: Any = contract
        for name in filter(None, self.path.split(".")):
            part = getattr(part, name)
        return part

    def option(self, **options: object) -> Operator:
        """Return the operator that sets other options of the part."""
        return operators.part(self.path, **options) if self.path else operators.option(**options)

    def inner(self, field: str, **options: object) -> Operator:
        """Return the operator that sets other options of one field of the part, such as its positions."""
        return operators.part(f"{self.path}.{field}".lstrip("."), **options)

    def weight(self, name: str, change: Callable[[np.ndarray], Any]) -> Operator:
        """Return the operator that changes a parameter, in every layer."""
        return operators.compose(*(operators.weight(full, change) for full in self.names(name)))

    def swap(self, first: str, second: str) -> Operator:
        """Return the operator that exchanges two parameters, in every layer."""
        pairs = zip(self.names(first), self.names(second), strict=True)
        return operators.compose(*(operators.swap_weights(*pair) for pair in pairs))

    def names(self, name: str) -> list[str]:
        """Return the full names of a parameter of the part, one for each layer."""
        return [".".join((*module_path, name)) for module_path in self.module_paths]

    @property
    def mask_name(self) -> str:
        """The keyword of a call that holds this attention's mask."""
        return "memory_mask" if self.path.endswith("cross_attention") else "mask"

    def mask(self, change: Callable[[Mask | None, Mask | None], tuple[Mask | None, Mask | None]]) -> Operator:
        """Return the operator that changes masks: `change(layer's own, call's) -> (layer's own, call's)`."""

        def mutate(probe: Probe) -> Probe:
            own, given = change(getattr(self.within(probe.contract), "mask", None), getattr(probe, self.mask_name))
            probe = self.option(mask=own)(probe) if hasattr(self.contract, "mask") else probe
            return replace(probe, **{self.mask_name: given})

        return mutate

    def settings(self, setting: ResolvedCall) -> list[ResolvedCall]:
        """Return the part's own settings, one for each layer."""
        return [_inside(setting, module_path) for module_path in self.module_paths]

    @property
    def calls(self) -> tuple[int, ...]:
        """The numbers of this part's attentions among those of one call, in the order of computation."""
        order = list(_attentions(self.whole))
        return tuple(i for i, module_path in enumerate(order) if module_path in self.module_paths)


def locations(contract: Contract) -> list[Location]:
    """Return every part of a contract, the whole first."""
    return list(_walk(Location(contract)))


def _walk(location: Location) -> Iterator[Location]:
    yield location
    part = location.contract
    if isinstance(part, Stack):
        names = {"block": list(part.parts)}
    elif isinstance(part, Block):
        names = {f.name: [NAMES[f.name]] for f in fields(part) if f.name in NAMES}
    else:
        return
    for field, inner in names.items():
        module_paths = tuple((*module_path, name) for module_path in location.module_paths for name in inner)
        label = LABELS.get(field, location.label)
        yield from _walk(replace(location, path=f"{location.path}.{field}".lstrip("."), module_paths=module_paths, label=label))


def _attentions(contract: Contract, module_path: ModulePath = ()) -> Iterator[ModulePath]:
    if contract.parts:
        for name, part in contract.parts.items():
            yield from _attentions(part, (*module_path, name))
    elif not isinstance(contract, FeedForward):
        yield from [module_path] * (2 if isinstance(contract, DifferentialAttention) else 1)


def _inside(setting: ResolvedCall, module_path: ModulePath) -> ResolvedCall:
    for name in module_path:
        setting = setting[name]
    return setting
