"""`compiled(layer)`: a layer through `torch.compile`.

compiled(layer)(*args, **options) = layer(*args, **options)        its weights read anew on every call
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from attention.spec.options import instance
from attention.torch_impl.layers.layer import Layer

LAYER = instance(Layer, wanted="a layer of attention.torch_impl")

P = ParamSpec("P")
R = TypeVar("R")


def compiled(layer: Callable[P, R]) -> Callable[P, R]:
    """Return the layer as a compiled function of the same arguments: one graph, or an error.

    Masks are arguments: new lengths compile nothing anew, a new structure does. Weights that are loaded later are seen, and
    so are `train()` and `eval()`.

    Args:
        layer: a layer of this package; it is not changed.

    Raises:
        OptionError: `layer` is not a layer.

    Returns:
        A function with the layer's arguments and results.
    """
    LAYER.check("layer", layer)
    return torch.compile(layer, fullgraph=True)
