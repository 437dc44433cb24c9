"""The table of PyTorch kernels, in the order that "auto" tries them unless a rule (rules.py) decides.

Kernels after the reference are used if a rule prefers them, or by name.
"""

from attention.spec.kernels import Kernels
from attention.torch_impl.kernels.blockwise import Blockwise
from attention.torch_impl.kernels.decode import Decode
from attention.torch_impl.kernels.experimental.varlen import Varlen
from attention.torch_impl.kernels.flex import Flex
from attention.torch_impl.kernels.reference import Reference
from attention.torch_impl.kernels.rules import RULES
from attention.torch_impl.kernels.sdpa import Sdpa

KERNELS = Kernels((Sdpa(), Reference(), Blockwise(), Decode(), Flex(), Varlen()), RULES)
