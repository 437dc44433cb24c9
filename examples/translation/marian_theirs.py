"""The same translator out of transformers' own modules, filled by names of its own: what ours is held beside.

    theirs = MarianMTModel with  eps = 1e-6,  Marian's own wavelengths  and  SSRU(x) where decoders attend to themselves

No release of transformers has this cell, so it stands here once more, step by step, as its paper has it. All the rest is
theirs: the attentions, the feed-forward layers, the order of sums and norms, the projection to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attention._extras import require

require("transformers", extra="real", wanted_by="a comparison with its modules")

from transformers import MarianConfig, MarianMTModel  # noqa: E402 - the check above gives the clear line

from attention.parity.pretrained.layerwise import RecordedLayer  # noqa: E402
from attention.spec.params import Weights, inner  # noqa: E402
from examples.checkpoint_readers.marian import Checkpoint  # noqa: E402
from examples.translation import marian  # noqa: E402

LONGEST = 512
"""Places that theirs has a row for."""

ATTENTION = {"q_proj": ("Wq", "bq"), "k_proj": ("Wk", "bk"), "v_proj": ("Wv", "bv"), "out_proj": ("Wo", "bo")}
FEED_FORWARD = {
    "fc1": ("ffn_W1", "ffn_b1"),
    "fc2": ("ffn_W2", "ffn_b2"),
    "final_layer_norm": ("ffn_ffn_ln_scale", "ffn_ffn_ln_bias"),
}
ENCODER = {
    **{f"self_attn.{theirs}": tuple(f"self_{name}" for name in names) for theirs, names in ATTENTION.items()},
    "self_attn_layer_norm": ("self_Wo_ln_scale", "self_Wo_ln_bias"),
    **FEED_FORWARD,
}
DECODER = {
    "self_attn.candidate": ("rnn_W",),
    "self_attn.forget": ("rnn_Wf", "rnn_bf"),
    "self_attn_layer_norm": ("rnn_ffn_ln_scale", "rnn_ffn_ln_bias"),
    **{f"encoder_attn.{theirs}": tuple(f"context_{name}" for name in names) for theirs, names in ATTENTION.items()},
    "encoder_attn_layer_norm": ("context_Wo_ln_scale", "context_Wo_ln_bias"),
    **FEED_FORWARD,
}


class SSRU(nn.Module):
    """A recurrent cell in the place of self-attention: c_t = f_t c_{t-1} + (1 - f_t) W x_t, out = relu(c_t)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.candidate = nn.Linear(width, width, bias=False)
        self.forget = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Return the output `(B, T, M)`, and no weights."""
        cell, outputs = torch.zeros_like(hidden_states[:, 0]), []
        for x in hidden_states.unbind(1):
            keep = torch.sigmoid(self.forget(x))
            cell = keep * cell + (1 - keep) * self.candidate(x)
            outputs.append(torch.relu(cell))
        return torch.stack(outputs, 1), None


def build(model: marian.Marian, checkpoint: Checkpoint) -> MarianMTModel:
    """Return transformers' model with the weights of a Marian file, read by its names and not through our tables."""
    heads, hidden = model.layer.cross_attention.num_heads, model.layer.feed_forward.hidden_dim
    options: dict[str, Any] = {
        "vocab_size": model.vocabulary,
        "d_model": model.width,
        "encoder_layers": model.encoder.depth,
        "decoder_layers": model.depth,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": hidden,
        "decoder_ffn_dim": hidden,
        "activation_function": "relu",
        "scale_embedding": True,
        "max_position_embeddings": LONGEST,
        "pad_token_id": marian.END,
        "eos_token_id": marian.END,
        "decoder_start_token_id": marian.END,
        "attn_implementation": "eager",
    }
    theirs = MarianMTModel(MarianConfig(**options))
    for layer in theirs.model.decoder.layers:
        layer.self_attn = SSRU(model.width)
    places = torch.from_numpy(marian.positions(0, LONGEST, model.width)).float()
    filled = {f"model.{side}.embed_positions.weight": places for side in ("encoder", "decoder")}
    filled |= {name: torch.from_numpy(x) for name, x in _tensors(checkpoint, model)}
    _ = theirs.load_state_dict(filled)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = model.layer.norm.eps
    return theirs.eval()


def _tensors(checkpoint: Checkpoint, model: marian.Marian) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every learned tensor of theirs: `nn.Linear` has its outputs first."""
    for name in ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        yield f"{name}.weight", checkpoint.tensors["Wemb"]
    yield "final_logits_bias", checkpoint.tensors["decoder_ff_logit_out_b"]
    for side, table, depth in (("encoder", ENCODER, model.encoder.depth), ("decoder", DECODER, model.depth)):
        for i in range(depth):
            for theirs, names in table.items():
                for leaf, name in zip(("weight", "bias"), names, strict=False):
                    x = checkpoint.tensors[f"{side}_l{i + 1}_{name}"]
                    yield f"model.{side}.layers.{i}.{theirs}.{leaf}", x[0] if len(x) == 1 else np.ascontiguousarray(x.T)


def run(
    theirs: MarianMTModel, model: marian.Marian, weights: Weights, source: Any, target: Any
) -> tuple[list[RecordedLayer], np.ndarray]:
    """Return every layer with what it received and gave in their run of a known target, and their logits `(1, T, V)`.

    Args:
        theirs: what `build` returned.
        model: the architecture.
        weights: canonical, which ours are given.
        source: tokens `(1, S)`, none of them padding.
        target: tokens `(1, T)`: `START` and what was said.
    """
    got: dict[str, Any] = {}
    gave: dict[str, Any] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            got[name], gave[name] = (*args, kwargs.get("key_value_states")), output

        return module.register_forward_hook(hook, with_kwargs=True)

    inside: Any = theirs.model
    hooks = [watch(f"encoder.layers.{i}", layer) for i, layer in enumerate(inside.encoder.layers)]
    for i, layer in enumerate(inside.decoder.layers):
        parts = {"cross_attn": layer.encoder_attn, "ffn.up": layer.fc1, "ffn.down": layer.fc2}
        hooks += [watch(f"decoder.{i}.{name}", part) for name, part in parts.items()]
    tokens = torch.as_tensor(target)
    begun = (tokens >= 0)[..., None] * inside.shared(tokens.clamp(min=0))
    with torch.no_grad():
        logits = theirs(input_ids=torch.as_tensor(source), decoder_inputs_embeds=begun, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return list(_seen(model, weights, got, gave)), logits.numpy()


def _seen(model: marian.Marian, weights: Weights, got: Mapping[str, Any], gave: Mapping[str, Any]) -> Iterator[RecordedLayer]:
    for i in range(model.encoder.depth):
        name = f"encoder.layers.{i}"
        x, y = got[name][0], gave[name]
        yield RecordedLayer(name, model.encoder.block, inner(name, weights), {"x": x.numpy()}, theirs={"output": y.numpy()})
    for i in range(model.depth):
        name = f"decoder.{i}.cross_attn"
        query, memory = got[name]
        output, looks = (x.numpy() for x in gave[name])
        given = {"query": query.numpy(), "key": memory.numpy()}
        contract = model.layer.cross_attention
        yield RecordedLayer(name, contract, inner(name, weights), given, theirs={"output": output, "weights": looks})
        name = f"decoder.{i}.ffn"
        x, y = got[f"{name}.up"][0], gave[f"{name}.down"]
        yield RecordedLayer(
            name, model.layer.feed_forward, inner(name, weights), {"x": x.numpy()}, theirs={"output": y.numpy()}
        )
