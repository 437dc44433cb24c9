"""Programs in torch: a module, a function of tensors, or of parameters and tensors.

    outputs = program(params, inputs)        d x = d sum(cotangent * output) / d x        by autograd

A module is called with tensors of our own at every place that holds one of its parameters, buffers or other tensors, and gets
its own back afterwards: values, ties, gradients, dtype and mode stay as they were. It runs on its device and in its mode.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attention.parity.adapters.named_outputs import Choice, named_outputs
from attention.parity.adapters.program import Arrays, Call, Made, Program
from attention.parity.adapters.pytree_paths import mapped, paths
from attention.parity.adapters.untouched import Saved, held_modules, own_draws, untouched
from attention.parity.adapters.user_errors import attributed_to
from attention.spec.errors import ParamError
from attention.torch_impl.params import to_numpy, to_tensor


@dataclass(frozen=True, eq=False)
class Bound:
    """A program with its parameters and inputs in place, ready to run once: it may write to its inputs.

    Args:
        name: of the program.
        leaves: the parameters by name and the inputs by path; the float ones require grad, in the dtype asked for.
        call: calls the user's program and returns whatever that returns.
        choice: which outputs are compared; all if None.
        after: the state that is watched, as the call left it.
    """

    name: str
    leaves: dict[str, Tensor]
    call: Callable[[], Any]
    choice: Choice | None = None
    after: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def run(self) -> Any:
        """Return what the program returns, a pytree of tensors.

        Raises:
            SideFailed: the program raised.
        """
        with attributed_to(self.name), torch.enable_grad():
            return self.call()

    def outputs(self) -> dict[str, Tensor]:
        """Return what the program returns, by path.

        Raises:
            SideFailed: the program raised, or a leaf is no array.
        """
        return {**named_outputs(self.name, self.run(), _array, self.choice), **self.after}

    def gradients(self, outputs: Mapping[str, Tensor], cotangents: Arrays) -> dict[str, Tensor]:
        """Return the gradient of every float leaf, as "d NAME"; zeros where no output depends on it.

        Args:
            outputs: by path, with their graph.
            cotangents: by path; those of outputs that need no gradient count for nothing.
        """
        wanted = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        reached = {name: outputs[name] for name in cotangents if outputs[name].requires_grad}
        if not reached or not wanted:
            return {f"d {name}": torch.zeros_like(leaf) for name, leaf in wanted.items()}
        weights = [to_tensor(cotangents[name]).to(output) for name, output in reached.items()]
        with attributed_to(self.name):
            found = torch.autograd.grad(list(reached.values()), list(wanted.values()), weights, allow_unused=True)
        pairs = zip(wanted.items(), found, strict=True)
        return {f"d {name}": torch.zeros_like(leaf) if gradient is None else gradient for (name, leaf), gradient in pairs}


@dataclass(eq=False)
class TorchProgram(Program):
    """A program in torch.

    Args:
        function: a module, or `function(*inputs)`, or `function(params, *inputs)` where there is a tree.
        tree: nested dicts, lists and tuples of tensors; None if the function takes no parameters.
        name: what reports call it.
    """

    function: Callable[..., Any]
    tree: Any = None
    name: str = "torch"
    params: Arrays = field(init=False)
    choice: Choice = field(init=False, default_factory=Choice)
    held: Arrays = field(init=False, default_factory=dict[str, np.ndarray])
    framework: ClassVar[str] = "torch"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        self.params = {name: _view(x) for name, x in self._learned().items()}

    @property
    def module(self) -> nn.Module | None:
        """The module, if the program is one."""
        if not isinstance(self.function, nn.Module):
            return None
        return compiled_from(self.function)

    @property
    def state(self) -> Arrays:
        """The float buffers by name, the persistent and the others; a shared one stands once."""
        buffers = self.module.named_buffers() if self.module is not None else ()
        return {**{name: to_numpy(x) for name, x in buffers if x.is_floating_point()}, **self.held}

    def holding(self, state: Arrays) -> Self:
        return self.changed(held={**self.held, **state})

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """The devices that parameters and buffers live on; the first is where inputs go."""
        # A container of modules without any is false.
        tensors = [*self._learned().values(), *(self.module.buffers() if self.module is not None else ())]
        return tuple(dict.fromkeys(x.device for x in tensors)) or (torch.get_default_device(),)

    def _learned(self) -> dict[str, Tensor]:
        """Return the parameters by name; a tied one stands once, under the first of its names."""
        if self.module is None:
            leaves = paths(self.tree) if self.tree is not None else ()
            tensors = {path: leaf for path, leaf in leaves if isinstance(leaf, Tensor | np.ndarray)}
            return {path: to_tensor(leaf) for path, leaf in tensors.items()}
        found: dict[str, Tensor] = dict(self.module.named_parameters())
        lazy = [name for name, param in found.items() if is_lazy(param)]
        if lazy:
            raise ParamError(f"parameters {', '.join(lazy)} of {self.name} must have values: call the module once before")
        return found

    def bind(self, call: Call, params: Arrays | None = None, dtype: str | None = None) -> Bound:
        """Return the program with parameters and inputs in place; nothing has run yet.

        Args:
            call: the inputs.
            params: values to use instead of the program's own, all of them.
            dtype: what float parameters and inputs are cast to; None leaves them as they are given.
        """
        learned, device = self._learned(), self.devices[0]
        chosen = self.params if params is None else params
        # One array at a time, so that no copy in another dtype outlives its cast.
        values = {name: _leaf(_copied(chosen[name]).to(x.device), dtype) for name, x in learned.items()}
        leaves = values | {path: _leaf(_copied(x).to(device), dtype) for path, x in call.leaves.items()}
        # A program may write to its inputs, which autograd forbids of a leaf.
        copies = {path: leaves[path].clone() for path in call.leaves}
        inputs = call.map(copies.get)
        if self.module is not None and any(isinstance(part, torch.jit.ScriptModule) for part in self.module.modules()):
            return self._scripted(leaves, values, inputs, dtype)
        after: dict[str, Tensor] = {}
        return Bound(self.name, leaves, lambda: self._call(values, inputs, dtype, after), self.choice, after)

    def _scripted(self, leaves: dict[str, Tensor], values: Mapping[str, Tensor], inputs: Call, dtype: str | None) -> Bound:
        """Return a copy of a compiled TorchScript module as the program: nothing can be put in the place of its parameters."""
        module: Any = copy.deepcopy(self.module)
        module = module.to(getattr(torch, dtype)) if dtype is not None else module
        for name, param in module.named_parameters():
            param.requires_grad_(param.is_floating_point()).data.copy_(values[name].detach())
        return Bound(
            self.name, {**leaves, **dict(module.named_parameters())}, lambda: module(*inputs.args, **inputs.kwargs), self.choice
        )

    def _call(self, learned: dict[str, Tensor], inputs: Call, dtype: str | None, after: dict[str, Tensor]) -> Any:
        if self.module is None:
            tree = () if self.tree is None else (mapped(learned.get, self.tree),)
            with replaced(held_modules(self.function), {}, plain=dtype):
                return self.function(*tree, *inputs.args, **inputs.kwargs)
        ours = {id(x): learned[name] for name, x in self.module.named_parameters()}
        kind = dtype if self._casts(learned, dtype) else None
        held = {name: to_tensor(x).to(self.devices[0]) for name, x in self.held.items()}
        ours |= {id(x): _cast(held.get(name, x).detach().to(x.dtype).clone(), kind) for name, x in self.module.named_buffers()}
        with replaced([self.module], ours, plain=kind):
            outputs = self.module(*inputs.args, **inputs.kwargs)
            buffers = dict(self.module.named_buffers()) if self.watched else {}
            after.update({label: buffers[name] for name, label in self.watched.items()})
            return outputs

    def _casts(self, learned: Mapping[str, Tensor], dtype: str | None) -> bool:
        """Return whether buffers are cast as `module.to(dtype)` would cast them."""
        # A module that is of this dtype already has its buffers as its user wants them.
        own = [x for name, x in self._learned().items() if x.is_floating_point() and name in learned]
        return dtype is not None and (dtype == "float64" or any(x.dtype != getattr(torch, dtype) for x in own))

    def run(
        self, call: Call, *, params: Arrays | None = None, cotangents: Arrays | None = None, dtype: str | None = None
    ) -> Made:
        with same_draws(self.devices):
            bound = self.bind(call, params, dtype)
            outputs = bound.outputs()
            gradients = {} if cotangents is None else bound.gradients(outputs, cotangents)
        return Made(*({name: to_numpy(x) for name, x in made.items()} for made in (outputs, gradients)))


def _cast(x: Tensor, dtype: str | None) -> Tensor:
    if dtype in ("float32", "float64") and x.is_complex():
        return x.to(torch.complex128 if dtype == "float64" else torch.complex64)
    return x.to(getattr(torch, dtype)) if dtype is not None and x.is_floating_point() else x


def _copied(x: Tensor | np.ndarray) -> Tensor:
    # A copy, and one alone: the user's own tensor neither gets a gradient nor is written to.
    return x.detach().clone() if isinstance(x, Tensor) else to_tensor(x)


def _leaf(x: Tensor, dtype: str | None) -> Tensor:
    x = _cast(x, dtype)
    return x.requires_grad_(x.is_floating_point())


def _view(x: Tensor) -> np.ndarray:
    """Return a tensor's values, read only: the memory of a parameter on the CPU, so that a large model is not held twice."""
    x = x.detach()
    if x.device.type != "cpu" or not x.is_contiguous() or x.dtype == torch.bfloat16 or x.is_conj() or x.is_neg():
        return to_numpy(x)
    array = x.numpy()
    array.flags.writeable = False
    return array


def _array(leaf: Any) -> Tensor | None:
    return leaf if isinstance(leaf, Tensor) else to_tensor(leaf) if isinstance(leaf, np.ndarray | np.generic) else None


@contextmanager
def replaced(modules: Sequence[nn.Module], ours: Mapping[int, Tensor], *, plain: str | None) -> Iterator[None]:
    """Put tensors of ours at every place within modules that holds a tensor, and give the modules theirs back afterwards.

    Args:
        modules: the user's.
        ours: by the `id` of the tensor whose places each takes; any other tensor or array is replaced by a copy.
        plain: the dtype of the comparison; "float64" casts the copies too, which `module.to` would leave as they are.
    """
    if not modules:
        yield
        return
    saved, made = Saved(*modules), dict[int, Any](ours)

    def each(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return made.setdefault(id(item), item.copy())
        if not isinstance(item, Tensor) or is_lazy(item):
            return item
        if id(item) not in made:
            made[id(item)] = _cast(item.detach().clone(), plain if plain == "float64" else None)
        return made[id(item)]

    try:
        saved.substituted(each)
        yield
    finally:
        saved.restore()


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Give every part of a module what it held before: caches, counters, modes."""
    with untouched(module):
        yield


def compiled_from(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wraps, as nothing can be replaced in what it compiled; any other as it is."""
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else module


@contextmanager
def same_draws(devices: tuple[torch.device, ...] = ()) -> Iterator[None]:
    """Leave the random generators of the CPU and of these devices where they were."""
    with own_draws(), torch.random.fork_rng([device for device in devices if device.type == "cuda"], device_type="cuda"):
        yield
