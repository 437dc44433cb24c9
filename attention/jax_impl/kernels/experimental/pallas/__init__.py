"""Our own kernel in Pallas: the tiles of the mask's schedule, on GPUs and TPUs.

kernel -> backward -> forward -> cell -> tiles -> operands
"""

from attention.jax_impl.kernels.experimental.pallas.kernel import Pallas

__all__ = ["Pallas"]
