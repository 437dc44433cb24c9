"""A Llama in Flax NNX, written for the tests as somebody would port it: other names, other signatures, kernels (in, out)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Attention(nnx.Module):
    def __init__(self, config: Any, *, dtype: Any, base: float | None, rngs: nnx.Rngs) -> None:
        width, self.width = config.hidden_size, config.hidden_size // config.num_attention_heads
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.base = base or config.rope_parameters["rope_theta"]

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, param_dtype=dtype, rngs=rngs)

        self.query = linear(width, self.heads * self.width)
        self.key = linear(width, self.kv_heads * self.width)
        self.value = linear(width, self.kv_heads * self.width)
        self.out = linear(self.heads * self.width, width)

    def __call__(self, x: Any, positions: Any) -> Any:
        B, T, _ = x.shape
        q = self.rotated(self.query(x).reshape(B, T, self.heads, -1), positions)
        k = self.rotated(self.key(x).reshape(B, T, self.kv_heads, -1), positions)
        v = self.value(x).reshape(B, T, self.kv_heads, -1)
        q = q.reshape(B, T, self.kv_heads, -1, self.width)
        scores = jnp.einsum("btkgd,bskd->bkgts", q, k) / np.sqrt(self.width)
        allowed = positions[:, :, None] >= positions[:, None, :]
        weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, -jnp.inf), axis=-1)
        return self.out(jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(B, T, -1))

    def rotated(self, x: Any, positions: Any) -> Any:
        rates = 1.0 / self.base ** (jnp.arange(0, self.width, 2) / self.width)
        angles = (positions[..., None] * rates)[:, :, None]
        first, second = jnp.split(x, 2, axis=-1)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Mlp(nnx.Module):
    def __init__(self, config: Any, *, dtype: Any, rngs: nnx.Rngs) -> None:
        wide = {"use_bias": False, "param_dtype": dtype, "rngs": rngs}
        self.gate = nnx.Linear(config.hidden_size, config.intermediate_size, **wide)
        self.up = nnx.Linear(config.hidden_size, config.intermediate_size, **wide)
        self.down = nnx.Linear(config.intermediate_size, config.hidden_size, **wide)

    def __call__(self, x: Any) -> Any:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    def __init__(self, config: Any, *, dtype: Any, base: float | None, eps: float, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.RMSNorm(config.hidden_size, epsilon=eps, param_dtype=dtype, rngs=rngs)
        self.attention = Attention(config, dtype=dtype, base=base, rngs=rngs)
        self.norm2 = nnx.RMSNorm(config.hidden_size, epsilon=eps, param_dtype=dtype, rngs=rngs)
        self.mlp = Mlp(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Any, positions: Any) -> Any:
        x = x + self.attention(self.norm1(x), positions)
        return x + self.mlp(self.norm2(x))


class Llama(nnx.Module):
    """The port. `bases` and `eps` plant mistakes in single layers."""

    def __init__(
        self,
        config: Any,
        *,
        bases: dict[int, float] | None = None,
        eps: dict[int, float] | None = None,
        dtype: Any = jnp.float32,
    ) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(config.vocab_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [
                Layer(
                    config,
                    dtype=dtype,
                    base=(bases or {}).get(i),
                    eps=(eps or {}).get(i) or config.rms_norm_eps,
                    rngs=rngs,
                )
                for i in range(config.num_hidden_layers)
            ]
        )
        self.norm = nnx.RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, param_dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(config.hidden_size, config.vocab_size, use_bias=False, param_dtype=dtype, rngs=rngs)

    def __call__(self, input_ids: Any) -> Any:
        positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, positions)
        return {"logits": self.head(self.norm(x))}


NAMES = {
    "norm1.scale": "input_layernorm.weight",
    "norm2.scale": "post_attention_layernorm.weight",
    "attention.query.kernel": "self_attn.q_proj.weight",
    "attention.key.kernel": "self_attn.k_proj.weight",
    "attention.value.kernel": "self_attn.v_proj.weight",
    "attention.out.kernel": "self_attn.o_proj.weight",
    "mlp.gate.kernel": "mlp.gate_proj.weight",
    "mlp.up.kernel": "mlp.up_proj.weight",
    "mlp.down.kernel": "mlp.down_proj.weight",
}


def ported(model: Any, **more: Any) -> Llama:
    """Return the port of a transformers Llama, with its weights."""
    # Without values of its own, which would be drawn for nothing.
    made = nnx.eval_shape(lambda: Llama(model.config, **more))
    theirs = dict(model.named_parameters())
    for path, variable in nnx.to_flat_state(nnx.state(made, nnx.Param)):
        name = ".".join(map(str, path))
        if name.startswith("layers."):
            _, i, rest = name.split(".", 2)
            tensor = theirs[f"model.layers.{i}.{NAMES[rest]}"]
        else:
            other = {
                "embed.embedding": "model.embed_tokens.weight",
                "norm.scale": "model.norm.weight",
                "head.kernel": "lm_head.weight",
            }
            tensor = theirs[other[name]]
        array = tensor.detach().numpy()
        variable.set_value(jnp.asarray(array.T if name.endswith("kernel") else array))
    return made
