"""Blockwise in torch: pieces of the mask, each through a fused kernel on the keys that it needs.

kernel -> call -> plan (cells, lines) -> passes (views, flash | products) -> function | compiled
"""

from attention.torch_impl.kernels.blockwise.kernel import Blockwise

__all__ = ["Blockwise"]
