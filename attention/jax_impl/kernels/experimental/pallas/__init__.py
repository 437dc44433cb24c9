"""The kernel `pallas`: flash attention written in Pallas over the mask's tile schedule, for GPUs and TPUs.

kernel -> backward -> forward -> cell -> tiles -> operands
"""

from attention.jax_impl.kernels.experimental.pallas.kernel import Pallas

__all__ = ["Pallas"]
