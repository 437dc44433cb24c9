"""A part of a torch model that returns the output of one of its submodules."""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from typing import Any

import torch

from attention.parity.blocks.torch_model import TorchPart


class TappedPart(TorchPart):
    """A part of a model that returns what a module within it made, as of an attention before its residual sum and norm.

    Args:
        within: the path of that module.
        part: block, received call and slots, as `TorchPart` takes them.
    """

    def __init__(self, within: str, *part: Any) -> None:
        super().__init__(*part)
        self.within = within

    def forward(self, *given: torch.Tensor) -> Any:
        caught: list[torch.Tensor] = []
        handle = self.block.get_submodule(self.within).register_forward_hook(lambda *seen: caught.append(seen[-1]))
        try:
            _ = super().forward(*given)
        finally:
            handle.remove()
        return caught[0]
