"""Public calls: every callable of the public modules, found by introspection.

    for call in public_calls():  call.run(call.arguments())  succeeds;  then one argument is replaced at a time

A callable that is new has no valid call in `valid_calls.py` yet: `Unknown` says which.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

import examples.checkpoint_readers
from attention import checkpoints
from parity_tests.support.checkpoint_calls import CHECKPOINTS
from parity_tests.support.valid_calls import ARGUMENTS, PAIRS, instance, raises

MODULES: dict[str, tuple[str, ...]] = {
    "attention": (),
    "attention.spec": (),
    # The other names are steps of `dot_product_attention`, which checks what it hands them.
    "attention.spec.kernels": ("Choice", "Kernel", "Request", "choose"),
    "attention.spec.masks": (),
    "attention.spec.optimizers": (),
    "attention.torch_impl": (),
    "attention.jax_impl": (),
    "attention.parity": (),
}
"""The public modules, and the names to sweep: all that a module exports where none are listed."""

FORMULAS = frozenset({"xp", "at", "read", "convert", "observe"})
"""A method with one of these arguments is a formula, or a part of one: the package calls it with what it has checked."""

RESULTS: dict[str, str] = {
    "spec.kernels.Choice": "what `choose` returns",
    "spec.masks.Schedule": "what `schedule` returns",
    "spec.kernels.Kernel": "a protocol",
    "spec.Mask": "abstract",
    "spec.Architecture": "abstract",
    "torch_impl.Layer": "abstract; its methods are met in its subclasses",
    "jax_impl.Layer": "abstract; its methods are met in its subclasses",
    "parity.Program": "abstract",
    "parity.FullComparison": "what `full_comparison` returns",
    "parity.Diagnosis": "what `diagnose` returns",
    "parity.Divergence": "what `locate` returns",
    "parity.LogitsComparison": "what `compare_logits` returns",
    "parity.Decoding": "what `compare_decoding` returns",
    "parity.Made": "what a program returns",
    "parity.Report": "what `check` and `compare` return",
    "parity.Row": "a part of a report",
    "parity.Training": "what `train` returns",
    "parity.WorstInput": "what `worst_input` returns",
    "parity.Verdict": "what `judge` returns",
    "parity.Budget": "what `budget` returns",
}
"""Classes that the package makes and a user only receives, or cannot make: their constructors are not swept."""

INNER: dict[str, str] = {
    "rebuild": "makes a mask from its own structure and leaves; validates nothing, so that leaves may be tracers",
    "empty": "a part of `make`, which has checked its arguments",
    "given": "a part of `append`, as are those that follow",
    "place": "a part of `append`",
    "poisoned": "a part of `append`",
    "sizes_of": "a part of `append`",
    "faults": "a part of `append`",
    "lost": "a part of `append`",
    "build_parts": "a part of a layer's constructor",
    "drop": "a part of a layer's call",
    "calls": "a part of `resolve`",
    "lacks": "a part of a kernel's refusal",
    "chosen": "a part of a call",
    "check_state": "a part of a call",
    "state_shape": "a part of a call",
}
"""Methods that are no calls of a user's, and why."""


class Unknown(Exception):
    """No valid call is known."""


@dataclass(frozen=True)
class Public:
    """One public callable.

    Attributes:
        name: module and qualified name, "torch_impl.StaticCache.append".
        backend: its module's last name.
        owner: the class whose method it is, or None.
        parameters: names, without self, *args and **kwargs.
        function: the function or class itself.
    """

    name: str
    backend: str
    owner: type | None
    parameters: tuple[inspect.Parameter, ...]
    function: Callable[..., Any]

    @property
    def swept(self) -> tuple[str, ...]:
        """The arguments to sweep."""
        return tuple(p.name for p in self.parameters if self._is_swept(p))

    def _is_swept(self, p: inspect.Parameter) -> bool:
        """Return whether a parameter is swept: one that takes any number of values, where a valid call says one."""
        given = ARGUMENTS.get(self.name)
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            return given is not None and p.name in given()
        return True

    def __str__(self) -> str:
        return self.name

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a valid call, made anew.

        Raises:
            Unknown: none is known.
        """
        given = ARGUMENTS.get(self.name)
        known = given() if given is not None else {}
        for p in self.parameters:
            if p.name in known or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                continue
            if p.default is not p.empty:
                known[p.name] = p.default
            else:
                raise Unknown(f"{self.name} needs a value of {p.name}: say one in public_calls.ARGUMENTS")
        return known

    def briefly(self) -> dict[str, Any]:
        """Return the arguments of a call that is over soon: one whose first program raises, where a call runs two programs."""
        return self.arguments() | ({"torch_side": raises} if self.name in PAIRS else {})

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Return what the call makes of arguments by name."""
        by_place = [p.name for p in self.parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL) and p.name in arguments]
        places = [arguments[name] for name in by_place]
        named = {name: value for name, value in arguments.items() if name not in by_place}
        function = self.function
        if self.owner is not None:
            holder = instance(self.name.rpartition(".")[0])
            last = self.name.rpartition(".")[2]
            is_layer = last == "__call__" or (isinstance(holder, torch.nn.Module) and last == "forward")
            function = holder if is_layer else getattr(holder, last)
        return function(*places, **named)


def public_calls() -> Iterator[Public]:
    """Yield every public callable once."""
    seen: set[Any] = set()
    for path, chosen in MODULES.items():
        module = importlib.import_module(path)
        where = path.removeprefix("attention.")
        backend = where.partition(".")[0]
        for name in chosen or getattr(module, "__all__", ()):
            found = getattr(module, name)
            if inspect.ismodule(found) or not callable(found) or hasattr(found, "__origin__") or found in seen:
                continue
            seen.add(found)
            called = f"{where}.{name}"
            if not inspect.isclass(found):
                yield Public(called, backend, None, _parameters(found), found)
                continue
            if called not in RESULTS:
                yield Public(called, backend, None, _parameters(found.__init__)[1:], found)
            yield from _methods(called, backend, found, seen)
    modules = dict(_checkpoint_modules())
    for name in CHECKPOINTS:
        place, _, last = name.rpartition(".")
        found = getattr(modules[place], last)
        yield Public(f"checkpoints.{name}", "checkpoints", None, _parameters(found), found)


def checkpoint_functions() -> Iterator[str]:
    """Yield the public functions of the modules that read and write foreign checkpoints, as "module.function"."""
    for place, module in _checkpoint_modules():
        for name, held in vars(module).items():
            if inspect.isfunction(held) and not name.startswith("_") and held.__module__ == module.__name__:
                yield f"{place}.{name}"


def _checkpoint_modules() -> Iterator[tuple[str, ModuleType]]:
    for package in (checkpoints, examples.checkpoint_readers):
        for place in pkgutil.iter_modules(package.__path__):
            yield place.name, importlib.import_module(f"{package.__name__}.{place.name}")


def _methods(called: str, backend: str, kind: type, seen: set[Any]) -> Iterator[Public]:
    if inspect.isabstract(kind) or called in ("spec.kernels.Kernel", "spec.Mask", "spec.Architecture", "parity.Program"):
        return
    if called.endswith(".Layer"):
        return
    for name in dir(kind):
        raw = inspect.getattr_static(kind, name)
        if (name.startswith("_") and name != "__call__") or isinstance(raw, property) or not callable(getattr(kind, name)):
            continue
        function = getattr(getattr(kind, name), "__func__", getattr(kind, name))
        where = str(getattr(function, "__module__", ""))
        if inspect.isclass(function) or not where.startswith("attention"):
            continue
        # A cache's method is met in each framework, though both inherit it.
        key = (where, function.__qualname__, backend if backend.endswith("_impl") else "")
        parameters = _parameters(function)
        parameters = parameters if isinstance(raw, staticmethod) else parameters[1:]
        inner = FORMULAS & {p.name for p in parameters} or (name in INNER and backend != "parity")
        if key in seen or (inner and f"{called}.{name}" not in KEPT):
            continue
        seen.add(key)
        yield Public(f"{called}.{name}", backend, kind, parameters, function)


def _parameters(function: Any) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


KEPT = frozenset(
    {
        "spec.optimizers.SGD.init",
        "spec.optimizers.SGD.step",
        "spec.optimizers.Clip.clipped",
        "spec.optimizers.Adafactor.init",
        "spec.optimizers.RMSprop.init",
    }
)
"""Formulas that users call themselves."""
