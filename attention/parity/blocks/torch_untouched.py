"""A torch module that is run as it is, and left as it was: attributes, buffers, modes and random generators.

with untouched(module): module(x)        bit for bit and tie for tie the same module afterwards, also after an error

A copy of a model of a billion parameters would double its memory, so the module itself runs.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attention.parity.adapters.torch_program import same_draws


@contextmanager
def untouched(module: nn.Module) -> Generator[None]:
    """Run what is inside without gradients; then give every part of the module what it had before."""
    parts = list(module.modules())
    attributes = [(part, dict(vars(part))) for part in parts]
    # Parameters, buffers, hooks and children stand in dicts, which a shallow copy shares.
    inner = [(held, dict(held)) for part in parts for held in vars(part).values() if isinstance(held, dict)]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    devices = tuple({tensor.device for tensor in (*module.parameters(), *module.buffers())})
    try:
        with torch.no_grad(), same_draws(devices):
            yield
    finally:
        for part, held in attributes:
            _refill(vars(part), held)
        for held, before in inner:
            _refill(held, before)
        with torch.no_grad():
            for buffer, before in buffers:
                # A buffer that holds NaN is not equal to itself, and is written back for nothing.
                if not torch.equal(buffer, before):
                    _ = buffer.copy_(before)


def _refill(held: dict[Any, Any], before: dict[Any, Any]) -> None:
    if held.keys() != before.keys() or any(held[key] is not value for key, value in before.items()):
        held.clear()
        held.update(before)
