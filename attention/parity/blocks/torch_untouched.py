"""Run a torch module and restore its state: attributes, buffers, caches, modes and random generators.

with untouched(module): module(x)        bit for bit and tie for tie the same module afterwards, also after an error

A copy of a model of a billion parameters would double its memory, so the module itself runs; everything that is no parameter is
copied.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attention.parity.adapters.torch_program import same_draws
from attention.parity.adapters.untouched import Saved, own_draws


@contextmanager
def untouched(module: nn.Module) -> Generator[None]:
    """Run the body without gradients, and then restore everything that the module holds."""
    saved = Saved(module)
    copies = [(tensor, tensor.detach().clone()) for tensor in _written(saved)]
    devices = tuple({tensor.device for tensor in (*module.parameters(), *module.buffers())})
    try:
        with torch.no_grad(), own_draws(), same_draws(devices):
            yield
    finally:
        saved.restore()
        with torch.no_grad():
            for tensor, before in copies:
                # A tensor that holds NaN is not equal to itself, and is written back for nothing.
                if not torch.equal(tensor, before):
                    _ = tensor.copy_(before)


def _written(saved: Saved) -> list[Tensor]:
    """Return the tensors that a forward pass may write to: buffers, caches and plain attributes, each once."""
    held = (
        item for container, _ in saved.containers for item in (container.values() if isinstance(container, dict) else container)
    )
    return list({id(item): item for item in held if isinstance(item, Tensor) and not isinstance(item, nn.Parameter)}.values())
