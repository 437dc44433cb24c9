"""Valid calls: one of every public callable, from which odd ones are made by replacing an argument.

ARGUMENTS["spec.Window"]() = {"before": 1, "after": 0}        what has a default may be left out
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import attention
from attention import jax_impl, parity, spec, torch_impl
from attention.spec.axes import Sizes
from parity_tests.support.checkpoint_calls import CHECKPOINTS

SIZES = Sizes((2,), 3, 3, 2, 2, 4, 4)
MHA = spec.MultiHeadAttention(8, 2)
FFN = spec.FeedForward(8, 4)
ENCODER = spec.EncoderBlock(MHA, FFN)
DECODER = spec.DecoderBlock(MHA, MHA, FFN)
CONTRACTS: dict[str, Any] = {
    "AlignmentAttention": spec.AlignmentAttention(8, 8),
    "Decoder": spec.Decoder(DECODER, 1),
    "DecoderBlock": DECODER,
    "DifferentialAttention": spec.DifferentialAttention(8, 1, 1),
    "Encoder": spec.Encoder(ENCODER, 1),
    "EncoderBlock": ENCODER,
    "FeedForward": FFN,
    "LatentAttention": spec.LatentAttention(8, 2, 4, 2, 2, 2),
    "LinearAttention": spec.LinearAttention(8, 2),
    "MultiHeadAttention": spec.MultiHeadAttention(8, 2, positions=spec.Rotary()),
}


def zeros(*shape: int) -> np.ndarray:
    """Return small numbers, none of them 0."""
    return (np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 7 - 3.5) / 8


NATIVE: dict[str, Callable[[Any], Any]] = {"torch_impl": torch.as_tensor, "jax_impl": jnp.asarray}


def attended(backend: str) -> dict[str, Any]:
    """Return q, k and v in a framework."""
    return {name: NATIVE[backend](zeros(2, 3, 2, 4)) for name in "qkv"}


def tokens(backend: str, *names: str) -> dict[str, Any]:
    """Return tokens in a framework."""
    return {name: NATIVE[backend](zeros(2, 3, 8)) for name in names}


def dense(backend: str = "") -> Any:
    """Return a mask with an array."""
    del backend
    return spec.DenseMask(np.ones((3, 3), bool))


def weights_of(contract: Any) -> Any:
    """Return first weights."""
    return contract.init(0)


class Double(torch.nn.Module):
    """A program with a parameter, in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def torch_double(x: Any) -> Any:
    """Return twice `x`."""
    return x * 2


def jax_double(x: Any) -> Any:
    """Return twice `x`."""
    return x * 2


def cached_whole(params: Any, tokens: Any, positions: Any) -> Any:
    """Return the outputs of a model that looks at nothing but its token."""
    del params
    return jnp.sin(jnp.stack([tokens, positions], axis=-1).astype(jnp.float32))


def cached_step(params: Any, cache: Any, tokens: Any, positions: Any) -> Any:
    """Return the same, with the cache that it does not need."""
    return cached_whole(params, tokens, positions), cache


def no_cache(batch: int, length: int) -> tuple[int, int]:
    """Return a cache that holds nothing."""
    return batch, length


def raises(x: Any) -> Any:
    """Raise, as a program may."""
    raise ArithmeticError(f"{type(x).__name__}, and it is over")


PAIRS = frozenset(
    {"parity.full_comparison", "parity.compare", "parity.diagnose", "parity.locate", "parity.match", "parity.worst_input"}
)
"""Calls that run two programs, which takes long if both succeed."""

X = np.linspace(-1, 1, 3, dtype=np.float32)


def pair(**more: Any) -> dict[str, Any]:
    """Return two programs and their inputs."""
    return {"torch_side": torch_double, "jax_side": jax_double, **more}


@cache
def probe() -> Any:
    """Return a probe of the smallest of contracts."""
    return parity.probes(spec.FeedForward(2, 2))[0]


def recipe() -> dict[str, Any]:
    """Return the arguments of a recipe."""

    def loss(model: Any, batch: Any, seed: Any) -> Any:
        del seed
        return (model(batch["x"]) ** 2).mean()

    return {
        "architecture": FFN,
        "models": {"torch": torch_impl.FeedForward, "jax": jax_impl.FeedForward},
        "losses": {"torch": loss, "jax": loss},
        "optimizer": spec.optimizers.SGD(0.1),
        "batches": lambda _: {"x": zeros(2, 3, 8)},
        "steps": 1,
    }


def step_params() -> dict[str, Any]:
    """Return parameters by name."""
    return {"p": zeros(2, 3)}


HEADS = {"num_kv_heads": 1, "head_dim": 2}


def cache_of(backend: str, kind: str) -> dict[str, Any]:
    """Return the arguments of a cache's constructor."""
    module = {"torch_impl": torch_impl, "jax_impl": jax_impl}[backend]
    made = {
        "StaticCache": lambda: module.StaticCache.make(1, 4, **HEADS),
        "RollingCache": lambda: module.RollingCache.make(1, 4, **HEADS),
        "PagedCache": lambda: module.PagedCache.make([[0, 1]], 2, 2, **HEADS),
    }[kind]()
    return {part.name: getattr(made, part.name) for part in fields(made)}


ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "attention.save": lambda: {"path": "odd.safetensors", "contract": FFN, "weights": FFN.init(0)},
    "attention.load": lambda: {"path": saved()},
    **dict.fromkeys(
        (
            "spec.optimizers.SGD",
            "spec.optimizers.Adafactor",
            "spec.optimizers.Adagrad",
            "spec.optimizers.Adam",
            "spec.optimizers.Lion",
            "spec.optimizers.RMSprop",
        ),
        lambda: {"learning_rate": 0.1},
    ),
    "spec.optimizers.SGD.init": lambda: {"xp": np, "params": step_params()},
    "spec.optimizers.RMSprop.init": lambda: {"xp": np, "params": step_params()},
    "spec.optimizers.Adafactor.init": lambda: {"xp": np, "params": step_params()},
    "spec.optimizers.Adafactor.factored": lambda: {"shape": (3, 7)},
    "spec.optimizers.SGD.spares": lambda: {"rank": 1},
    "spec.optimizers.SGD.step": lambda: {
        "xp": np,
        "params": step_params(),
        "gradients": step_params(),
        "state": spec.optimizers.SGD(0.1, momentum=0.5).init(np, step_params()),
    },
    "spec.AlignmentAttention": lambda: {"query_dim": 8},
    **dict.fromkeys(("spec.masks.And", "spec.masks.Or"), lambda: {"left": spec.Causal(), "right": dense()}),
    "spec.masks.Not": lambda: {"mask": dense()},
    "spec.Chunked": lambda: {"size": 2},
    "spec.optimizers.Clip": lambda: {"most": 1.0},
    "spec.optimizers.Clip.clipped": lambda: {"xp": np, "gradients": step_params()},
    "spec.optimizers.CosineRate": lambda: {"first": 0.1, "steps": 3},
    "spec.optimizers.LinearRate": lambda: {"first": 0.1, "last": 0.0, "steps": 3},
    "spec.optimizers.WarmUp": lambda: {"steps": 2, "then": 0.1},
    **{f"spec.optimizers.{name}.rate": lambda: {"count": 1} for name in ("CosineRate", "LinearRate", "WarmUp")},
    "spec.Decoder": lambda: {"block": DECODER, "depth": 1},
    "spec.Encoder": lambda: {"block": ENCODER, "depth": 1},
    "spec.DecoderBlock": lambda: {"self_attention": MHA, "cross_attention": MHA, "feed_forward": FFN},
    "spec.EncoderBlock": lambda: {"attention": MHA, "feed_forward": FFN},
    "spec.DenseMask": lambda: {"array": np.ones((3, 3), bool)},
    "spec.DifferentialAttention": lambda: {"embed_dim": 8, "num_heads": 1, "depth": 1},
    "spec.DynamicNTKScaling": lambda: {"factor": 2.0, "max_positions": 4},
    "spec.FeedForward": lambda: {"embed_dim": 8, "hidden_dim": 4},
    "spec.LatentAttention": lambda: {
        "embed_dim": 8,
        "num_heads": 2,
        "kv_rank": 4,
        "nope_dim": 2,
        "rope_dim": 2,
        "value_dim": 2,
    },
    "spec.Lengths": lambda: {"kv": [3, 2]},
    "spec.LinearScaling": lambda: {"factor": 2.0},
    "spec.LinearAttention": lambda: {"embed_dim": 8, "num_heads": 2},
    "spec.Llama3Scaling": lambda: {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_positions": 8},
    "spec.LongRopeScaling": lambda: {
        "short_factor": (1.0, 1.0),
        "long_factor": (2.0, 2.0),
        "original_max_positions": 4,
        "factor": 2.0,
    },
    "spec.MultiHeadAttention": lambda: {"embed_dim": 8, "num_heads": 2},
    "spec.Param": lambda: {"shape": (2, 3), "axes": "MD"},
    **dict.fromkeys(("spec.PerHead", "spec.PerRow"), lambda: {"masks": (spec.Causal(), dense())}),
    "spec.Placed": lambda: {"mask": spec.Causal(), "query_positions": np.arange(3), "key_positions": np.arange(3)},
    "spec.Prefix": lambda: {"length": 2},
    "spec.RelativeKeys": lambda: {"max_distance": 2},
    "spec.kernels.Request": lambda: {**attended("torch_impl"), "sizes": SIZES, "dtype": "float32", "scale": 1.0},
    "spec.Segments": lambda: {"kv": [[0, 0, 1]]},
    "spec.masks.Schedule.of": lambda: {"kinds": 2},
    "spec.Window": lambda: {"before": 1, "after": 0},
    "spec.YarnScaling": lambda: {"factor": 2.0, "original_max_positions": 8},
    "spec.attend": lambda: {"xp": np, "scale": 1.0, **{n: zeros(2, 3, 2, 4) for n in "qkv"}},
    "spec.cast": lambda: {"weights": step_params(), "dtype": "float16"},
    "spec.kernels.choose": lambda: {
        "kernels": torch_impl.kernels.KERNELS,
        "request": spec.kernels.Request(**attended("torch_impl"), sizes=SIZES, dtype="float32", scale=1.0),
    },
    "spec.masks.schedule": lambda: {"mask": spec.Causal(), "sizes": SIZES, "tile": (2, 2)},
    **{f"spec.{name}.factor": lambda: {"head_dim": 4} for name in ("Dot", "ScaledDot", "Cosine", "Additive", "General")},
    **{f"spec.{n}.params": lambda: {"query_width": 4, "key_width": 4} for n in ("Additive", "Concat", "General")},
    "spec.Cosine.params": lambda: {"heads": 2},
    **{f"spec.{name}.params": lambda: {"heads": 2, "head_dim": 4} for name in ("Alibi", "RelativeBias", "RelativeKeys")},
    "spec.Alibi.rates": lambda: {"heads": 2},
    **{f"spec.{name}.params": lambda: {"width": 4} for name in ("L2Norm", "LayerNorm", "RMSNorm")},
    "spec.AlignmentAttention.build": lambda: {"backend": "torch"},
    "spec.AlignmentAttention.init": lambda: {"seed": 0},
    **{f"spec.AlignmentAttention.{n}": lambda: {"arrays": queries()} for n in ("optional", "results", "resolve")},
    **{f"spec.AlignmentAttention.{n}": lambda: {"arrays": queries("query", "key")} for n in ("results", "resolve")},
    "spec.AlignmentAttention.sizes": lambda: queries("query", "key", "value"),
    **{
        f"spec.{kind}.{n}": lambda: {"arrays": queries()}
        for kind in ("MultiHeadAttention", "DifferentialAttention", "LinearAttention")
        for n in ("optional", "results", "resolve", "sizes_of")
    },
    "spec.MultiHeadAttention.sizes": lambda: queries("query", "key", "value"),
    "spec.LinearAttention.check_state": lambda: {"state": None, "sizes": SIZES, "dtype": "float32", "carries": False},
    "spec.LinearAttention.state_shape": lambda: {"sizes": SIZES},
    "spec.LatentAttention.chosen": lambda: {"form": "auto", "cache": None, "x": zeros(2, 3, 8)},
    "spec.LatentAttention.sizes": lambda: queries("x"),
    **{
        f"spec.{kind}.{n}": lambda: {"arrays": queries("x")}
        for kind in ("LatentAttention", "FeedForward", "EncoderBlock")
        for n in ("results", "resolve")
    },
    **{
        f"spec.{kind}.{n}": lambda: {"arrays": queries("x", "memory")}
        for kind in ("Decoder", "DecoderBlock")
        for n in ("results", "resolve", "check")
    },
    **{f"spec.{kind}.calls": lambda: {"call": {}} for kind in ("EncoderBlock", "DecoderBlock")},
    "spec.AxialRotary.grid": lambda: {"height": 2, "width": 2},
    **{
        f"spec.{kind}.{n}": lambda: {"head_dim": 4}
        for kind in ("Rotary", "AxialRotary")
        for n in ("constants", "frequencies", "width")
    },
    "spec.Rotary.tables": lambda: {"positions": np.arange(3), "head_dim": 4},
    "spec.AxialRotary.tables": lambda: {"positions": np.zeros((3, 2), int), "head_dim": 4},
    **{f"spec.{kind}.check": lambda: {"width": 4} for kind in ("DynamicNTKScaling", "LongRopeScaling")},
    **{
        f"spec.{kind}.constants": lambda: {"base": 10_000.0, "width": 4}
        for kind in ("DynamicNTKScaling", "LongRopeScaling", "LinearScaling", "Llama3Scaling", "YarnScaling")
    },
    "spec.Segments.from_cu_seqlens": lambda: {"cu_seqlens": [0, 2, 3]},
    "spec.Segments.from_positions": lambda: {"positions": [[0, 1, 0]]},
    "spec.DenseMask.from_additive": lambda: {"bias": np.zeros((3, 3), np.float32)},
    **{f"spec.DenseMask.{n}": lambda: {"attention_mask": np.ones((2, 3, 3), bool)} for n in ("from_keras",)},
    "spec.DenseMask.from_huggingface": lambda: {"attention_mask": np.ones((2, 3), int)},
    "spec.DenseMask.from_flax": lambda: {"mask": np.ones((2, 1, 3, 3), bool)},
    "spec.DenseMask.from_sdpa": lambda: {"attn_mask": np.ones((3, 3), bool)},
    "spec.DenseMask.from_torch_attn_mask": lambda: {"attn_mask": np.zeros((3, 3), bool), "num_heads": 2},
    "spec.DenseMask.from_torch_key_padding_mask": lambda: {"key_padding_mask": np.zeros((2, 3), bool)},
    "parity.Call.map": lambda: {"function": lambda _, leaf: leaf},
    "parity.Call.of": lambda: {"inputs": X},
    "parity.ParamMap.backward": lambda: {"arrays": {}},
    "parity.ParamMap.forward": lambda: {"arrays": {}},
    "parity.ParamMap.gradients": lambda: {"first": {}, "second": {}},
    "parity.ParamMap.to_json": lambda: {"path": "odd.json"},
    "parity.ParamMap.from_json": lambda: {"path": mapped()},
    "parity.Report.to_json": lambda: {"path": "odd.json"},
    "parity.Report.to_html": lambda: {"path": "odd.html"},
    "parity.Report.advised": lambda: {"advice": "nothing"},
    "parity.FullComparison.to_html": lambda: {"path": "odd.html"},
    "parity.Probe": lambda: {
        "name": "odd",
        "contract": FFN,
        "dtype": "float32",
        "weights": FFN.init(0),
        "arrays": queries("x"),
        "cotangents": {"output": zeros(2, 3, 8)},
    },
    "parity.Recipe": recipe,
    "parity.Recipe.batch": lambda: {"step": 0},
    "parity.Recipe.dropout_seed": lambda: {"step": 0},
    "parity.recipe_for": lambda: {"contract": FFN, "steps": 1, "optimizer": spec.optimizers.SGD(0.1)},
    "parity.RecordedLayer": lambda: {"name": "odd", "contract": FFN, "weights": FFN.init(0), "arrays": queries("x")},
    "parity.Training.to_json": lambda: {"path": "odd.json"},
    "parity.Training.plot": lambda: {"path": "odd.png"},
    "parity.assert_close": lambda: {"actual": X, "expected": X, "budget": 1e-6},
    "parity.budget": lambda: {"program": jax_double, "arguments": (X,), "dtype": "float32", "runs": 1},
    "parity.check": lambda: {"contract": spec.FeedForward(2, 2), "backends": ("numpy",)},
    "parity.check_probe": lambda: {"subject": "odd", "probe": probe(), "backends": ("numpy",)},
    "parity.full_comparison": lambda: pair(inputs=X),
    "parity.compare": lambda: pair(inputs=X),
    "parity.CachedModel": lambda: {"step": cached_step, "init_cache": no_cache, "whole": cached_whole},
    "parity.Decoding.to_json": lambda: {"path": "odd.json"},
    "parity.compare_decoding": lambda: {
        "torch_side": parity.CachedModel(cached_step, no_cache, cached_whole),
        "jax_side": None,
        "tokens": np.ones((2, 3), int),
    },
    "parity.LogitsComparison.to_json": lambda: {"path": "odd.json"},
    "parity.LogitsComparison.plot": lambda: {"path": "odd.png"},
    "parity.compare_logits": lambda: {"actual": zeros(2, 3, 5), "expected": zeros(2, 3, 5)},
    "parity.locate": lambda: pair(inputs=X),
    "parity.match": lambda: pair(call=X),
    "parity.diagnose": lambda: pair(contract=spec.FeedForward(2, 2)),
    "parity.diagnose_step": lambda: {
        "first": spec.optimizers.SGD(0.1),
        "second": spec.optimizers.SGD(0.1),
        "contract": spec.optimizers.SGD(0.1),
    },
    "parity.differentiated": lambda: {"program": jax_double},
    "parity.expect": lambda: {"probe": probe(), "runs": 1},
    "parity.judge": lambda: {"name": "odd", "got": X, "wanted": X, "sigma": np.ones(3)},
    "parity.record_model": lambda: {"path": "odd.safetensors", "model": linear(), "inputs": X},
    "parity.recorded_model": lambda: {"path": golden()},
    "parity.RecordedModel": lambda: {"recording": parity.recorded_model(golden()).recording},
    "parity.layerwise": lambda: {"torch_model": [], "backends": ("numpy",), "runs": 1},
    "parity.probes": lambda: {"contract": spec.FeedForward(2, 2)},
    "parity.program": lambda: {"side": jax_double},
    "parity.rounding": lambda: {"dtype_name": "float32"},
    "parity.stored": lambda: {"x": jnp.asarray(X)},
    "parity.stored_gradient": lambda: {"x": jnp.asarray(X)},
    "parity.worst_input": lambda: pair(inputs=X, tries=2),
    "parity.tolerances": lambda: {"side": jax_double, "inputs": X, "gradients": False},
    "parity.train": lambda: {"recipe": parity.Recipe(**recipe()), "replicas": 1},
}


def queries(*names: str) -> dict[str, np.ndarray]:
    """Return NumPy tokens."""
    return {name: zeros(2, 3, 8) for name in names or ("query",)}


def both_backends() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the valid calls that both frameworks have."""
    inputs: dict[str, tuple[str, ...]] = {
        "AlignmentAttention": ("query", "key"),
        "Decoder": ("x", "memory"),
        "DecoderBlock": ("x", "memory"),
        "DifferentialAttention": ("query",),
        "Encoder": ("x",),
        "EncoderBlock": ("x",),
        "FeedForward": ("x",),
        "LatentAttention": ("x",),
        "LinearAttention": ("query",),
        "MultiHeadAttention": ("query",),
    }
    for backend, call in (("torch_impl", "forward"), ("jax_impl", "__call__")):
        yield f"{backend}.dot_product_attention", lambda backend=backend: attended(backend)
        yield f"{backend}.explain", lambda backend=backend: attended(backend)
        yield f"{backend}.compiled", lambda backend=backend: {"layer": instance(f"{backend}.FeedForward")}
        yield (
            f"{backend}.optimizer",
            lambda backend=backend: {"step": spec.optimizers.SGD(0.1), "layer": instance(f"{backend}.FeedForward")},
        )
        yield f"{backend}.seed_at", lambda: {"seed": 3, "name": "here"}
        for name, contract in CONTRACTS.items():
            yield f"{backend}.{name}", lambda contract=contract: {"contract": contract}
            yield f"{backend}.{name}.{call}", lambda backend=backend, name=name: tokens(backend, *inputs[name])
            yield f"{backend}.{name}.load_weights", lambda contract=contract: {"weights": weights_of(contract)}
            yield f"{backend}.{name}.drop", lambda backend=backend: {**tokens(backend, "x"), "rate": 0.5, "seed": 1}
            yield f"{backend}.{name}.build_parts", lambda: {"dtype": "float32"}
        for kind in ("StaticCache", "RollingCache", "PagedCache"):
            yield f"{backend}.{kind}", lambda backend=backend, kind=kind: cache_of(backend, kind)
            yield f"{backend}.{kind}.append", lambda backend=backend: {n: NATIVE[backend](zeros(1, 2, 1, 2)) for n in "kv"}
            yield f"{backend}.{kind}.check", lambda: {"mask": spec.Window(1, 0)}
            yield f"{backend}.{kind}.sizes_of", lambda backend=backend: {n: NATIVE[backend](zeros(1, 2, 1, 2)) for n in "kv"}
            yield f"{backend}.{kind}.place", lambda: {"positions": None, "t": 2}
            yield f"{backend}.{kind}.upcoming", lambda: {"t": 2}
        yield f"{backend}.StaticCache.make", lambda: {"batch": 1, "capacity": 4, **HEADS}
        yield f"{backend}.RollingCache.make", lambda: {"batch": 1, "window": 4, **HEADS}
        yield f"{backend}.PagedCache.make", lambda: {"block_table": [[0, 1]], "num_blocks": 2, "block_size": 2, **HEADS}
        yield f"{backend}.PagedCache.assign", lambda: {"block_table": [[1, 0]]}


ARGUMENTS |= dict(both_backends()) | {f"checkpoints.{name}": make for name, make in CHECKPOINTS.items()}


@cache
def saved() -> str:
    """Return a file with a contract and its weights."""
    attention.save("valid.safetensors", FFN, FFN.init(0))
    return "valid.safetensors"


def linear() -> nnx.Module:
    """Return a model of one layer."""
    return nnx.Linear(X.shape[-1], 2, rngs=nnx.Rngs(0))


def golden() -> str:
    """Return a file with a recorded model."""
    parity.record_model("golden.safetensors", linear(), X)
    return "golden.safetensors"


@cache
def mapped() -> str:
    """Return a file with a map."""
    parity.ParamMap().to_json("valid.json")
    return "valid.json"


@cache
def instance(name: str) -> Any:
    """Return an object of a public class."""
    place, _, kind = name.rpartition(".")
    held = getattr(importlib.import_module(f"attention.{place}"), kind)
    if name in MADE:
        return MADE[name]()
    given = ARGUMENTS.get(name)
    made = held(**(given() if given is not None else {}))
    return made.eval() if isinstance(made, torch.nn.Module) else made


MADE: dict[str, Callable[[], Any]] = {
    "spec.optimizers.SGD": lambda: spec.optimizers.SGD(0.1, momentum=0.5),
    "spec.AlignmentAttention": lambda: spec.AlignmentAttention(8, 8),
    "spec.masks.Schedule": lambda: spec.masks.schedule(spec.Causal(), SIZES, (2, 2)),
    "spec.kernels.Choice": lambda: spec.kernels.Choice(torch_impl.kernels.KERNELS["reference"], ()),
    "parity.Report": lambda: parity.check(spec.FeedForward(2, 2), backends=("numpy",)),
    "parity.FullComparison": lambda: parity.full_comparison(torch_double, jax_double, X),
    "parity.Divergence": lambda: parity.locate(torch_double, jax_double, X),
    "parity.Diagnosis": lambda: parity.diagnose(torch_double, jax_double, spec.FeedForward(2, 2)),
    "parity.Training": lambda: parity.train(parity.Recipe(**recipe()), replicas=1),
    "parity.Made": lambda: parity.Made({}),
    "parity.WorstInput": lambda: parity.worst_input(torch_double, jax_double, X, tries=1),
    "parity.Decoding": lambda: parity.compare_decoding(
        parity.CachedModel(cached_step, no_cache, cached_whole), None, np.ones((2, 3), int)
    ),
    "parity.LogitsComparison": lambda: parity.compare_logits(zeros(2, 3, 5), zeros(2, 3, 5)),
}
