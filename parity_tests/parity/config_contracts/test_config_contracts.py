"""A port beside transformers: the config gives the contract, and the mistake of the port's attention is named by it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from attention import parity
from attention.parity.adapters.inputs import call_of
from attention.parity.config_contracts.diagnose_layers import diagnose_layers
from parity_tests.support.attention_nnx import Attention, Bert, Gpt2
from parity_tests.support.llama_nnx import ported

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 2,
}
X = np.random.default_rng(0).normal(size=(2, 11, 16)).astype(np.float32)
LAYERS: dict[str, Any] = {"sliding_window": 3, "query_pre_attn_scalar": 10}
IDS = {"input_ids": np.random.default_rng(0).integers(0, 31, (2, 9))}


def modeling(kind: str) -> Any:
    return importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")


def config_of(kind: str, model_type: str, **options: Any) -> Any:
    folder = importlib.import_module(f"transformers.models.{kind}.configuration_{kind}")
    made = next(x for x in vars(folder).values() if getattr(x, "model_type", None) == model_type)(**{**SIZES, **options})
    made._attn_implementation = "eager"  # noqa: SLF001 - as their models choose it
    return made


class Alone(nn.Module):
    """One attention of transformers, given what its model would give it."""

    def __init__(self, kind: str, name: str, layer: int = 0, model_type: str = "", **options: Any) -> None:
        super().__init__()
        _ = torch.manual_seed(0)
        self.config = config_of(kind, model_type or kind, **options)
        self.attn = getattr(modeling(kind), f"{name}Attention")(self.config, layer)
        self.rotary = getattr(modeling(kind), f"{name}RotaryEmbedding")(self.config)
        self.kind = getattr(self.attn, "layer_type", None) or "full_attention"
        slides = self.kind == "sliding_attention" or kind == "mistral"
        self.mask = "create_sliding_window_causal_mask" if slides else "create_causal_mask"
        for param in self.attn.parameters():
            _ = nn.init.normal_(param, std=0.3)

    def forward(self, x: Any) -> Any:
        masks = importlib.import_module("transformers.masking_utils")
        mask = getattr(masks, self.mask)(
            config=self.config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=None
        )
        places = torch.arange(x.shape[1])[None]
        # Gemma 3 has one rotary table for each type of layer.
        more = (self.kind,) if hasattr(self.rotary, "layer_types") else ()
        return self.attn(x, position_embeddings=self.rotary(x, places, *more), attention_mask=mask)[0]


RIGHT: dict[str, tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "llama": (("llama", "Llama"), {}, {}),
    "mistral": (("mistral", "Mistral"), {"sliding_window": 3}, {"window": 3}),
    "qwen2": (("qwen2", "Qwen2"), {}, {"biases": (True, False)}),
    "qwen3": (("qwen3", "Qwen3"), {}, {"norm": 0.0}),
    "gemma": (("gemma", "Gemma"), {}, {}),
    "gemma2": (
        ("gemma2", "Gemma2", 1),
        {**LAYERS, "attn_logit_softcapping": 2.0},
        {"cap": 2.0, "scale": 10**-0.5},
    ),
    "gemma2 window": (
        ("gemma2", "Gemma2", 0),
        {**LAYERS, "attn_logit_softcapping": 2.0},
        {"cap": 2.0, "scale": 10**-0.5, "window": 3},
    ),
    "gemma3": (
        ("gemma3", "Gemma3", 1, "gemma3_text"),
        {**LAYERS, "layer_types": ["sliding_attention", "full_attention"]},
        {"scale": 10**-0.5, "norm": 1.0, "base": 1e6},
    ),
    "gemma3 window": (
        ("gemma3", "Gemma3", 0, "gemma3_text"),
        LAYERS,
        {"scale": 10**-0.5, "norm": 1.0, "window": 3},
    ),
    "gpt_oss": (
        ("gpt_oss", "GptOss", 1),
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"biases": (True, True), "sinks": True},
    ),
}

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "another base": ("llama", {"base": 5e5}, "rotary base 500000 for 10000"),
    "a window of one key more": ("mistral", {"window": 4}, "window"),
    "a window of one key less": ("gemma3 window", {"window": 2}, "window"),
    "no window": ("gemma2 window", {"window": None}, "window"),
    "no soft cap": ("gemma2", {"cap": None}, "cap"),
    "another scale": ("gemma2", {"scale": None}, "scale"),
    "another scale beside a norm": ("gemma3", {"scale": None}, "scale"),
    "the base of the other layers": ("gemma3", {"base": 1e4}, "rotary base 10000 for 1e+06"),
    "norm of all heads at once": ("qwen3", {"norm_heads": False}, "norm"),
    "another eps": ("qwen3", {"eps": 1e-5}, "eps"),
    "no sinks": ("gpt_oss", {"use_sinks": False}, "sink"),
}


def pair(name: str, **wrong: Any) -> tuple[nn.Module, nnx.Module]:
    where, options, right = RIGHT[name]
    theirs = Alone(*where, **options).eval()
    return theirs, Attention(theirs.config, **{**right, **wrong})


def found(sides: tuple[Any, Any], inputs: Any = X) -> Any:
    made, notes = diagnose_layers(*sides, call_of(inputs), load="first")
    assert not notes
    assert len(made) == 1
    return made[0]


class TestLaws:
    @pytest.mark.parametrize("name", RIGHT)
    def test_a_right_attention_has_no_name(self, name: str) -> None:
        one = found(pair(name))
        assert one.own.agrees
        assert one.diagnosis.agrees
        assert one.name == ""

    @pytest.mark.parametrize("mistake", WRONG)
    def test_a_mistake_is_named(self, mistake: str) -> None:
        name, wrong, word = WRONG[mistake]
        one = found(pair(name, **wrong))
        assert one.own.agrees
        assert word in one.name, str(one)

    @pytest.mark.parametrize("scale", [None, 0.25])
    def test_an_attention_before_its_norm_is_asked_alone(self, scale: float | None) -> None:
        one = found((theirs("bert", "BertAttention"), Bert(16, 4, scale)))
        assert (one.path, one.other) == ("attn", "attention")
        assert bool(one.name) == (scale is not None), str(one)

    @pytest.mark.parametrize("scale", [None, 1.0])
    def test_a_fused_projection_is_read_by_the_table(self, scale: float | None) -> None:
        one = found((theirs("gpt2", "GPT2Attention"), Gpt2(16, 4, scale)))
        assert ("scale" in one.name) == (scale is not None), str(one)

    def test_either_side_may_be_transformers(self) -> None:
        original, port = pair("llama", base=5e5)
        made, notes = diagnose_layers(port, original, call_of(X), load="second")
        assert ([one.name for one in made], notes) == (["rotary base 500000 for 10000"], ())

    def test_nothing_of_the_modules_is_changed(self) -> None:
        original, port = pair("gemma2", cap=None)
        before = state(original, port)
        _ = found((original, port))
        assert state(original, port) == before


def theirs(kind: str, name: str) -> nn.Module:
    """Return an attention of an older family within a module that calls it with hidden states alone."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            _ = torch.manual_seed(0)
            self.config = config_of(kind, kind)
            self.attn = getattr(modeling(kind), name)(self.config, layer_idx=0)
            for param in self.attn.parameters():
                _ = nn.init.normal_(param, std=0.3)

        def forward(self, x: Any) -> Any:
            T = x.shape[1]
            mask = torch.where(torch.ones(T, T).tril().bool(), 0.0, -torch.inf)[None, None] if kind == "gpt2" else None
            return self.attn(x, attention_mask=mask)[0]

    return Held().eval()


def state(original: nn.Module, port: nnx.Module) -> Any:
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in original.modules()]  # noqa: SLF001
    tensors = [x.numpy().tobytes() for x in original.state_dict().values()]
    return (
        hooks,
        tensors,
        [np.asarray(x).tobytes() for x in nnx.to_flat_state(nnx.state(port)).leaves],
        torch.get_rng_state().tolist(),
    )


class TestFullComparison:
    def llama(self) -> Any:
        _ = torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=31, intermediate_size=20, **{**SIZES, "head_dim": 4})).eval()

    def test_a_whole_model_is_diagnosed_at_the_layer_that_differs_most(self) -> None:
        model = self.llama()
        made = parity.full_comparison(model, ported(model, bases={1: 5e5}), IDS, gradients=False)
        assert [layer.other for layer in made.layers] == ["layers.1.attention"]
        assert str(made.named[0]).startswith("rotary base 500000 for 10000")
        assert "unique among the known mistakes" in str(made)
        assert made.to_dict()["layers"][0]["name"] == "rotary base 500000 for 10000"

    def test_a_right_model_is_not_asked(self) -> None:
        model = self.llama()
        made = parity.full_comparison(model, ported(model), IDS, gradients=False)
        assert (made.verdict, made.layers, made.named) == ("agrees", (), ())

    def test_an_attention_that_is_right_is_said_to_agree(self) -> None:
        model = self.llama()
        made = parity.full_comparison(model, ported(model, eps={0: 1e-3}), IDS, gradients=False)
        assert [layer.name for layer in made.layers] == [""]
        assert "agrees with the contract" in str(made)


class TestNotAsked:
    def test_other_models(self) -> None:
        assert diagnose_layers(nn.Linear(2, 3), nnx.Linear(2, 3, rngs=nnx.Rngs(0)), call_of(X)) == ((), ())

    def test_a_module_that_is_not_what_its_config_says(self) -> None:
        original, port = pair("llama", base=5e5)
        original.attn.scaling = 0.1  # type: ignore[union-attr]
        made, notes = diagnose_layers(original, port, call_of(X), load="first")
        assert not made
        assert "attn is not what its config says" in notes[0]

    def test_a_port_without_a_module_of_its_own_for_the_attention(self) -> None:
        original, port = pair("llama", base=5e5)
        graph, params = nnx.split(port)

        def function(params: Any, x: Any) -> Any:
            return nnx.merge(graph, params)(x)

        made, notes = diagnose_layers(original, (function, nnx.to_pure_dict(params)), call_of(X), load="first")
        assert not made
        assert "no contract was built from the config" in notes[0]
