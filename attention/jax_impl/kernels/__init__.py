"""JAX's kernels, in the order in which "auto" prefers them."""

from attention.jax_impl.kernels.reference import Reference
from attention.jax_impl.kernels.xla import Xla
from attention.spec.kernels import Kernel

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Xla(), Reference())}
