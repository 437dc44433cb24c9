"""Save and restore user state that a call may change: attributes, containers, random generators.

    with untouched(module), own_draws(): module(x)        everything reachable from `module` is afterwards what it was before

Attributes are saved by reference, containers by their items; arrays that a program writes to in place have to be replaced
by copies before, which `substituted` does.
"""

# Objects of a user are of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import functools
import inspect
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

MOST = 200_000
"""Containers that are followed; a module that holds a whole data set is not copied item by item."""
FOREIGN = frozenset({"torch", "jax", "jaxlib", "numpy", "_thread", *sys.stdlib_module_names})
"""Packages whose objects are no part of a user's module, unless they are modules themselves."""
Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]


class Saved:
    """The containers that are reachable from some objects, and what they held.

    Args:
        owners: modules, functions or other objects; their attributes are followed, and what is in lists, dicts and sets.
    """

    def __init__(self, *owners: Any) -> None:
        self.containers: list[tuple[Container, Any]] = []
        self.variables: list[tuple[Any, Any]] = []
        seen: set[int] = set()
        waiting = [(owner, True) for owner in owners]
        while waiting and len(self.containers) < MOST:
            value, owner = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if type(value).__module__.startswith("flax.nnx") and hasattr(value, "get_raw_value"):
                self.variables.append((value, value.get_raw_value()))
                continue
            container = vars(value) if owner or _followed(value) else value
            if isinstance(container, tuple):
                waiting += [(inner, False) for inner in container]
            elif isinstance(container, (dict, list, set, deque)):
                self.containers.append((container, container.copy()))
                waiting += [(inner, False) for inner in (container.values() if isinstance(container, dict) else container)]

    def substituted(self, ours: Callable[[Any], Any]) -> None:
        """Put `ours(item)` in the place of every item that a container holds; tuples are made anew around theirs."""

        def each(item: Any) -> Any:
            if type(item) is not tuple:
                return ours(item)
            made = tuple(map(each, item))
            return item if all(x is y for x, y in zip(made, item, strict=True)) else made

        for container, items in self.containers:
            if isinstance(container, dict):
                container.update({name: made for name, item in items.items() if (made := each(item)) is not item})
            elif not isinstance(container, set):
                for i, item in enumerate(items):
                    container[i] = each(item)

    def restore(self) -> None:
        """Give every container the items that it held."""
        for container, items in self.containers:
            if _same(container, items):
                continue
            container.clear()
            container.extend(items) if isinstance(container, (list, deque)) else container.update(items)
        for variable, value in self.variables:
            if variable.get_raw_value() is not value:
                object.__setattr__(variable, "_raw_value", value)


def _same(container: Any, items: Any) -> bool:
    if len(container) != len(items):
        return False
    if isinstance(container, dict):
        pairs = zip(container.items(), items.items(), strict=True)
        return all(name == other and x is y for (name, x), (other, y) in pairs)
    return container == items if isinstance(container, set) else all(x is y for x, y in zip(container, items, strict=True))


def _followed(value: Any) -> bool:
    """Return whether an object's attributes are a user's: not those of arrays, types, functions or files."""
    if isinstance(value, (type, ModuleType)) or inspect.isroutine(value) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (dict, list, set, deque, tuple, np.ndarray)) or hasattr(value, "__array__"):
        return False
    return _is_module(value) or type(value).__module__.partition(".")[0] not in FOREIGN


def _is_module(value: Any) -> bool:
    torch, nnx = sys.modules.get("torch"), sys.modules.get("flax.nnx")
    kinds = (*((torch.nn.Module,) if torch else ()), *((nnx.Module,) if nnx else ()))
    return isinstance(value, kinds)


def owners(subject: Any) -> list[Any]:
    """Return the objects whose state a call of a program may change: a module itself, or those that a function uses."""
    plain = inspect.isroutine(subject) or isinstance(subject, functools.partial)
    return held_modules(subject) if plain else [subject] if hasattr(subject, "__dict__") else []


def held_modules(function: Any) -> list[Any]:
    """Return the modules of torch and NNX that a function uses without being given them.

    Args:
        function: a function, a method or a partial: what it closes over, is bound to, has as defaults or finds by name.
    """
    found: list[Any] = []
    waiting, seen = [function], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if _is_module(value):
            found.append(value)
        elif isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, (list, tuple, dict)):
            waiting += value.values() if isinstance(value, dict) else value
        elif inspect.ismethod(value):
            waiting += [value.__self__, value.__func__]
        elif inspect.isfunction(value):
            waiting += _used(value)
    return found


def _used(function: Any) -> Iterator[Any]:
    """Yield the values that a function closes over, has as defaults, or finds by name where they are modules."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    yield from (value for value in named if _is_module(value) or inspect.isfunction(value))
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped


@contextmanager
def untouched(*owners: Any) -> Iterator[None]:
    """Give everything that is reachable from some objects what it held before, whatever happens inside."""
    saved = Saved(*owners)
    try:
        yield
    finally:
        saved.restore()


@contextmanager
def own_draws() -> Iterator[None]:
    """Leave the random generators of Python and NumPy, and torch's of the CPU, where they were."""
    torch: Any = sys.modules.get("torch")
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the legacy generator is what a user's program may move
    own: Any = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002 - as above
        if torch is not None:
            torch.set_rng_state(own)
