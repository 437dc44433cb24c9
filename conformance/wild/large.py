"""Measures the tools on models at their real size: `python -m conformance.wild.large [CASE ...] [--json PATH]`.

    small       2 blocks of width 64, wrong: compare, locate and name the mistake
    match-1b    parameters of 1.1 billion numbers under equal names and values
    125m        a Llama of 125 million parameters beside itself in NNX, outputs alone
    125m-grad   the same with gradients
    layers-1b   a Llama of 1.1 billion parameters, block by block and whole

Each case runs in a process of its own; its CPU seconds beyond the imports, its wall seconds and its peak of memory are printed.
Weights are random: nothing is fetched. The machine should be idle, for wall time and memory are those of one process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from transformers import LlamaConfig as _LlamaConfig
from transformers import LlamaForCausalLM

from attention import parity

SIZES = {
    "small": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128},
    "125m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "vocab_size": 32000},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000},
}
HEADS = {"small": (4, 2), "125m": (12, 12), "1b": (32, 4)}


# transformers' configs take more than their signatures tell.
LlamaConfig: Any = _LlamaConfig


class Norm(nnx.Module):
    """RMS norm."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight, self.eps = nnx.Param(jnp.ones(width)), eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * self.weight


class Layer(nnx.Module):
    """One block of a Llama, with the names of transformers' modules."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        def linear(rows: int, columns: int) -> nnx.Linear:
            return nnx.Linear(rows, columns, use_bias=False, rngs=rngs)

        width, self.heads, self.kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.size = width // self.heads
        self.input_layernorm = Norm(width, config.rms_norm_eps)
        self.q_proj, self.o_proj = linear(width, width), linear(width, width)
        self.k_proj, self.v_proj = linear(width, self.kv_heads * self.size), linear(width, self.kv_heads * self.size)
        self.post_attention_layernorm = Norm(width, config.rms_norm_eps)
        self.gate_proj, self.up_proj = linear(width, config.intermediate_size), linear(width, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, width)

    def __call__(self, x: jax.Array, angles: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        y = self.input_layernorm(x)
        q, k, v = (
            f(y).reshape(batch, length, n, self.size)
            for f, n in ((self.q_proj, self.heads), (self.k_proj, self.kv_heads), (self.v_proj, self.kv_heads))
        )
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (jnp.repeat(a, self.heads // self.kv_heads, 2) for a in (k, v))
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * self.size**-0.5
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v).reshape(batch, length, width)
        x = x + self.o_proj(mixed)
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(jax.nn.silu(self.gate_proj(y)) * self.up_proj(y))


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Return queries or keys, (B, T, H, D), turned by angles (T, D)."""
    first, second = jnp.split(x, 2, -1)
    turned = jnp.concatenate([-second, first], -1)
    return x * jnp.cos(angles)[:, None] + turned * jnp.sin(angles)[:, None]


class Llama(nnx.Module):
    """The port: the same model in NNX, with a mistake if it is asked for."""

    def __init__(self, config: Any, *, wrong: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.embed_tokens = nnx.Embed(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs) for _ in range(config.num_hidden_layers)])
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nnx.Linear(config.hidden_size, config.vocab_size, use_bias=False, rngs=rngs)
        self.size, self.base = config.hidden_size // config.num_attention_heads, 5000.0 if wrong else 10000.0

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        powers = jnp.arange(0, self.size, 2) / self.size
        angles = jnp.arange(input_ids.shape[1])[:, None] / self.base**powers
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, jnp.concatenate([angles, angles], -1))
        return self.lm_head(self.norm(x))


def pair(size: str, *, wrong: bool = False) -> tuple[LlamaForCausalLM, Llama, dict[str, np.ndarray]]:
    """Return a Llama of transformers, its port, and tokens."""
    heads, kv_heads = HEADS[size]
    _ = torch.manual_seed(0)
    config: Any = LlamaConfig(
        **SIZES[size], num_attention_heads=heads, num_key_value_heads=kv_heads, attn_implementation="eager", rope_theta=1e4
    )
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 32))
    first, second = LlamaForCausalLM(config).eval(), Llama(config, wrong=wrong)
    loaded(first, second)
    return first, second, {"input_ids": tokens}


def loaded(first: LlamaForCausalLM, second: Llama) -> None:
    """Give the port the parameters of the model: by name, kernels transposed."""
    given = {name.removeprefix("model."): value for name, value in first.state_dict().items()}
    state = nnx.state(second, nnx.Param)
    for path, param in nnx.to_flat_state(state):
        names = [str(part) for part in path if part not in ("kernel", "embedding", "weight")]
        [value] = [x for name, x in given.items() if shortened(name) == ".".join(names)]
        param.set_value(jnp.asarray(value.numpy().T if path[-1] == "kernel" else value.numpy()))
    nnx.update(second, state)


def shortened(name: str) -> str:
    """Return a name of the model as the port has it."""
    return name.replace("self_attn.", "").replace("mlp.", "").removesuffix(".weight")


def small() -> str:
    """Return what is said of a small port with another rotary base."""
    first, second, inputs = pair("small", wrong=True)
    found = parity.full_comparison(first, second, inputs)
    return f"{found.verdict}; {found.named[0] if found.named else 'not named'}".splitlines()[0]


def match_1b() -> str:
    """Return the first line of the parameter map."""
    first, second, _ = pair("1b")
    return str(parity.match(first, second)).splitlines()[0]


def medium(*, gradients: bool) -> str:
    """Return the verdict on a right port."""
    first, second, inputs = pair("125m")
    return parity.compare(first, second, inputs, gradients=gradients).verdict


def layers_1b() -> str:
    """Return the last line of the report by blocks."""
    first, second, inputs = pair("1b")
    return str(parity.layerwise(first, second, inputs)).rstrip().rpartition("\n")[2]


CASES: dict[str, Callable[[], str]] = {
    "small": small,
    "match-1b": match_1b,
    "125m": lambda: medium(gradients=False),
    "125m-grad": lambda: medium(gradients=True),
    "layers-1b": layers_1b,
}


def measured(case: str) -> dict[str, Any]:
    """Run one case in this process."""
    cpu, wall, before = time.process_time(), time.monotonic(), peak()
    said = CASES[case]()
    return {
        "case": case,
        "said": said,
        "cpu_s": round(time.process_time() - cpu, 1),
        "wall_s": round(time.monotonic() - wall, 1),
        "peak_gb": round(peak(), 2),
        "imports_gb": round(before, 2),
    }


def peak() -> float:
    """Return the most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(arguments: list[str]) -> int:
    """Run each case in a process of its own, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _ = parser.add_argument("cases", nargs="*", default=[*CASES])
    _ = parser.add_argument("--json", type=Path)
    _ = parser.add_argument("--here", action="store_true", help="run the one case in this process, and print JSON")
    chosen = parser.parse_args(arguments)
    if chosen.here:
        print(json.dumps(measured(chosen.cases[0])))  # noqa: T201
        return 0
    found: list[dict[str, Any]] = []
    for case in chosen.cases:
        command = [sys.executable, "-m", "conformance.wild.large", case, "--here"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            print(f"{case}: failed\n{done.stderr[-2000:]}")  # noqa: T201
            return 1
        found.append(json.loads(done.stdout.rstrip().rpartition("\n")[2]))
        print("{case:10} {cpu_s:7.1f} s of CPU {wall_s:7.1f} s {peak_gb:6.2f} GB   {said}".format(**found[-1]), flush=True)  # noqa: T201
        if chosen.json is not None:
            _ = chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
