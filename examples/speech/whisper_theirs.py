"""The same recogniser as transformers has it, filled from the same file by names of its own: what ours is held beside.

    block i of ours, of what block i of theirs received  =  what theirs made of it        within the oracle's budget
    |logits - exact|  of torch, JAX and theirs                                            side by side, exact in float64

The tables by which ours is read take no part in this: were one of them wrong, the two would differ.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from attention.parity.layerwise import Seen
from attention.spec.params import inner
from examples.speech import whisper_files

LAYERS = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
"""What is stacked in a layer's tensor, in order."""
WHOLE = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
}
LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def state(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the state of transformers' module, float32, of the arrays of a CTranslate2 file."""
    found: dict[str, Tensor] = {}
    for name, array in variables.items():
        if not array.ndim:
            continue
        tensor = torch.from_numpy(array.astype(np.float32))
        if name in WHOLE:
            found[WHOLE[name]] = tensor
        elif layer := re.fullmatch(r"(encoder|decoder)/layer_(\d+)/(.+)/(\w+)", name):
            side, number, part, leaf = layer.groups()
            for theirs, piece in zip(LAYERS[part], tensor.chunk(len(LAYERS[part])), strict=True):
                found[f"model.{side}.layers.{number}.{theirs}.{LEAVES[leaf]}"] = piece
        else:
            side, part, leaf = name.split("/")
            found[f"model.{side}.{part}.{LEAVES[leaf]}"] = tensor
    # Theirs has no bias of keys to put the stored zeros in; its last projection is the embedding again.
    kept = {name: tensor for name, tensor in found.items() if not name.endswith("k_proj.bias")}
    return {**kept, "proj_out.weight": kept[WHOLE["decoder/embeddings/weight"]]}


def theirs(variables: Mapping[str, np.ndarray]) -> WhisperForConditionalGeneration:
    """Return transformers' own model, float32, of the arrays of a CTranslate2 file."""
    nothing = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = WhisperConfig(**whisper_files.config(variables), **nothing, attn_implementation="eager")
    made = WhisperForConditionalGeneration(config)
    _ = made.load_state_dict(state(variables))
    return made.eval()


@torch.no_grad()
def logits(model: nn.Module, sound: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of transformers' model, in its own dtype.

    Args:
        model: what `theirs` returned, perhaps `.double()`.
        sound: log mel `(B, 2 S, A)`.
        tokens: integers `(B, T)`.
    """
    kind = next(model.parameters()).dtype
    features = torch.from_numpy(sound).to(kind).transpose(1, 2)
    return model(input_features=features, decoder_input_ids=torch.from_numpy(tokens).long()).logits.numpy()


def seen(
    trained: whisper_files.Trained, model: nn.Module, sound: np.ndarray, tokens: np.ndarray, states: int | None = None
) -> Iterator[Seen]:
    """Yield each block with what it received in transformers' run of the whole model, and what theirs made of it.

    Args:
        trained: what we say the model is.
        model: what `theirs` returned.
        sound: log mel `(B, 2 S, A)`.
        tokens: integers `(B, T)`.
        states: the first so many of the encoder's states are shown to its blocks, whose budgets grow with their square; theirs
            is run on the same. None means all.
    """
    received = _received(model, sound, tokens)
    for name, part in trained.architecture.parts.items():
        for i in range(part.depth):
            at = f"{name}.layers.{i}"
            given = received[at]
            arrays = {"x": given[0][:, :states]} if name == "encoder" else {"x": given[0], "memory": given[1]}
            made = _rerun(model.get_submodule(f"model.{at}"), *arrays.values())
            yield Seen(at, part.block, inner(at, trained.weights), arrays, {}, {"output": made})


def _received(model: nn.Module, sound: np.ndarray, tokens: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return the tokens, and in the decoder the memory, that reached each block."""
    caught: dict[str, list[np.ndarray]] = {}

    def catch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            given = inspect.signature(module.forward).bind(*args, **named).arguments
            arrays = [given["hidden_states"], given.get("encoder_hidden_states")]
            caught[name] = [array.numpy().copy() for array in arrays if array is not None]

        return hook

    with ExitStack() as stack:
        for side in ("encoder", "decoder"):
            for i, block in enumerate(model.get_submodule(f"model.{side}.layers").children()):
                hook = block.register_forward_pre_hook(catch(f"{side}.layers.{i}"), with_kwargs=True)
                _ = stack.callback(hook.remove)
        _ = logits(model, sound, tokens)
    return caught


@torch.no_grad()
def _rerun(block: nn.Module, x: np.ndarray, memory: np.ndarray | None = None) -> np.ndarray:
    hidden = torch.from_numpy(x.copy())
    if memory is None:
        made = block(hidden, attention_mask=None)
    else:
        t = hidden.shape[1]
        # Theirs is added to the scores.
        mask = torch.full((t, t), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        made = block(hidden, attention_mask=mask, encoder_hidden_states=torch.from_numpy(memory))
    return (made[0] if isinstance(made, tuple) else made).numpy()
