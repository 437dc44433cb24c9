"""`transformers`: its attention modules alone, with tiny random configs, beside ours.

    module(config) + write(weights)  ->  output, gradients of the input and of every parameter, through read()

Their modules get what their models would give them: hidden states, their own rotary tables, their own masks, padding as 0
and 1. Several of them compute the softmax or a norm in float32 whatever they are given; in float64 runs `Widened` lifts this,
and `WIDE` lists who would keep the digits without it.

References:
    transformers 5.23, `modeling_*.py`, `attn_implementation="eager"`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from attention.checkpoints import bert, deepseek, gpt2, llama, t5, vit, whisper
from attention.checkpoints.weight_map import WeightMap, read, write
from attention.parity.contracts.probes import Probe
from attention.spec.errors import ParamError
from attention.spec.layers.contract import Contract
from attention.spec.masks import Lengths
from attention.torch_impl.params import to_numpy, to_tensor
from conformance.peers import BACKENDS, Line, Results, compare, draw

TOKENS, MEMORY = 9, 7
LENGTHS = np.array([9, 8, 7])
"""Real tokens of each row; the rest is padding, on the right. With a window of 3 no row is left without a key, see `EMPTY`."""
SOURCE = np.array([7, 4, 1])
"""The same of the memory."""
EMPTY = np.array([9, 6, 2])
"""Lengths that leave rows without a key under a window of 3: theirs then take the mean of all values, ours 0."""

WIDE = ("BERT", "GPT-2", "T5", "Whisper")
"""How the names of those begin whose float64 is float64. The others narrow inside: their rotary tables, softmax or norms."""

Inputs = dict[str, Tensor]


class Widened(TorchFunctionMode):
    """Every float32 that is asked for is a float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function with float64 in place of float32."""
        del types
        func = Tensor.double if func is Tensor.float else func
        args, kwargs = tree_map(lambda x: torch.float64 if x is torch.float32 else x, (args, kwargs or {}))
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Subject:
    """One of their modules.

    Attributes:
        name: what the table calls it.
        contract: ours, from their config.
        weight_map: the table of names.
        build: makes the module.
        call: gives the output of the module for inputs by name.
        padded: whether the call has padded tokens.
    """

    name: str
    contract: Contract
    weight_map: WeightMap
    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Inputs], Tensor]
    padded: bool = True

    @property
    def crosses(self) -> bool:
        """Whether keys come from elsewhere."""
        return "cross" in self.name

    def probe(self) -> Probe:
        """Return the call of our layer."""
        mask = Lengths(kv=SOURCE if self.crosses else LENGTHS) if self.padded else None
        if self.crosses:
            return draw(self.name, self.contract, TOKENS, MEMORY, mask, ("query", "key"))
        return draw(self.name, self.contract, TOKENS, TOKENS, mask)

    def run(self, probe: Probe, *, narrow: bool = False) -> Results:
        """Return what their module makes of a probe.

        Args:
            probe: weights, inputs and the cotangent, in the dtype that it runs in.
            narrow: whether it may fall back to float32 where its authors wrote so.
        """
        wide: AbstractContextManager[Any] = nullcontext() if narrow or probe.dtype == "float32" else Widened()
        kind = getattr(torch, probe.dtype)
        module = self.build().to(kind).eval()
        _load(module, write(probe.weights, self.weight_map, self.contract), self.weight_map)
        inputs = {name: to_tensor(x).requires_grad_() for name, x in probe.arrays.items()}
        with wide:
            output = self.call(module, inputs)
        learned = {name: x for name, x in module.named_parameters() if name not in self.weight_map.ignored}
        leaves = [*inputs.values(), *learned.values()]
        gradients = torch.autograd.grad(output, leaves, to_tensor(probe.cotangents["output"]))
        found = dict(zip([*inputs, *learned], map(to_numpy, gradients), strict=True))
        canonical = read({name: found[name] for name in learned}, self.weight_map, self.contract)
        made = {**{name: found[name] for name in inputs}, **canonical}
        return {"output": to_numpy(output), **{f"d {name}": x for name, x in made.items()}}


def _load(module: nn.Module, tensors: Mapping[str, np.ndarray], weight_map: WeightMap) -> None:
    """Load tensors by name: all that the module has, except what the map ignores."""
    missed = module.load_state_dict({name: to_tensor(x) for name, x in tensors.items()}, strict=False)
    missing = set(missed.missing_keys) - weight_map.ignored
    if missing or missed.unexpected_keys:
        raise ParamError(f"{weight_map.name} has no row for {sorted(missing)}, and theirs no {missed.unexpected_keys}")


def run(backends: tuple[str, ...] = BACKENDS) -> list[Line]:
    """Return the lines of every module."""
    return [line for subject in subjects() for line in compare(subject.probe(), subject.run, backends)]


def subjects() -> list[Subject]:
    """Return every module."""
    return [*_decoders(), *_deepseek(), *_gpt2(), *_t5(), *_whisper(), _bert(), _vit()]


def _modeling(name: str) -> Any:
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def _config(name: str, **options: Any) -> Any:
    # The text part of a model that also sees images has its config beside that of the whole.
    home = name.removesuffix("_text")
    folder = importlib.import_module(f"transformers.models.{home}.configuration_{home}")
    kind = next(x for x in vars(folder).values() if getattr(x, "model_type", None) == name)
    config = kind(**options)
    # The one switch that transformers' modules and masks both read.
    config._attn_implementation = "eager"  # noqa: SLF001
    return config


def _mask(kind: str, config: Any, inputs: Inputs) -> Tensor:
    """Return the mask that their models give to their modules: `create_<kind>_mask`."""
    masks = importlib.import_module("transformers.masking_utils")
    memory = inputs.get("key")
    lengths, width = (LENGTHS, TOKENS) if memory is None else (SOURCE, MEMORY)
    real = torch.tensor(np.arange(width) < lengths[:, None], dtype=torch.int64)
    rest = {"past_key_values": None} if "causal" in kind else {"encoder_hidden_states": memory}
    return getattr(masks, f"create_{kind}_mask")(
        config=config, inputs_embeds=next(iter(inputs.values())), attention_mask=real, **rest
    )


SMALL = {"hidden_size": 20, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 6, "num_hidden_layers": 2, "max_position_embeddings": 256}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# Bounds between which lie two of three pairs, so that a ramp that begins elsewhere is another ramp.
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 4.0}


def _decoders() -> Iterator[Subject]:
    scaled = {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}}
    yield _decoder("Llama", "llama", "LlamaAttention", attention_bias=True)
    yield _decoder("Llama 3", "llama", "LlamaAttention", 0, **scaled)
    yield _decoder("Mistral", "mistral", "MistralAttention", sliding_window=3)
    capped = {"sliding_window": 3, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0}
    yield _decoder("Gemma2 window", "gemma2", "Gemma2Attention", 0, **capped)
    yield _decoder("Gemma2", "gemma2", "Gemma2Attention", 1, **capped)
    yield _decoder("Qwen2", "qwen2", "Qwen2Attention")
    yield _decoder("Qwen3", "qwen3", "Qwen3Attention", attention_bias=True)
    scaled = {"rope_parameters": {**YARN, "truncate": False}}
    yield _decoder("GPT-OSS window", "gpt_oss", "GptOssAttention", 0, sliding_window=3, **scaled)
    yield _decoder("GPT-OSS", "gpt_oss", "GptOssAttention", 1, sliding_window=3, **scaled)


def _decoder(name: str, kind: str, attention: str, layer: int = 0, **options: Any) -> Subject:
    config, modeling = _config(kind, **{**GROUPED, **options}), _modeling(kind)

    def call(module: nn.Module, inputs: Inputs) -> Tensor:
        x = inputs["query"]
        rotary = getattr(modeling, attention.replace("Attention", "RotaryEmbedding"))(config)
        # As their models choose it: Mistral by the config, the others by the layer.
        slides = config.layer_types[layer] == "sliding_attention" if hasattr(config, "layer_types") else kind == "mistral"
        mask = _mask("sliding_window_causal" if slides else "causal", config, inputs)
        return module(x, position_embeddings=rotary(x, torch.arange(TOKENS)[None]), attention_mask=mask)[0]

    contract, weight_map = llama.contract(config.to_dict(), layer), llama.FAMILIES[kind][0]
    return Subject(name, contract, weight_map, lambda: getattr(modeling, attention)(config, layer), call)


def _deepseek() -> Iterator[Subject]:
    modeling = _modeling("deepseek_v3")
    sizes = {
        **SMALL,
        "num_key_value_heads": 4,
        "kv_lora_rank": 7,
        "qk_nope_head_dim": 3,
        "qk_rope_head_dim": 4,
        "v_head_dim": 5,
    }
    yarn = {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8}
    for name, options in (
        ("DeepSeek-V3", {"q_lora_rank": 6, "attention_bias": True, "rope_parameters": yarn}),
        ("DeepSeek-V3 half", {"q_lora_rank": None, "rope_interleave": False}),
    ):
        config = _config("deepseek_v3", **sizes, **options, num_hidden_layers=2, max_position_embeddings=256)

        def call(module: nn.Module, inputs: Inputs, config: Any = config) -> Tensor:
            x = inputs["x"]
            places = modeling.DeepseekV3RotaryEmbedding(config)(x, torch.arange(TOKENS)[None])
            return module(x, position_embeddings=places, attention_mask=_mask("causal", config, inputs))[0]

        contract = deepseek.contract(config.to_dict())
        yield Subject(name, contract, deepseek.DEEPSEEK, lambda config=config: modeling.DeepseekV3Attention(config, 0), call)


def _gpt2() -> Iterator[Subject]:
    config, modeling = _config("gpt2", **SMALL, scale_attn_by_inverse_layer_idx=True), _modeling("gpt2")

    def alone(module: nn.Module, inputs: Inputs) -> Tensor:
        return module(inputs["query"], attention_mask=_mask("causal", config, inputs))[0]

    def across(module: nn.Module, inputs: Inputs) -> Tensor:
        mask = _mask("bidirectional", config, inputs)
        return module(inputs["query"], encoder_hidden_states=inputs["key"], encoder_attention_mask=mask)[0]

    for name, weight_map, call, cross in (("GPT-2", gpt2.GPT2, alone, False), ("GPT-2 cross", gpt2.GPT2_CROSS, across, True)):
        contract = gpt2.contract(config.to_dict(), 1, cross=cross)
        yield Subject(
            name, contract, weight_map, lambda c=cross: modeling.GPT2Attention(config, is_cross_attention=c, layer_idx=1), call
        )


def _t5() -> Iterator[Subject]:
    sizes = {
        "d_model": 20,
        "num_heads": 4,
        "d_kv": 6,
        "relative_attention_num_buckets": 6,
        "relative_attention_max_distance": 7,
    }
    modeling = _modeling("t5")
    for name, mask, decoder, cross in (
        ("T5 encoder", "bidirectional", False, False),
        ("T5 decoder", "causal", True, False),
        ("T5 cross", "bidirectional", True, True),
    ):
        config = _config("t5", **sizes, is_decoder=decoder)

        def call(module: nn.Module, inputs: Inputs, config: Any = config, mask: str = mask) -> Tensor:
            return module(inputs["query"], mask=_mask(mask, config, inputs), key_value_states=inputs.get("key"))[0]

        contract = t5.contract(config.to_dict(), decoder=decoder, cross=cross)
        yield Subject(
            name,
            contract,
            t5.T5,
            lambda config=config, cross=cross: modeling.T5Attention(config, has_relative_attention_bias=not cross, layer_idx=0),
            call,
        )


def _whisper() -> Iterator[Subject]:
    config = _config("whisper", d_model=20, encoder_attention_heads=4, decoder_attention_heads=5)
    modeling = _modeling("whisper")
    for name, mask, decoder, cross in (
        ("Whisper encoder", None, False, False),
        ("Whisper decoder", "causal", True, False),
        ("Whisper cross", None, True, True),
    ):

        def call(module: nn.Module, inputs: Inputs, mask: str | None = mask) -> Tensor:
            made = None if mask is None else _mask(mask, config, inputs)
            return module(inputs["query"], key_value_states=inputs.get("key"), attention_mask=made)[0]

        contract = whisper.contract(config.to_dict(), decoder=decoder, cross=cross)
        heads = config.decoder_attention_heads if decoder else config.encoder_attention_heads
        yield Subject(
            name,
            contract,
            whisper.WHISPER,
            lambda heads=heads: modeling.WhisperAttention(20, heads, layer_idx=0, config=config),
            call,
            padded=mask is not None,
        )


def _bert() -> Subject:
    config, modeling = _config("bert", **SMALL), _modeling("bert")

    def call(module: nn.Module, inputs: Inputs) -> Tensor:
        caught: list[Tensor] = []
        # Before the residual sum and the norm, which are no attention.
        hook = module.get_submodule(bert.BERT.output).register_forward_hook(lambda *seen: caught.append(seen[-1]))
        _ = module(inputs["query"], attention_mask=_mask("bidirectional", config, inputs))
        hook.remove()
        return caught[0]

    return Subject("BERT", bert.contract(config.to_dict()), bert.BERT, lambda: modeling.BertAttention(config), call)


def _vit() -> Subject:
    config, modeling = _config("vit", **SMALL), _modeling("vit")

    def call(module: nn.Module, inputs: Inputs) -> Tensor:
        return module(inputs["query"])[0]

    return Subject("ViT", vit.contract(config.to_dict()), vit.VIT, lambda: modeling.ViTAttention(config), call, padded=False)
