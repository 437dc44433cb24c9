"""Filter XLA compiler options to those that the installed version supports."""

# JAX leaves its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from functools import cache


def known(options: Mapping[str, bool | int]) -> dict[str, bool | int]:
    """Return those options that the compiler of the installed jaxlib knows, by compiling a number with each alone."""
    return {name: value for name, value in options.items() if _knows(name, value)}


@cache
def _knows(name: str, value: bool | int) -> bool:
    import jax  # noqa: PLC0415 - the other backend is used without it

    try:
        _ = jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(1.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if "option" in str(error):
            return False
        raise
    return True
