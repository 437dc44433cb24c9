"""Source location: the line of the user's file that an operation belongs to.

    line(operation) = the innermost frame of the stack that is neither a framework's, nor the standard library's, nor ours

Where a model only calls library modules no such frame exists, and the innermost frame of a module's is shown instead.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import takewhile

from attention.parity.adapters.user_errors import FRAMEWORKS, shown
from attention.parity.tracing.source_statements import span

# A frame of a stack: file, line, function.
Frame = tuple[str, int, str]

# Packages of layers, and files of model libraries, that stand between a model's own lines and what is computed: where a model's
# line called them, that line is shown. A model that is installed, such as one of transformers, is the user's.
_BETWEEN = (
    *(f"/site-packages/{name}/" for name in ("accelerate", "beartype", "chex", "einops", "haiku", "jaxtyping", "keras")),
    *(f"/site-packages/{name}/" for name in ("lightning", "optax", "qwix", "torchvision/ops", "typeguard")),
    *(f"/site-packages/transformers/{name}" for name in ("generation/", "integrations/", "modeling_layers.py")),
    *(f"/site-packages/transformers/{name}" for name in ("modeling_utils.py", "utils/")),
)
# Files of a framework that say what is computed, and not how it gets to be computed.
_MODULES = (
    *("/torch/nn/", "/flax/", "/equinox/", "/jax/_src/nn/", "/keras/src/layers/", "/haiku/_src/"),
    *("/attention/torch_impl/", "/attention/jax_impl/"),
)


@dataclass(frozen=True)
class Place:
    """A line of a file.

    Attributes:
        file: the path, as the interpreter knows it.
        line: from 1; 0 where no line is known.
        function: the function that the line is in.
        layers: the library's classes that the line calls, innermost first, such as "LayerNorm".
    """

    file: str = ""
    line: int = 0
    function: str = ""
    layers: tuple[str, ...] = field(default=(), compare=False)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last line of what begins on the line, such as a call with its arguments below each other."""
        return span(self.file, self.line)

    @property
    def text(self) -> str:
        """The line itself, without its indent, or "" where the file cannot be read."""
        return linecache.getline(self.file, self.line).strip() if self.line else ""

    def excerpt(self, around: int = 1) -> list[tuple[int, str]]:
        """Return what begins on the line and what is around it, with their numbers; nothing where the file cannot be read."""
        first, last = self.span
        numbers = range(max(1, first - around), last + around + 1) if self.line else ()
        lines = [(number, linecache.getline(self.file, number).rstrip()) for number in numbers]
        return [(number, text) for number, text in lines if text or number == self.line]

    def __str__(self) -> str:
        return f"{shown(self.file)}:{self.line}" if self.line else "(no source line)"


NOWHERE = Place()


@lru_cache(maxsize=4096)
def is_user(file: str) -> bool:
    """Return whether a file is the user's: no framework, no standard library, no part of this package.

    >>> is_user("/home/me/model.py"), is_user("<string>"), is_user("<stdin>")
    (True, False, True)
    """
    if file.startswith("<"):
        return file.startswith(("<ipython", "<stdin"))
    if file.startswith(_folders()):
        return False
    return "site-packages" in file or not file.startswith(sysconfig.get_path("stdlib"))


@cache
def _folders() -> tuple[str, ...]:
    specs = [find_spec(package) for package in FRAMEWORKS]
    return tuple(f"{folder}/" for spec in specs if spec for folder in spec.submodule_search_locations or ())


def places(frames: Iterable[Frame]) -> tuple[Place, ...]:
    """Return the user's frames of a stack, in the order that they are given in: innermost first.

    What only stands between a model's line and an operation is left out, unless nothing else is there.
    """
    found: list[Place] = []
    layers: list[str] = []
    for file, line, function in frames:
        if is_user(file):
            found.append(Place(file, line, function, tuple(layers)))
            layers = []
        elif "." in function and "<" not in function and any(part in file for part in _MODULES):
            layers.append(function.partition(".")[0])
    own = [place for place in found if not is_between(place.file)]
    return tuple(own or [place for place in found if any(part in place.file for part in _MODULES)] or found)


def is_between(file: str) -> bool:
    """Return whether a file is of a package of layers, or passes a call on.

    >>> is_between("/lib/site-packages/transformers/utils/generic.py"), is_between("/lib/site-packages/tunix/models/llama3.py")
    (True, False)
    """
    return any(part in file for part in _BETWEEN)


def within(inner: tuple[Place, ...], outer: tuple[Place, ...]) -> tuple[Place, ...]:
    """Return the frames of what a function does, called at a place.

    JAX traces a function once and remembers it: its operations may know where it was called first, and not where it is now.
    What they know is used up to the first function that the present stack has too.

    Args:
        inner: innermost first, as the function remembers them.
        outer: those of the present call.
    """
    present = {(place.file, place.function) for place in outer}
    fresh = takewhile(lambda place: (place.file, place.function) not in present, inner)
    return (*fresh, *outer)


def is_direct(frames: Iterable[Frame]) -> bool:
    """Return whether the user called an operation, and no layer of a library that the user called.

    Args:
        frames: innermost first.
    """
    for file, _, _ in frames:
        if is_user(file):
            return True
        if any(part in file for part in (*_MODULES, "/jax/_src/numpy/", "/jax/_src/scipy/", "/optax/")):
            return False
    return False


def library(frames: Iterable[Frame]) -> tuple[Place, ...]:
    """Return the innermost line of a library's module in a stack, for where there is no line of the user; or nothing."""
    found = (Place(*frame) for frame in frames if any(part in frame[0] for part in _MODULES))
    return tuple(place for place in [next(found, None)] if place)
