"""Torch's kernels, in the order in which "auto" prefers them; what stands after the reference is asked for by name."""

from attention.spec.kernels import Kernel
from attention.torch_impl.kernels.flex import Flex
from attention.torch_impl.kernels.reference import Reference
from attention.torch_impl.kernels.sdpa import Sdpa

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Sdpa(), Reference(), Flex())}
