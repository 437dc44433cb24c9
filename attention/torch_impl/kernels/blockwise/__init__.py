"""The blockwise kernel in torch: the mask as blocks of scores, each computed by a fused kernel on its own keys.

kernel -> call -> plan (tiles, lines) -> passes (views, flash | products) -> function | compiled
"""

from attention.torch_impl.kernels.blockwise.kernel import Blockwise

__all__ = ["Blockwise"]
