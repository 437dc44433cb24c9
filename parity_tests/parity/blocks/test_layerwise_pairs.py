"""Two models block by block: blocks are found, each is compared on what it received, and only the wrong one fails."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from attention import parity
from attention.parity.adapters.program import Call
from attention.parity.blocks.received import shared
from attention.parity.blocks.units import counterparts, numbered, parts
from attention.parity.results.report import Report
from attention.spec.errors import OptionError, ParamError, SideFailed, UnknownName
from parity_tests.support.llama_nnx import ported

CONFIG = LlamaConfig(
    vocab_size=31,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
IDS = {"input_ids": np.random.default_rng(0).integers(0, 31, (2, 5))}
X = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)


def llama() -> Any:
    _ = torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def wrong(report: Report) -> set[str]:
    return {row.subject for row in report.rows if not row.agrees}


class TorchNet(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6)) for _ in range(2)])
        self.last = nn.Linear(6, 4)
        self.factor = factor

    def forward(self, x: Any) -> Any:
        x = self.factor * x
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class LinenBlock(linen.Module):
    factor: float = 1.0

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(6, name="down")(jnp.tanh(self.factor * linen.Dense(9, name="up")(x)))


class LinenNet(linen.Module):
    factors: tuple[float, ...] = (1.0, 1.0)
    compiled: bool = False

    @linen.compact
    def __call__(self, x: Any) -> Any:
        block = linen.jit(LinenBlock) if self.compiled else LinenBlock
        for i, factor in enumerate(self.factors):
            x = x + block(factor, name=f"block_{i}")(x)
        return linen.Dense(4, name="last")(x)


def linen_pair(**more: Any) -> tuple[Any, Any]:
    _ = torch.manual_seed(0)
    net = TorchNet().eval()
    values = {name: x.detach().numpy() for name, x in net.named_parameters()}

    def dense(name: str) -> dict[str, Any]:
        return {"kernel": values[f"{name}.weight"].T, "bias": values[f"{name}.bias"]}

    params = {f"block_{i}": {"up": dense(f"blocks.{i}.0"), "down": dense(f"blocks.{i}.2")} for i in range(2)}
    return net, (LinenNet(**more), {"params": {**params, "last": dense("last")}})


class TestLaws:
    def test_every_part_of_a_right_port_agrees(self) -> None:
        model = llama()
        told: list[str] = []
        report = parity.layerwise(model, ported(model), IDS, progress=told.append)
        report.assert_ok()
        assert told == [
            "whole model",
            "model.embed_tokens",
            "model.layers.0",
            "model.layers.1",
            "model.norm",
            "lm_head",
        ]
        assert [row.subject for row in report.rows[::2]] == told
        assert not any("not compared" in note for note in report.notes)

    def test_only_the_block_with_the_mistake_fails_and_the_whole(self) -> None:
        model = llama()
        report = parity.layerwise(
            model, ported(model, eps={0: 0.1}), IDS, blocks=[(f"model.layers.{i}", f"layers.{i}") for i in (0, 1)]
        )
        assert wrong(report) == {"whole model", "model.layers.0"}
        assert "of 2 parts, 1 differ on what they received: model.layers.0" in report.notes[0]
        # The next block received hidden states that are wrong already, and says so.
        assert any(note.startswith("model.layers.1 received") for note in report.notes)

    def test_linen_modules_are_seen_where_they_are_called(self) -> None:
        parity.layerwise(*linen_pair(), X, gradients=True).assert_ok()
        assert wrong(parity.layerwise(*linen_pair(factors=(1.0, 1.1)), X)) == {"whole model", "blocks.1"}

    def test_parts_inside_of_a_compiled_function_are_run_without_compilation(self) -> None:
        report = parity.layerwise(*linen_pair(compiled=True), X)
        report.assert_ok()
        assert {row.subject for row in report.rows} == {"whole model", "blocks.0", "blocks.1", "last"}

    def test_what_differs_between_the_parts_is_told_from_what_differs_in_them(self) -> None:
        net, theirs = linen_pair()
        net.factor = 1.01
        report = parity.layerwise(net, theirs, X)
        assert wrong(report) == {"whole model"}
        assert "look at what passes between the parts" in report.notes[0]

    def test_a_part_that_ends_elsewhere_in_the_other_model_condemns_no_right_port(self) -> None:
        net, theirs = linen_pair()
        # The last layer's activation is inside of the part on one side, and outside of it on the other.
        net.last = nn.Sequential(OrderedDict(dense=net.last, tanh=nn.Tanh()))

        class Outside(LinenNet):
            @linen.compact
            def __call__(self, x: Any) -> Any:
                for i, factor in enumerate(self.factors):
                    x = x + LinenBlock(factor, name=f"block_{i}")(x)
                return jnp.tanh(linen.Dense(4, name="last")(x))

        report = parity.layerwise(net, (Outside(), theirs[1]), X)
        report.assert_ok()
        assert any(note.startswith("last") and "elsewhere" in note for note in report.notes), report.notes

    def test_two_torch_models_are_a_pair_too(self) -> None:
        first, second = llama(), llama()
        parity.layerwise(first, second, IDS, blocks=[("model.layers.0", "model.layers.0")]).assert_ok()
        second.model.layers[1].input_layernorm.variance_epsilon = 1e-3
        report = parity.layerwise(first, second, IDS)
        assert wrong(report) == {"whole model", "model.layers.1"}

    def test_the_models_are_left_as_they_were(self) -> None:
        model = llama()
        port = ported(model)
        before = fingerprint(model), str(nnx.state(port)), type(port.layers[0])
        _ = parity.layerwise(model, port, IDS)
        assert (fingerprint(model), str(nnx.state(port)), type(port.layers[0])) == before
        model.model.norm.forward = lambda *_: 1 / 0
        before = fingerprint(model)
        with pytest.raises(SideFailed, match="ZeroDivisionError"):
            _ = parity.layerwise(model, port, IDS)
        assert fingerprint(model) == before

    def test_layers_of_contracts_are_taken_as_ever(self) -> None:
        assert parity.layerwise([], backends=("numpy",)).rows == ()


def fingerprint(model: nn.Module) -> str:
    """Return a digest of all tensors, ties, modes and hooks."""
    told = [torch.get_rng_state().numpy().tobytes()]
    for name, part in model.named_modules():
        told += [
            name.encode(),
            bytes(part.training),
            repr(sorted(vars(part))).encode(),
            repr(vars(part)["_forward_pre_hooks"]).encode(),
        ]
    for name, x in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        told += [name.encode(), str(id(x)).encode(), x.detach().numpy().tobytes()]
    return hashlib.sha256(b"".join(told)).hexdigest()


class Narrow(nn.Module):
    """A layer that refuses float64, as a kernel of half precision does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Any) -> Any:
        if x.dtype == torch.float64:
            raise ValueError("no float64")
        return self.inner(x)


class TestCannotTell:
    def test_a_part_that_refuses_float64_is_judged_with_the_whole_and_not_said_to_differ(self) -> None:
        first, second = Narrow().eval(), Narrow().eval()
        _ = second.load_state_dict(first.state_dict())
        report = parity.layerwise(nn.Sequential(first, nn.Tanh()).eval(), nn.Sequential(second, nn.Tanh()).eval(), X)
        report.assert_ok()
        assert {row.subject for row in report.rows} == {"whole model"}
        assert any("no float64" in note for note in report.notes), report.notes


class TestValues:
    @pytest.mark.parametrize(
        ("paths", "wanted"),
        [
            (["a.0", "a.1", "a.1.0"], {"a.0", "a.1", "a.1.0"}),
            (["layer_0", "layer_1", "norm1"], {"layer_0", "layer_1"}),
            (["conv1", "fc"], set()),
        ],
    )
    def test_numbered_siblings(self, paths: list[str], wanted: set[str]) -> None:
        assert numbered(dict.fromkeys(paths, object())) == wanted

    def test_parts_are_the_outermost_blocks_and_what_stands_beside_them(self) -> None:
        paths = ["", "embed", "body", "body.0", "body.0.ff", "body.0.ff.0", "body.1", "drop", "head"]
        params = ["embed.w", "body.0.ff.0.w", "body.1.w", "head.w"]
        assert list(parts(dict.fromkeys(paths, object()), params)) == ["embed", "body.0", "body.1", "head"]

    def test_a_counterpart_holds_all_parameters_and_is_a_module(self) -> None:
        modules = dict.fromkeys(["", "layers.0", "layers.0.mlp", "embed"], object())
        every = {"layers.0.mlp.k", "layers.0.norm", "layers.1.norm", "embed.embedding", "pool.dense.k"}
        assert counterparts({"layers.0.mlp.k", "layers.0.norm"}, every, modules) == ["layers.0"]
        assert counterparts({"embed.embedding"}, every, modules) == ["embed"]
        assert counterparts({"pool.dense.k"}, every, {**modules, "pool": 0, "pool.dense": 0}) == ["pool", "pool.dense"]
        assert counterparts({"embed.embedding", "layers.0.norm"}, every, modules) == []
        assert counterparts({"layers.0.norm"}, every, modules) == []

    def test_arrays_are_paired_by_value_and_what_is_equal_is_not_exchanged(self) -> None:
        rng = np.random.default_rng(0)
        hidden, cos, sin = (rng.normal(size=(2, 3)) for _ in range(3))
        first = Call((hidden,), {"tables": (cos, sin), "mask": np.ones((2, 3), bool)})
        found = shared(first, Call((sin, cos, hidden + 1e-3), {}))
        assert [(each.first, each.second) for each in found] == [("input", "input[2]")]
        # Behind a mistake they may be anything; the first of each is then the hidden state.
        assert [(each.first, each.second) for each in shared(first, Call((rng.normal(size=(2, 3)),), {}))] == [
            ("input", "input")
        ]

    def test_the_port_of_these_tests_is_a_right_one(self) -> None:
        model = llama()
        with torch.no_grad():
            wanted = model(torch.from_numpy(IDS["input_ids"])).logits.numpy()
        assert np.abs(np.asarray(ported(model)(jnp.asarray(IDS["input_ids"]))["logits"]) - wanted).max() < 1e-5


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "error", "said"),
        [
            ({"torch_model": jnp.sin}, OptionError, r"must be an nn\.Module, an NNX module, or \(linen module, variables\)"),
            # Of a function and its parameters the types are said, and no array.
            (
                {"jax_model": (lambda p, x: x * p["w"], {"w": np.ones(99)})},
                OptionError,
                r"^model \(function, dict\) must be an nn\.Module",
            ),
            ({"blocks": [("last", "nowhere")]}, UnknownName, "blocks 'nowhere' must be a module of jax LinenNet"),
            ({"blocks": "all"}, OptionError, '"auto" or pairs of paths'),
            ({"torch_model": nn.Tanh()}, ParamError, "must be there"),
            ({"inputs": {"x": 1}}, OptionError, "must hold arrays"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, more: dict[str, Any], error: type[Exception], said: str) -> None:
        net, theirs = linen_pair()
        with pytest.raises(error, match=said):
            _ = parity.layerwise(**({"torch_model": net, "jax_model": theirs, "inputs": X} | more))
