"""Public calls leave the user's objects unchanged: modules, ties, flags, gradients, hooks and random states.

state(module) before = state(module) after        for compare, match, locate, full_comparison, diagnose, record; in failures too
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: basic

from __future__ import annotations

import inspect
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from attention import parity, spec
from attention.parity.adapters import Call, program
from attention.parity.adapters.untouched import held_modules
from attention.parity.compare import replayed_program
from attention.spec.errors import AttentionError

IDS = np.array([[1, 2, 3], [4, 5, 0]])
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Everything(nn.Module):
    """Ties of every kind, buffers, caches, and a forward pass that writes to all of them."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(11, 4)
        self.encoder = nn.ModuleDict({"embed_tokens": self.shared})
        self.lm_head = nn.Linear(4, 11, bias=False)
        self.lm_head.weight = self.shared.weight
        self.unregistered = [self.shared.weight]
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("table", torch.ones(4))
        self.register_buffer("same_table", self.table)
        self.norm.weight.requires_grad_(False)
        self.cache, self.seen, self.plain = {"keys": []}, [], torch.zeros(4)
        self.fails: type[BaseException] | None = None
        self.shared.weight.grad = torch.ones(11, 4)
        self.register_forward_hook(lambda *_: None)

    def forward(self, ids: Any) -> Any:
        x = self.encoder["embed_tokens"](ids)
        self.cache["keys"].append(x)
        self.seen = [*self.seen, x]
        self.plain += 1
        self.table.mul_(1.5)
        self.eval()
        self.shared.weight.requires_grad_(self.shared.weight.requires_grad)
        x = x + 0 * (torch.rand(4) + float(np.random.rand()) + random.random())  # noqa: NPY002, S311 - generators that a program may move
        self.extra = nn.Linear(1, 1)
        if self.fails is not None:
            raise self.fails
        return self.lm_head(self.norm(x.flatten(0, 1)) * self.plain.mean())


class Port(nnx.Module):
    """The same in NNX."""

    def __init__(self) -> None:
        self.shared = nnx.Embed(11, 4, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, epsilon=1e-5, momentum=0.9, rngs=nnx.Rngs(0))
        self.calls = nnx.Variable(jnp.zeros(()))
        self.count = 0

    def __call__(self, ids: Any) -> Any:
        self.calls[...] += 1
        self.count += 1
        _ = np.random.rand()  # noqa: NPY002 - as above
        return self.shared.attend(self.norm(self.shared(ids).reshape(-1, 4)))


def torch_state(module: nn.Module) -> list[Any]:
    """Return all that a user can see of a module, comparable."""
    tensors = [(name, id(x), x.requires_grad, x.detach().clone().numpy().tobytes()) for name, x in named(module)]
    grads = [(name, None if x.grad is None else x.grad.numpy().tobytes()) for name, x in named(module)]
    parts = [
        (name, id(part), part.training, sorted(vars(part)), len(part._forward_hooks), list(part._parameters))  # noqa: SLF001
        for name, part in module.named_modules(remove_duplicate=False)
    ]
    plain = [repr({k: v for k, v in vars(part).items() if not k.startswith("_")}) for part in module.modules()]
    return [tensors, grads, parts, plain]


def named(module: nn.Module) -> list[tuple[str, Any]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def nnx_state(module: Port) -> list[Any]:
    return [
        [(str(path), np.asarray(x).tobytes()) for path, x in jax.tree_util.tree_leaves_with_path(nnx.state(module))],
        sorted(vars(module)),
        module.count,
    ]


def draws() -> list[Any]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()),  # noqa: NPY002 - as above
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
    ]


def recorded(first: Any, second: Any) -> None:
    _ = replayed_program.record(first, "torch", IDS)
    _ = replayed_program.record(second, "jax", IDS)


def golden(first: Any, second: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.safetensors"
        parity.record_model(path, first, IDS)
        _ = parity.layerwise(parity.recorded_model(path), second)
        parity.record_model(path, second, IDS)
        _ = parity.layerwise(first, parity.recorded_model(path))


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "compare": lambda t, j: parity.compare(t, j, IDS, load="first"),
    "compare with torch's budget": lambda t, j: parity.compare(t, j, IDS, load="first", budget="torch"),
    "match": lambda t, j: parity.match(t, j, IDS),
    "locate": lambda t, j: parity.locate(t, j, IDS, load="first"),
    "full_comparison": lambda t, j: parity.full_comparison(t, j, IDS, load="second", trace=True),
    "record": recorded,
    "diagnose": lambda t, j: parity.diagnose(t, j, spec.MultiHeadAttention(4, 2)),
    "worst_input": lambda t, j: parity.worst_input(t, j, IDS, load="first", tries=2),
    "tolerances": lambda t, j: (parity.tolerances(t, IDS), parity.tolerances(j, IDS)),
    "layerwise": lambda t, j: parity.layerwise(t, j, IDS),
    "record_model": golden,
    "compare_decoding": lambda t, j: parity.compare_decoding(t, j, IDS),
    "program": lambda t, j: (program(t).run(Call.of(IDS)), program(j).run(Call.of(IDS))),
}

# The run that fails is the same one in every call.
ENDS = [(call, None) for call in CALLS] + [
    (call, end)
    for call in ("compare", "locate", "layerwise", "worst_input", "tolerances")
    for end in (ValueError, KeyboardInterrupt)
]


MODULE_NAMES = {"torch_side", "jax_side", "side", "torch_model", "jax_model", "first", "second"}


class TestLaws:
    def test_every_public_call_that_takes_a_program_is_here(self) -> None:
        # A step of an optimiser is no module, and holds nothing of the user's.
        takes = {
            name
            for name in parity.__all__
            if inspect.isfunction(function := getattr(parity, name))
            and MODULE_NAMES & {*inspect.signature(function).parameters}
        }
        assert takes - {"diagnose_step", "match", "program"} <= {*CALLS}

    @pytest.mark.parametrize(("call", "fails"), ENDS, ids=str)
    def test_every_public_call_leaves_modules_and_generators_as_they_were(
        self, call: str, fails: type[BaseException] | None
    ) -> None:
        module, port = Everything().train(), Port()
        module.fails = fails
        before = torch_state(module), nnx_state(port), draws()
        with suppress(AttentionError, KeyboardInterrupt):
            _ = CALLS[call](module, port)
        after = torch_state(module), nnx_state(port), draws()
        assert after == before
        assert module.lm_head.weight is module.shared.weight is module.unregistered[0]
        assert module.table is module.same_table

    def test_inputs_of_a_wrong_shape_leave_them_too(self) -> None:
        module, port = Everything().train(), Port()
        before = torch_state(module), nnx_state(port), draws()
        with pytest.raises(AttentionError):
            _ = program(module).run(Call.of(X))
        with pytest.raises(AttentionError):
            _ = program(port).run(Call.of(X))
        assert (torch_state(module), nnx_state(port), draws()) == before

    def test_the_state_that_is_compared_here_shows_every_kind_of_change(self) -> None:
        module = Everything().train()
        before = torch_state(module)
        _ = module(torch.tensor(IDS))
        after = torch_state(module)
        assert all(one != other for one, other in zip(before[::2], after[::2], strict=True))

    def test_a_function_leaves_the_modules_that_it_closes_over(self) -> None:
        module, port = Everything().train(), Port()
        before = torch_state(module), nnx_state(port), draws()
        for side, framework in (
            (lambda ids: module(ids + 0), "torch"),
            (lambda ids: port(ids + 0), "jax"),
            (module.forward, "torch"),
        ):
            _ = program(side, framework).run(Call.of(IDS))
        assert (torch_state(module), nnx_state(port), draws()) == before


class TestValues:
    def test_weights_tied_in_every_way_agree_with_a_shared_table(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shared = nn.Embedding(11, 8)
                self.encoder = nn.ModuleDict({"embed_tokens": self.shared})
                self.lm_head = nn.Linear(8, 11, bias=False)
                self.lm_head.weight = self.shared.weight

            def forward(self, ids: Any) -> Any:
                return self.lm_head(self.encoder["embed_tokens"](ids))

        class Shared(nnx.Module):
            def __init__(self) -> None:
                self.shared = nnx.Embed(11, 8, rngs=nnx.Rngs(0))

            def __call__(self, ids: Any) -> Any:
                return self.shared.attend(self.shared(ids))

        module = Tied()
        values = module.shared.weight.detach().clone()
        parity.compare(module, Shared(), IDS, load="first").assert_ok()
        assert module.lm_head.weight is module.shared.weight
        assert torch.equal(module.shared.weight, values)

    def test_a_parameter_in_a_list_gets_the_values_and_gives_the_gradient(self) -> None:
        class Listed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(3))
                self.held = [(self.w,)]

            def forward(self, x: Any) -> Any:
                return x * self.held[0][0]

        made = program(Listed()).run(Call.of(X), params={"w": np.full(3, 2.0)}, cotangents={"output": np.ones_like(X)})
        np.testing.assert_array_equal(made.outputs["output"], 2 * X)
        np.testing.assert_allclose(made.gradients["d w"], X.sum(0), rtol=1e-6)

    def test_modules_that_a_function_uses_are_found_wherever_they_stand(self) -> None:
        module = nn.Linear(3, 3)

        def outer(x: Any, layer: Any = module) -> Any:
            return layer(x)

        for function in (lambda x: module(2 * x), outer, module.forward, lambda x: outer(2 * x)):
            assert held_modules(function) == [module]
