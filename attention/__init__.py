"""One attention, two frameworks, proven equal.

    import attention          the standard library, nothing else
    attention.torch_impl      imports torch, never jax
    attention.jax_impl        imports jax and flax, never torch

Every attribute is loaded when it is first asked for (PEP 562), so a user pays only for the backend in use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention import checkpoints, jax_impl, parity, spec, torch_impl
    from attention.spec.files import load, save

__all__ = ["checkpoints", "jax_impl", "load", "parity", "save", "spec", "torch_impl"]
__version__ = "0.1.0"

_SUBPACKAGES = frozenset({"checkpoints", "jax_impl", "parity", "spec", "torch_impl"})
_HOMES = {"load": "spec.files", "save": "spec.files"}


def __getattr__(name: str) -> object:
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
