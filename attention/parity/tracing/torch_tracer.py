"""Record a torch program: every aten operation, with its source line, inputs and result.

    softmax(x)    ->    amax, sub, exp, sum, div        what is fused is replayed in parts, so that it can be aligned

The program goes on with the result of the fused operation; the parts are recorded beside it. In the backward pass the line is
that of the forward operation, which autograd's anomaly mode remembers.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.torch_program import TorchProgram, same_draws
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.tracing.run_precision import own_dtype, own_eps, unit
from attention.parity.tracing.source_location import Place, is_direct
from attention.parity.tracing.torch_alternatives import alternatives
from attention.parity.tracing.torch_instrumentation import FUSED, DetachObserver, decomposed, default_dtype, frames, stack
from attention.parity.tracing.trace import Recording, cotangent

# Relative errors: beyond the one, parts are not the parts of this operation; within the other, they are equal.
WHOLE, EXACT = 1e-2, 1e-12
# The result is the operand: no event.
SAME = frozenset({"alias", "detach", "lift_fresh"})


def record_torch(program: TorchProgram, call: Call, params: Arrays | None, dtype: str | None, *, gradients: bool) -> Recording:
    """Run a program once and return every event.

    Args:
        program: a program in torch.
        call: the inputs.
        params: values to use instead of the program's own.
        dtype: what float parameters and inputs are cast to; in float64 the program's own float32 becomes float64 too.
        gradients: whether the backward pass is run too, from `cotangent(output)`.

    Raises:
        SideFailed: the program raised, or returned what is no array.
    """
    recording = Recording("torch")
    with ExitStack() as around:
        around.enter_context(same_draws(program.devices))
        around.enter_context(decomposed())
        with attributed_to(program.name):
            bound = program.bind(call, params, dtype)
        around.enter_context(default_dtype(dtype))
        roles = {name: ("param" if name in program.params else "input", value(leaf)) for name, leaf in bound.leaves.items()}
        own = own_dtype(program.params) if dtype == "float64" else None
        mode = Recorder(recording, roles, dtype, own, graded=gradients)
        # Only a forward pass under this mode leaves its lines to the backward pass.
        around.enter_context(torch.autograd.set_detect_anomaly(gradients, check_nan=False))
        with mode, mode.asked:
            outputs = bound.outputs()
        found = {name: mode.node(x) for name, x in outputs.items()}
        if gradients:
            weights = {name: cotangent(value(x)) for name, x in outputs.items() if x.is_floating_point()}
            mode.given.update({f"cotangent of {name}": ("cotangent", x) for name, x in weights.items()})
            with mode:
                made = bound.gradients(outputs, weights)
            found |= {name: mode.node(x) for name, x in made.items()}
    recording.close(found)
    return recording


class Recorder(TorchDispatchMode):
    """Records what is dispatched while it is active.

    Args:
        recording: what is appended to.
        given: the roles and arrays of what has a name: parameters, inputs.
        dtype: of the run.
        own: the dtype whose machine epsilon the program reads; None for that of the run.
        graded: whether the program is differentiated.
    """

    def __init__(
        self,
        recording: Recording,
        given: dict[str, tuple[str, np.ndarray]],
        dtype: str | None,
        own: str | None = None,
        *,
        graded: bool = False,
    ) -> None:
        super().__init__()
        self.recording, self.given, self.dtype, self.own = recording, dict(given), dtype, own
        self.graded = graded
        # The event of each tensor and the version it had, by id; the tensors are kept so that no id is used twice.
        self.known: dict[int, tuple[Tensor, int, int]] = {}
        self.written: dict[int, int] = {}
        self.fused = ""
        self.where: tuple[Place, ...] = ()
        self.asked = DetachObserver()
        # The events that were made while autograd was off: whoever reads them while it is on has a stopped gradient.
        self.cut: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = _widened(kwargs or {}) if self.dtype == "float64" else (kwargs or {})
        args = tuple(own_eps(x, self.own) for x in args)
        inputs = [self.node(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        name = func._schema.name.rpartition("::")[2]  # noqa: SLF001 the name that every op has, and no public way to it
        backward = torch._C._current_autograd_node() is not None  # noqa: SLF001 as above
        if not self.fused:
            self.where = stack()
        replayed = [] if name not in FUSED or self.fused == name else self._parts(name, func, args, kwargs)
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        self._cut(inputs)
        if replayed and self._adopt(made, replayed):
            return result
        if name in SAME and len(made) == len(inputs) == 1:
            if self.asked.detaches and is_direct(list(frames())):
                self.recording.stops.append(replace(self.recording.events[inputs[0]], places=self.where, op="detach"))
            self._keep(made[0], inputs[0])
            return result
        options = ", ".join(_option_text(x) for x in [*args, *kwargs.items()] if not isinstance(x, Tensor))
        others = alternatives(func, args, kwargs) if not self.fused else {}
        for x in made:
            more = {"name": self.fused, "options": options[:80], "backward": backward}
            more["alternatives"] = others if x.is_floating_point() else {}
            self._keep(x, self._add(name, x, inputs, **more))
            if self.graded and not torch.is_grad_enabled() and not backward and not self.fused:
                self.cut.add(self.known[id(x)][1])
            self._wrote(x, name)
        return result

    def _cut(self, inputs: Sequence[int]) -> None:
        """Record what an operation that autograd sees reads of those that it did not see: their gradient is stopped."""
        if self.graded and torch.is_grad_enabled() and not self.fused:
            for i in self.cut.intersection(inputs):
                self.cut.discard(i)
                if self.recording.events[i].role and self.recording.events[i].is_float:
                    self.recording.stops.append(self.recording.events[i])

    def _parts(self, name: str, func: Any, args: Any, kwargs: Any) -> list[Any]:
        """Record a fused operation in parts, and return what these made; nothing if torch knows no parts."""
        replay = decomposition_table.get(func)
        if replay is None:
            return []
        outer, self.fused = self.fused, self.fused or name
        before = len(self.recording.events)
        try:
            with self, torch.no_grad():
                return [x for x in tree_leaves(replay(*args, **kwargs)) if isinstance(x, Tensor)]
        except (RuntimeError, TypeError, NotImplementedError):
            # A decomposition that does not take these arguments: the operation stays whole.
            del self.recording.events[before:]
            self.known = {key: kept for key, kept in self.known.items() if kept[1] < before}
            return []
        finally:
            self.fused = outer

    def _adopt(self, made: list[Tensor], replayed: list[Any]) -> bool:
        """Give the results of a fused operation the events of its parts, if these are its parts: equal in value."""
        pairs = [(x, y) for x, y in zip(made, replayed, strict=False) if x.shape == y.shape and x.numel()]
        apart = [_apart(value(x), value(y)) for x, y in pairs]
        if not pairs or max(apart) > WHOLE:
            return False
        for (x, y), error in zip(pairs, apart, strict=True):
            index = self.node(y)
            if error > EXACT:
                # The kernel is not what it is defined to be, such as one that holds 1 / 6 in float32.
                index = self.recording.add(
                    "kernel", value(x), (index,), slack=10 * error, dtype=str(x.dtype), places=self.where
                )
            self._keep(x, index)
        return True

    def node(self, x: Tensor) -> int:
        """Return the event of a tensor: a new leaf if it was never seen, a new event if it was written to since."""
        if id(x) not in self.known:
            found = ((n, role) for n, (role, given) in self.given.items() if given.shape == x.shape and _equal(given, value(x)))
            name, role = next(found, ("", ""))
            self._keep(x, self._add("leaf", x, (), name=name, role=role))
        _, index, version = self.known[id(x)]
        if version != _version(x):
            writer = self.written.get(_storage(x), index)
            self._keep(x, self._add("copy", x, (index, writer)))
        return self.known[id(x)][1]

    def _add(self, op: str, x: Tensor, inputs: Sequence[int], **more: Any) -> int:
        dtype = str(x.dtype).removeprefix("torch.")
        where = () if op == "leaf" else self.where
        index = self.recording.add(op, value(x), inputs, unit(dtype, self.dtype), dtype=dtype, places=where, **more)
        if x.is_complex():
            # What JAX computes as two arrays must be found as two.
            for part in ("real", "imag"):
                self.recording.add(part, getattr(value(x), part).copy(), (index,), dtype=dtype, places=where)
        return index

    def _keep(self, x: Tensor, index: int) -> None:
        self.known[id(x)] = (x, index, _version(x))

    def _wrote(self, x: Tensor, name: str) -> None:
        """Remember who wrote last to the memory that tensors share."""
        if name.endswith("_") and not name.startswith("_"):
            self.written[_storage(x)] = self.known[id(x)][1]


def value(x: Tensor) -> np.ndarray:
    """Return a copy: floats as float64, the rest as they are."""
    x = x.detach().cpu().resolve_conj().resolve_neg()
    return (x.double() if x.is_floating_point() else x.to(torch.complex128) if x.is_complex() else x).numpy().copy()


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version  # noqa: SLF001 the counter has no public name


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a is b or bool(np.array_equal(a, b))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the largest element; infinite where NaN is not in both."""
    odd = ~np.isfinite(a)
    if not np.array_equal(a[odd], b[odd], equal_nan=a.dtype.kind == "f") or not np.isfinite(b[~odd]).all():
        return float("inf")
    a, b = a[~odd].astype(float), b[~odd].astype(float)
    return float(abs(a - b).max(initial=0.0) / max(abs(b).max(initial=0.0), 1e-300))


def _option_text(x: Any) -> str:
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str):
        return f"{x[0]}={x[1]}"
    return "..." if any(isinstance(leaf, Tensor) for leaf in tree_leaves(x)) else str(x)


def _widened(kwargs: Any) -> Any:
    return tree_map(lambda x: torch.float64 if x is torch.float32 else x, kwargs)
