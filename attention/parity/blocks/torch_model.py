"""A torch model whose parts are recorded by hooks.

with untouched(model): model(...)        the inputs of each part are copied before it runs
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from attention.parity.adapters.named_outputs import named_outputs
from attention.parity.adapters.program import Arrays, Call
from attention.parity.adapters.torch_program import TorchProgram
from attention.parity.adapters.user_errors import attributed_to
from attention.parity.blocks.instrumented_model import InstrumentedModel, Run, filled
from attention.parity.blocks.torch_untouched import untouched
from attention.parity.numerics.dtype_rounding import Rounding
from attention.parity.numerics.stochastic_rounding_torch import noisy
from attention.torch_impl.params import to_numpy, to_tensor


class TorchModel(InstrumentedModel):
    """A torch module.

    Args:
        module: it runs as it is and is left as it was.
    """

    perturbs = True

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.program = TorchProgram(module, None, f"torch {type(module).__name__}")
        self.modules = dict(module.named_modules())
        self.device = self.program.devices[0]

    def record(self, call: Call, paths: set[str]) -> Run:
        run = Run()
        with attributed_to(self.program.name), untouched(self.module):
            for path in paths:
                _ = self.modules[path].register_forward_pre_hook(_recorder(run, path), with_kwargs=True)  # type: ignore[union-attr]
            run.outputs = _arrays(self.program.name, self._run(call))
        return run

    def perturbed(self, call: Call, draws: np.random.Generator | None, unit: Rounding) -> Arrays:
        with attributed_to(self.program.name), untouched(self.module), noisy(draws, unit):
            return _arrays(self.program.name, self._run(call))

    def part(self, path: str, received: Call, slots: Sequence[str]) -> TorchProgram:
        return TorchProgram(TorchPart(self.module.get_submodule(path), received, slots), None, f"torch {path}")

    def _run(self, call: Call) -> Any:
        given = call.map(lambda _, leaf: to_tensor(leaf).to(self.device) if isinstance(leaf, np.ndarray) else leaf)
        # A cache that the model returns by default is no output, and each layer would receive that of all before it.
        takes = inspect.signature(self.module.forward).parameters
        more = {"use_cache": False} if "use_cache" in takes and "use_cache" not in given.kwargs else {}
        return self.module(*given.args, **given.kwargs, **more)


def _recorder(run: Run, path: str) -> Any:
    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run.calls[path] = run.calls.get(path, 0) + 1
        if path not in run.received:
            run.received[path] = Call(args, kwargs).map(_kept)

    return see


def _kept(_: str, leaf: Any) -> Any:
    """Return a copy of a leaf: a part may write to its arrays and to its cache."""
    if isinstance(leaf, torch.Tensor):
        return to_numpy(leaf)
    if leaf is None or isinstance(leaf, (bool, int, float, str, nn.Module)) or callable(leaf):
        return leaf
    try:
        return copy.deepcopy(leaf)
    except Exception:  # noqa: BLE001 - a user's object may refuse to be copied
        return leaf


def _arrays(name: str, made: Any) -> Arrays:
    found = named_outputs(name, made, lambda leaf: leaf if isinstance(leaf, torch.Tensor) else None)
    return {path: to_numpy(x) for path, x in found.items()}


class TorchPart(nn.Module):
    """A part of a model as a module of the arrays in its slots.

    Args:
        block: the part itself; it is shared with the model.
        received: its call.
        slots: paths of the arrays that are its inputs.
    """

    def __init__(self, block: nn.Module, received: Call, slots: Sequence[str]) -> None:
        super().__init__()
        self.block, self.received, self.slots = block, received, tuple(slots)
        self.training = block.training
        # Buffers are cast where the program is run in float64; what the part received is cast with them.
        self.constants = {path: f"constant_{i}" for i, path in enumerate(received.leaves) if path not in self.slots}
        for path, name in self.constants.items():
            self.register_buffer(name, to_tensor(received.leaves[path]), persistent=False)

    def forward(self, *given: torch.Tensor) -> Any:
        values = {path: getattr(self, name) for path, name in self.constants.items()}
        call = filled(self.received, {**values, **dict(zip(self.slots, given, strict=True))})
        return self.block(*call.args, **call.kwargs)
