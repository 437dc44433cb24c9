"""Blockwise in JAX: tiles of scores, one after another, on any device.

kernel -> derivatives -> forward, backward, tangent -> scores -> tiles
"""

from attention.jax_impl.kernels.blockwise.kernel import Blockwise

__all__ = ["Blockwise"]
