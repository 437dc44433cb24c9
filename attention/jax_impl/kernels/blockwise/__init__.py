"""The blockwise kernel in plain JAX: exact attention computed tile by tile, on any device.

kernel -> derivatives -> forward, backward, tangent -> scores -> tiles
"""

from attention.jax_impl.kernels.blockwise.kernel import Blockwise

__all__ = ["Blockwise"]
