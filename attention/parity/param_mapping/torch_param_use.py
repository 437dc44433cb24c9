"""Trace the use of parameters in a torch program by a dispatch mode, on fake tensors if it is large.

A view of a parameter shares its storage, so that its offset and strides say which elements it is, and in which order.
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention.parity.adapters.program import Call
from attention.parity.adapters.torch_program import TorchProgram, same_draws
from attention.parity.param_mapping.param_use import Uses, View, product_roles

NOTHING: frozenset[int] = frozenset()
MOST_ELEMENTS = 10**8
"""A program of more parameters runs on tensors without memory, and is not followed where it branches on a value."""

_SUMS = frozenset({"add", "add_", "sub", "sub_", "rsub"})
_SCALES = frozenset({"mul", "mul_", "div", "div_"})
_JOINS = frozenset({"cat", "stack", "where", "maximum", "minimum", "copy_", "constant_pad_nd", "masked_fill"})
_KEEPS = frozenset(
    # A table of names is read at a glance, a column of quoted lines is not.
    "_to_copy clone contiguous exp neg log tanh sigmoid abs sqrt rsqrt square pow expm1 alias detach lift_fresh".split()  # noqa: SIM905
)
_NORMS = frozenset(
    {"native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm"}
)
_MATRICES = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2), "mv": (0, 1), "addmv": (1, 2), "dot": (0, 1)}
"""Where the operands of a product stand among the arguments."""


def uses_of(program: TorchProgram, call: Call) -> Uses:
    """Return how a program uses its parameters, in order.

    Raises:
        Exception: whatever running the program raises.
    """
    return _followed(program, call, fake=sum(x.size for x in program.params.values()) > MOST_ELEMENTS)


def _followed(program: TorchProgram, call: Call, *, fake: bool) -> Uses:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as around:
            around.enter_context(same_draws(program.devices))
            if fake:
                around.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            around.enter_context(torch.enable_grad())
            bound = program.bind(call)
            buffers = program.module.buffers() if program.module is not None else ()
            follower = _Follower({name: x for name, x in bound.leaves.items() if name in program.params}, buffers)
            with follower:
                bound.call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return follower.uses


class _Follower(TorchDispatchMode):
    """Follows what is dispatched while it is active.

    Args:
        params: by name.
        buffers: what else the program holds.
    """

    def __init__(self, params: dict[str, Tensor], buffers: Iterable[Tensor]) -> None:
        super().__init__()
        self.uses = Uses()
        # By storage: what parameter it holds, or the last parameters that it was computed with.
        self.params = {_storage(x): name for name, x in params.items()}
        self.last: dict[int, frozenset[int]] = {}
        # No storage may be used again while its address says what it is.
        self.kept: list[Any] = list(params.values())
        # What is made of buffers and numbers alone, by storage.
        self.constants = {_storage(x) for x in buffers}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.rpartition("::")[2]  # noqa: SLF001 the name that every op has, and no public way to it
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        known = {_storage(x) for x in given}
        new = [x for x in made if _storage(x) not in known]
        if made and (new or name.endswith("_")):
            self._made(name, args, given, new or made)
        return result

    def _made(self, name: str, args: Sequence[Any], given: list[Tensor], made: list[Tensor]) -> None:
        self.kept += made
        if all(_storage(x) in self.constants for x in given) or name == "lift_fresh":
            self.constants |= {_storage(x) for x in made}
        views = [view for x in given if (view := self.view(x)) is not None]
        after = self.uses.last(self.last.get(_storage(x), NOTHING) for x in given)
        others = [x for x in given if self.view(x) is None]
        if len(views) == 1 and self._keeps(name, given, others, made[0]):
            self.params[_storage(made[0])] = views[0].name
            if views[0].strides is None or tuple(made[0].stride()) != views[0].strides or views[0].start:
                self.params[_storage(made[0])] = f"{views[0].name}\0"
            return
        if views and name in _JOINS:
            after = self.uses.last([after, *(self.uses.add(view, "other", {}, NOTHING) for view in views)])
        elif views:
            after = self._used(name, args, given, after)
        for x in made:
            self.last[_storage(x)] = after

    def _keeps(self, name: str, given: list[Tensor], others: list[Tensor], made: Tensor) -> bool:
        """Return whether the result is the parameter still: a cast, 1 + scale, or scale times a constant."""
        live = [x for x in others if _storage(x) not in self.constants]
        plain = not any(x.numel() > 1 or self.last.get(_storage(x)) for x in live)
        same = any(x.shape == made.shape for x in given)
        return same and plain and (name in _KEEPS or name in _SUMS or name in _SCALES)

    def _used(self, name: str, args: Sequence[Any], given: list[Tensor], after: frozenset[int]) -> frozenset[int]:
        made = after if name in _SUMS else NOTHING
        known = [(view, *self._kind(name, args, x, view)) for x in given if (view := self.view(x)) is not None]
        for view, kind, roles in known:
            if kind != "sum":
                made = self.uses.last([made, self.uses.add(view, kind, roles, after)])
        for view, kind, roles in known:
            if kind == "sum":
                # A bias is added to what the kernel of the same operation made.
                _ = self.uses.add(view, kind, roles, made or after)
        return made or after

    def _kind(self, name: str, args: Sequence[Any], x: Tensor, view: View) -> tuple[str, dict[str, Any]]:
        at = next((place for place, arg in enumerate(args) if arg is x), -1)
        if name in _MATRICES and at in _MATRICES[name]:
            left = at == _MATRICES[name][0]
            rank = len(view.shape)
            summed = rank - 1 if left else max(rank - 2, 0)
            return "product", product_roles(view, [0] if rank == 3 else [], [summed])
        if name in {"convolution", "conv2d", "conv1d"} and at == 1:
            transposed = bool(args[6]) if len(args) > 6 else False
            out, inner = (1, 0) if transposed else (0, 1)
            if transposed:
                self.uses.transposed.add(view.name)
            return "product", {
                "in": view.digits([inner]),
                "out": view.digits([out]),
                "window": view.digits(range(2, len(view.shape))),
            }
        if name in {"embedding", "index_select", "index"} and at == 0:
            return "gather", {"in": view.digits([0]), "out": view.digits(range(1, len(view.shape)))}
        biases = {"addmm": 0, "addmv": 0, "baddbmm": 0, "convolution": 2}
        if name in _SUMS or biases.get(name) == at or (name in _NORMS and at == _bias_of(name)):
            return "sum", {}
        return ("scale" if name in _SCALES or name in _NORMS else "other"), {}

    def view(self, x: Tensor) -> View | None:
        """Return which elements of a parameter a tensor is, or None where it is none."""
        name = self.params.get(_storage(x))
        if name is None:
            return None
        view = View(name.rstrip("\0"), int(x.storage_offset()), tuple(x.shape), tuple(x.stride()))
        return replace(view, start=0, strides=None) if name.endswith("\0") else view


def _bias_of(name: str) -> int:
    return 3 if name == "native_layer_norm" else 2


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata  # noqa: SLF001 a tensor without memory has no address but this one
