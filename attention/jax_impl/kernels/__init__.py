"""The table of JAX kernels, in the order that "auto" tries them unless a rule (rules.py) decides.

Kernels after the reference are used if a rule prefers them, or by name.
"""

from attention.jax_impl.kernels.blockwise import Blockwise
from attention.jax_impl.kernels.decode import Decode
from attention.jax_impl.kernels.experimental.cudnn import Cudnn
from attention.jax_impl.kernels.experimental.pallas import Pallas
from attention.jax_impl.kernels.experimental.splash import Splash
from attention.jax_impl.kernels.reference import Reference
from attention.jax_impl.kernels.rules import RULES
from attention.jax_impl.kernels.xla import Xla
from attention.spec.kernels import Kernels

KERNELS = Kernels((Xla(), Reference(), Blockwise(), Decode(), Cudnn(), Pallas(), Splash()), RULES)
