"""Refusals: bad input raises our own error of the exact type and text: argument, value, what is required.

Each call is made in both backends, which say the same; a message names an array's type where the type is the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import spec
from attention.spec.errors import (
    AttentionError,
    DTypeError,
    KernelRefused,
    MaskError,
    OptionError,
    PositionError,
    ShapeError,
    UnknownName,
)
from parity_tests.support.backends import BACKENDS, JAX, TORCH, Backend, each_backend

B, T, S, H, K, D, M = 2, 5, 7, 4, 2, 3, 12
Q, KV = (B, T, H, D), (B, S, K, D)
DTYPES = "float64, float32, bfloat16, float16"
TYPES = {"torch": "Tensor", "jax": "ArrayImpl"}
WAYS = "align='start', align='end' or query_positions"
FIRST = {"torch": "sdpa", "jax": "xla"}
NAMES = {backend.name: ", ".join(backend.module.kernels.KERNELS) for backend in BACKENDS}

Call = Callable[[Backend], Any]
Refusals = dict[str, tuple[Call, type[AttentionError], str]]


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


def core(q: np.ndarray | None = None, k: np.ndarray | None = None, v: np.ndarray | None = None, **options: Any) -> Call:
    """A call of the functional core: what is not given is zeros that fit."""
    given = [zeros(*shape) if x is None else x for x, shape in ((q, Q), (k, KV), (v, KV))]

    def call(backend: Backend) -> Any:
        named = {name: backend.native(x) for name, x in options.items()}
        if "implementation" in named:
            named["implementation"] = named["implementation"].format(first=FIRST[backend.name])
        return backend.module.dot_product_attention(*map(backend.array, given), **named)

    return call


def layer(*inputs: np.ndarray, rotary: bool = False, **options: Any) -> Call:
    """A call of a layer with M = 12."""
    positions = spec.Rotary(rotary_dim=2) if rotary else None
    contract = spec.MultiHeadAttention(embed_dim=M, num_heads=H, kdim=11, positions=positions)

    def call(backend: Backend) -> Any:
        named = {name: backend.native(x) for name, x in options.items()}
        return backend.layer(contract)(*map(backend.array, inputs), **named)

    return call


X, Y = zeros(B, T, M), zeros(B, S, 11)

SHAPES: Refusals = {
    "rank": (core(q=zeros(H, D)), ShapeError, "query (4, 3) must be (*batch, T, H, D): at least three axes"),
    "rank of the value": (
        core(v=zeros(S)),
        ShapeError,
        "value (7,) must be (*batch, S, K, E): at least three axes",
    ),
    "D": (
        core(k=zeros(B, S, K, D + 1)),
        ShapeError,
        "key (2, 7, 2, 4) must be (*batch, S, K, D) with batch = (2,), D = 3 as query has",
    ),
    "batch": (
        core(k=zeros(B + 1, S, K, D)),
        ShapeError,
        "key (3, 7, 2, 3) must be (*batch, S, K, D) with batch = (2,), D = 3 as query has",
    ),
    "S of the value": (
        core(v=zeros(B, T, K, D)),
        ShapeError,
        "value (2, 5, 2, 3) must be (*batch, S, K, E) with batch = (2,), S = 7, K = 2",
    ),
    "H not a multiple of K": (
        core(k=zeros(B, S, 3, D), v=zeros(B, S, 3, D)),
        ShapeError,
        "query (2, 5, 4, 3) must have H = 4 a multiple of K = 3 as key has",
    ),
    "no key head": (
        core(k=zeros(B, S, 0, D), v=zeros(B, S, 0, D)),
        ShapeError,
        "query (2, 5, 4, 3) must have H = 4 a multiple of K = 0 as key has",
    ),
    "bias": (
        core(bias=zeros(H, S, T)),
        ShapeError,
        "bias (4, 7, 5) must broadcast to (*batch, H, T, S) = (2, 4, 5, 7)",
    ),
    "bias with an axis too many": (
        core(bias=zeros(1, B, H, T, S)),
        ShapeError,
        "bias (1, 2, 4, 5, 7) must broadcast to (*batch, H, T, S) = (2, 4, 5, 7)",
    ),
    "sinks": (core(sinks=zeros(K)), ShapeError, "sinks (2,) must be (H,) = (4,)"),
    "M": (layer(zeros(B, T, M + 1), Y), ShapeError, "query (2, 5, 13) must be (*batch, T, M) with M = 12"),
    "M of the key": (layer(X), ShapeError, "key (2, 5, 12) must be (*batch, S, M) with M = 11"),
    "rank in a layer": (layer(zeros(M), Y), ShapeError, "query (12,) must be (*batch, T, M) with M = 12"),
    "batch in a layer": (
        layer(X, zeros(S, 11)),
        ShapeError,
        "key (7, 11) must be (*batch, S, M) with batch = (2,), S = 7",
    ),
    "S of the value in a layer": (
        layer(X, Y, zeros(B, S + 1, 11)),
        ShapeError,
        "value (2, 8, 11) must be (*batch, S, M) with batch = (2,), S = 7",
    ),
}

NUMBERS: Refusals = {
    "integer query": (core(q=zeros(*Q, dtype="int32")), DTypeError, f"query int32 must be one of {DTYPES}"),
    "boolean value": (core(v=zeros(*KV, dtype="bool")), DTypeError, f"value bool must be one of {DTYPES}"),
    "complex key": (core(k=zeros(*KV, dtype="complex64")), DTypeError, f"key complex64 must be one of {DTYPES}"),
    "mixed": (core(k=zeros(*KV, dtype="float16")), DTypeError, "key float16 must be float32 as query is"),
    "boolean bias": (core(bias=zeros(T, S, dtype="bool")), DTypeError, "bias bool must be float32 as query is, or computes in"),
    "bias of another dtype": (
        core(bias=zeros(T, S, dtype="float16")),
        DTypeError,
        "bias float16 must be float32 as query is, or computes in",
    ),
    "integer sinks": (
        core(sinks=zeros(H, dtype="int32")),
        DTypeError,
        "sinks int32 must be float32 as query is, or computes in",
    ),
    "mixed in a layer": (layer(X, Y.astype("float16")), DTypeError, "key float16 must be float32 as query is"),
    "unlike the parameters": (
        layer(X.astype("float16"), Y.astype("float16")),
        DTypeError,
        "parameters float32 must be float16 as query is",
    ),
}

MASKS: Refusals = {
    "an array": (
        core(mask=zeros(T, S, dtype="bool")),
        MaskError,
        "mask {type} must be a Mask: wrap a boolean array as DenseMask(array)",
    ),
    "an array in a layer": (
        layer(X, Y, mask=zeros(T, S, dtype="bool")),
        MaskError,
        "mask {type} must be a Mask: wrap a boolean array as DenseMask(array)",
    ),
    "numbers": (
        lambda backend: spec.DenseMask(backend.array(zeros(T, S))),
        MaskError,
        "DenseMask array float32 must be bool, True = may attend; a mask of 0 and -inf is DenseMask.from_additive(mask)",
    ),
    "integers": (
        lambda backend: spec.DenseMask(backend.array(zeros(T, S, dtype="int32"))),
        MaskError,
        "DenseMask array int32 must be bool, True = may attend",
    ),
    "shape": (
        core(mask=spec.DenseMask(zeros(S, T, dtype="bool"))),
        MaskError,
        "DenseMask array (7, 5) must broadcast to (*batch, H, T, S) = (2, 4, 5, 7)",
    ),
    "lengths beyond S": (core(mask=spec.Lengths(kv=[7, 8])), MaskError, "Lengths kv [7, 8] must be in 0..S = 7"),
    "negative lengths": (core(mask=spec.Lengths(kv=[-1, 2])), MaskError, "Lengths kv [-1, 2] must be in 0..S = 7"),
    "lengths beyond T": (
        core(mask=spec.Causal(align="end") & ~spec.Lengths(kv=[7, 7], q=[6, 0])),
        MaskError,
        "Lengths q [6, 0] must be in 0..T = 5",
    ),
    "lengths of other rows": (
        core(mask=spec.Lengths(kv=[1, 2, 3])),
        MaskError,
        "Lengths kv (3,) must broadcast to (*batch,) = (2,)",
    ),
    "lengths that are no integers": (
        lambda backend: spec.Lengths(kv=backend.array(zeros(B))),
        MaskError,
        "Lengths kv float32 must be integers",
    ),
    "lengths that would be cut": (
        lambda _backend: spec.Lengths(kv=[2.5]),
        MaskError,
        "Lengths kv float64 must be integers",
    ),
    "a length that is a number": (
        lambda _backend: spec.Lengths(kv=5),
        MaskError,
        "Lengths kv 5 must be integers: a list or an array",
    ),
    "a prefix beyond S": (core(mask=spec.Prefix(8)), MaskError, "Prefix length 8 must be in 0..S = 7"),
    "ids of other keys": (
        core(mask=spec.Segments(kv=[[0] * T] * B)),
        MaskError,
        "Segments kv (2, 5) must broadcast to (*batch, S) = (2, 7)",
    ),
    "no ids of queries": (
        core(mask=spec.Segments(kv=[[0] * S] * B)),
        MaskError,
        "Segments with T = 5 and S = 7 must be given q, the ids of the queries",
    ),
    "a diagonal in a layer": (
        layer(X, Y, mask=spec.Causal()),
        MaskError,
        f"Causal with T = 5 queries and S = 7 keys must say where a query stands: {WAYS}",
    ),
    "negative window": (
        lambda _backend: spec.Window(before=-1, after=0),
        OptionError,
        "Window before -1 must be an int >= 0, in keys besides the query's own, or None",
    ),
}

OPTIONS: Refusals = {
    "unknown kernel": (
        core(implementation="flash"),
        UnknownName,
        "implementation 'flash' must be 'auto' or one of {names}",
    ),
    "a kernel that refuses": (
        core(implementation="{first}", softcap=30.0, return_intermediates=("weights",)),
        KernelRefused,
        "kernel '{first}' refuses: has no softcap",
    ),
    "no seed": (
        core(dropout_rate=0.1),
        OptionError,
        "dropout_seed None must be an integer when dropout_rate is 0.1",
    ),
    "rate of 1": (core(dropout_rate=1.0, dropout_seed=0), OptionError, "dropout_rate 1.0 must be in [0, 1)"),
    "negative seed": (core(dropout_rate=0.5, dropout_seed=-1), OptionError, "seed -1 must be in [0, 2**64)"),
    "seed that is no integer": (
        core(dropout_rate=0.5, dropout_seed=0.5),
        OptionError,
        "seed 0.5 must be an int in [0, 2**64), or an integer scalar",
    ),
    "seed in a floating array": (
        core(dropout_rate=0.5, dropout_seed=zeros()),
        OptionError,
        "seed float32 () must be an int in [0, 2**64), or an integer scalar",
    ),
    "many seeds": (
        core(dropout_rate=0.5, dropout_seed=zeros(3, dtype="int32")),
        OptionError,
        "seed int32 (3,) must be an int in [0, 2**64), or an integer scalar",
    ),
    "rate that is no number": (
        core(dropout_rate="half", dropout_seed=0),
        OptionError,
        "dropout_rate 'half' must be in [0, 1)",
    ),
    "unknown intermediate": (
        core(return_intermediates=("probs",)),
        OptionError,
        "return_intermediates 'probs' must be among scaled, capped, scores, masked, weights, mean_weights, logsumexp, context",
    ),
    "soft cap of 0": (core(softcap=0.0), OptionError, "softcap 0.0 must be a positive finite number in float32, or None"),
    "scale that is no number": (
        core(scale="small"),
        OptionError,
        "scale 'small' must be a finite number in float32, or None for 1 / sqrt(D)",
    ),
    "infinite scale": (
        core(scale=float("inf")),
        OptionError,
        "scale inf must be a finite number in float32, or None for 1 / sqrt(D)",
    ),
    "unknown precision": (
        core(precision="tf32"),
        OptionError,
        "precision 'tf32' must be one of None, 'default', 'high', 'highest'",
    ),
    "unknown dtype": (
        lambda backend: backend.layer(spec.MultiHeadAttention(embed_dim=M, num_heads=H), dtype="int8"),
        UnknownName,
        f"dtype 'int8' must be one of {DTYPES}",
    ),
    "unknown intermediate in a layer": (
        layer(X, Y, return_intermediates=("output",)),
        OptionError,
        "return_intermediates 'output' must be among scaled, capped, scores, masked, weights, mean_weights, logsumexp, context",
    ),
    "unknown kernel in a layer": (
        layer(X, Y, implementation="flash"),
        UnknownName,
        "implementation 'flash' must be 'auto' or one of {names}",
    ),
}

POSITIONS: Refusals = {
    "missing": (
        layer(X, Y, rotary=True),
        PositionError,
        "query_positions None must be given: T = 5 queries and S = 7 keys differ",
    ),
    "missing for the keys": (
        layer(X, Y, rotary=True, query_positions=np.arange(T)),
        PositionError,
        "key_positions None must be given: T = 5 queries and S = 7 keys differ",
    ),
    "floats": (
        layer(X, Y, rotary=True, query_positions=zeros(T), key_positions=np.arange(S)),
        PositionError,
        "query_positions float32 must be an array of integers",
    ),
    "a list": (
        layer(X, Y, rotary=True, query_positions=list(range(T)), key_positions=np.arange(S)),
        PositionError,
        "query_positions list must be an array of integers",
    ),
    "shape": (
        layer(X, Y, rotary=True, query_positions=np.arange(T), key_positions=np.arange(T)),
        ShapeError,
        "key_positions (5,) must broadcast to (*batch, S) = (2, 7)",
    ),
}

REFUSALS = SHAPES | NUMBERS | {f"mask: {name}": refusal for name, refusal in MASKS.items()}
REFUSALS |= OPTIONS | {f"positions: {name}": refusal for name, refusal in POSITIONS.items()}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSALS)
    @each_backend
    def test_refused_in_our_own_words(self, backend: Backend, name: str) -> None:
        call, error, text = REFUSALS[name]
        with pytest.raises(AttentionError) as caught:
            _ = call(backend)
        assert type(caught.value) is error
        assert str(caught.value) == text.format(type=TYPES[backend.name], first=FIRST[backend.name], names=NAMES[backend.name])
        # No error of a framework was caught on the way.
        assert caught.value.__context__ is None

    @each_backend
    def test_what_is_refused_is_all_that_is_wrong(self, backend: Backend) -> None:
        assert core()(backend).shape == Q
        assert layer(X, Y)(backend).shape == X.shape
        turned = layer(X, Y, rotary=True, query_positions=np.arange(T), key_positions=np.arange(S))
        assert turned(backend).shape == X.shape

    @pytest.mark.parametrize("foreign", [np.zeros(Q, np.float32), jnp.zeros(Q), [[[0.0]]]], ids=["numpy", "jax", "list"])
    def test_torch_takes_tensors_alone(self, foreign: Any) -> None:
        tensor, kind = torch.zeros(Q), type(foreign)
        for name, given in (("query", (foreign, tensor, tensor)), ("value", (tensor, tensor, foreign))):
            with pytest.raises(DTypeError) as caught:
                _ = TORCH.module.dot_product_attention(*given)
            assert str(caught.value) == f"{name} {kind.__module__}.{kind.__name__} must be a torch.Tensor"

    @pytest.mark.parametrize("foreign", [torch.zeros(Q), [[[0.0]]]], ids=["torch", "list"])
    def test_jax_takes_its_own_arrays_and_numpys(self, foreign: Any) -> None:
        kind = type(foreign)
        with pytest.raises(DTypeError) as caught:
            _ = JAX.module.dot_product_attention(foreign, foreign, foreign)
        wanted = "jax.Array or numpy.ndarray"
        assert str(caught.value) == f"query {kind.__module__}.{kind.__name__} must be a {wanted}"
        array = zeros(B, T, H, D)
        assert isinstance(JAX.module.dot_product_attention(array, array, array), jax.Array)

    def test_jax_takes_no_float64_that_it_would_cut(self) -> None:
        wide, contract = zeros(*Q, dtype="float64"), spec.MultiHeadAttention(embed_dim=M, num_heads=H)
        calls: dict[str, Callable[[], Any]] = {
            "query": lambda: JAX.module.dot_product_attention(wide, wide, wide),
            "bias": lambda: JAX.module.dot_product_attention(*[zeros(*Q)] * 3, bias=np.zeros((T, T))),
            "dtype": lambda: JAX.layer(contract, dtype="float64"),
        }
        for name, call in calls.items():
            with pytest.raises(DTypeError) as caught:
                _ = call()
            switch = "JAX's 64-bit mode: jax.config.update('jax_enable_x64', True)"
            assert str(caught.value) == f"{name} float64 must wait for {switch}"
        with jax.enable_x64(True):
            assert JAX.module.dot_product_attention(wide, wide, wide).dtype == "float64"
            assert JAX.layer(contract, dtype="float64").weights()["q_proj.kernel"].dtype == "float64"

    @each_backend
    def test_a_refused_call_leaves_the_layer_as_it_was(self, backend: Backend) -> None:
        contract = spec.MultiHeadAttention(embed_dim=M, num_heads=H)
        built = backend.layer(contract, seed=3)
        with pytest.raises(ShapeError):
            _ = built(backend.array(zeros(M)))
        weights = built.weights()
        for name, value in contract.init(seed=3).items():
            np.testing.assert_array_equal(weights[name], value)
