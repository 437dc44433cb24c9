"""The options of the multi-head layer: each against an independent implementation, all in float64 and under every transform.

float64: |backend - formula| <= 1e-13 of the largest element, outputs and gradients of every input and parameter
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import jax_impl, spec, torch_impl
from attention.parity.contracts import backends
from attention.parity.contracts.check import expect
from attention.parity.contracts.probes import probes
from attention.spec.cases import CASES
from attention.spec.errors import AttentionError, OptionError
from parity_tests.support.backends import close, numbers

M, H, D, T = 12, 4, 6, 5
# All that may stand in one contract.
EVERYTHING = spec.MultiHeadAttention(
    M,
    H,
    num_kv_heads=2,
    head_dim=D,
    out_dim=7,
    mask=spec.Causal(),
    positions=spec.Rotary(rotary_dim=4, scaling=spec.Llama3Scaling(8.0, 1.0, 4.0, 32)),
    qk_norm=spec.RMSNorm(),
    sinks=True,
    gate="elementwise",
    add_bias_kv=True,
    add_zero_attn=True,
    softcap=20.0,
    score=spec.Cosine(),
)
NEW = [name for name in CASES if isinstance(CASES[name].contract, spec.MultiHeadAttention)][16:]


class TestLaws:
    @pytest.mark.parametrize("side", ["torch", "jax_eager"])
    @pytest.mark.parametrize("name", NEW)
    def test_float64_is_the_formula_to_1e_13_with_every_gradient(self, name: str, side: str) -> None:
        # JAX spends a second on every new shape, and is asked of the call that is given a bias where there is one.
        for probe in probes(CASES[name].contract, "float64")[2 if side == "jax_eager" else 0 : 3]:
            wanted, got = expect(probe, runs=1).value, backends.find(side).run(probe, "auto").results
            assert set(got) == set(wanted)
            for key, value in wanted.items():
                # A sum of terms that cancel is only as good as its terms: a key's bias moves no score but through the mask.
                scale = max(np.abs(value).max(), np.abs(wanted["d query"]).max())
                assert np.abs(got[key] - value).max() <= 1e-13 * scale, (probe.name, key)

    def test_jit_vmap_and_grad_are_the_plain_call(self) -> None:
        layer = jax_impl.MultiHeadAttention(EVERYTHING)
        x = jnp.asarray(numbers(0, 3, T, M, dtype="float32"))
        plain = np.asarray(nnx.jit(layer)(x))
        close(np.asarray(jax.jit(jax.vmap(layer))(x)), plain, 1e-5)
        graph, params, rest = nnx.split(layer, nnx.Param, ...)

        def loss(params: Any) -> Any:
            output = nnx.merge(graph, params, rest)(x)
            return (output**2).sum(), output

        gradients, output = jax.jit(jax.grad(loss, has_aux=True))(params)
        close(np.asarray(output), plain, 1e-5)
        assert all(np.abs(np.asarray(x)).max() > 0 for x in jax.tree.leaves(gradients)), "every parameter matters"

    def test_compile_vmap_and_grad_are_the_plain_call(self) -> None:
        layer = torch_impl.MultiHeadAttention(EVERYTHING)
        x = torch.from_numpy(numbers(0, 3, T, M, dtype="float32"))
        plain = layer(x).detach().numpy()
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
        close(compiled(x).detach().numpy(), plain, 1e-5)
        close(torch.func.vmap(layer)(x).detach().numpy(), plain, 1e-5)
        params = dict(layer.named_parameters())
        loss = lambda params: (torch.func.functional_call(layer, params, (x,)) ** 2).sum()  # noqa: E731 - one line of mathematics
        loss(params).backward()
        for name, gradient in torch.func.grad(loss)(params).items():
            stored = params[name].grad
            assert stored is not None
            close(gradient.detach().numpy(), stored.numpy(), 1e-5)
            assert gradient.abs().max() > 0, f"{name} matters"

    def test_a_torch_layer_is_copied_pickled_and_saved_whole(self) -> None:
        layer = torch_impl.MultiHeadAttention(EVERYTHING, seed=3)
        other = torch_impl.MultiHeadAttention(EVERYTHING, seed=4)
        _ = other.load_state_dict(layer.state_dict())
        x = torch.from_numpy(numbers(0, T, M, dtype="float32"))
        for replica in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):  # noqa: S301 - our own bytes
            assert torch.equal(replica(x), layer(x))

    def test_both_backends_load_the_same_weights_bit_for_bit(self) -> None:
        weights = EVERYTHING.init(5, "bfloat16")
        for backend in (torch_impl, jax_impl):
            layer = backend.MultiHeadAttention(EVERYTHING, dtype="bfloat16")
            layer.load_weights(weights)
            assert all(np.array_equal(value, weights[name]) for name, value in layer.weights().items())
            assert list(layer.weights()) == list(weights)


def heads_of(x: np.ndarray, w: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.einsum("tm,mhd->htd", x, w[f"{n}_proj.kernel"]) + w[f"{n}_proj.bias"][:, None] for n in "qkv"]


class TestValues:
    def close_to(self, contract: spec.MultiHeadAttention, context: Any) -> None:
        """Compare with `context(q, k, v, x, w)`, all heads first, before the output projection."""
        x, w = numbers(1, T, M), {name: numbers(i, *p.shape) for i, (name, p) in enumerate(contract.params.items())}
        out = np.einsum("htd,hdm->tm", context(*heads_of(x, w), x, w), w["out_proj.kernel"]) + w["out_proj.bias"]
        got = contract.formula(np, w, {"query": x}, contract.resolve({"query": x}))["output"]
        np.testing.assert_allclose(got, out, rtol=0, atol=1e-13 * np.abs(out).max())

    @staticmethod
    def softmax(x: np.ndarray, more: float = 0.0) -> np.ndarray:
        return np.exp(x) / (np.exp(x).sum(-1, keepdims=True) + more)

    def test_off_by_one_has_a_one_more_in_the_denominator(self) -> None:
        def context(q: Any, k: Any, v: Any, _x: Any, _w: Any) -> np.ndarray:
            return self.softmax(np.einsum("htd,hsd->hts", q, k) / np.sqrt(D), 1.0) @ v

        self.close_to(spec.MultiHeadAttention(M, H, head_dim=D, softmax="off_by_one"), context)

    def test_cosine_is_the_angle_over_the_temperature(self) -> None:
        def context(q: Any, k: Any, v: Any, _x: Any, w: Any) -> np.ndarray:
            norms = np.linalg.norm(q, axis=-1)[..., None] * np.linalg.norm(k, axis=-1)[:, None]
            return self.softmax(np.exp(w["log_scale"])[:, None, None] * np.einsum("htd,hsd->hts", q, k) / norms) @ v

        self.close_to(spec.MultiHeadAttention(M, H, head_dim=D, score=spec.Cosine(most=None)), context)

    @pytest.mark.parametrize("gate", ["headwise", "elementwise"])
    def test_a_gate_is_a_sigmoid_of_the_query(self, gate: str) -> None:
        def context(q: Any, k: Any, v: Any, x: Any, w: Any) -> np.ndarray:
            opened = np.einsum("tm,mh...->ht...", x, w["gate_proj.kernel"])
            opened = 0.5 * (1 + np.tanh(opened / 2))
            weights = self.softmax(np.einsum("htd,hsd->hts", q, k) / np.sqrt(D))
            return (weights @ v) * (opened if gate == "elementwise" else opened[..., None])

        self.close_to(spec.MultiHeadAttention(M, H, head_dim=D, gate=gate), context)

    def test_a_sink_of_zero_is_off_by_one(self) -> None:
        sinks = spec.MultiHeadAttention(M, H, head_dim=D, sinks=True)
        one = spec.MultiHeadAttention(M, H, head_dim=D, softmax="off_by_one")
        weights, x = sinks.init(0), {"query": numbers(1, T, M)}
        assert not weights["sinks"].any()
        made = [c.formula(np, weights, x, c.resolve(x))["output"] for c in (sinks, one)]
        np.testing.assert_array_equal(*made)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"sinks": True, "softmax": "off_by_one"}, "softmax 'off_by_one' must be 'standard' when sinks is True"),
            ({"softmax": "sparse"}, "softmax 'sparse' must be one of 'standard', 'off_by_one'"),
            ({"gate": "tanh"}, "gate 'tanh' must be one of None, 'headwise', 'elementwise'"),
            ({"qk_norm": "rms"}, r"qk_norm 'rms' must be RMSNorm\(...\), LayerNorm\(...\), L2Norm\(...\), None"),
            ({"qkv_bias": (True, False)}, r"qkv_bias \(True, False\) must be True or False, or one of them each"),
            ({"add_zero_attn": 1}, "add_zero_attn 1 must be True or False"),
            ({"out_dim": 0}, "out_dim 0 must be a positive int"),
            ({"positions": spec.RelativeKeys(3), "softcap": 5.0}, "softcap 5.0 must be None with RelativeKeys"),
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(OptionError, match=text) as caught:
            _ = spec.MultiHeadAttention(M, H, head_dim=D, **options)
        assert isinstance(caught.value, AttentionError)

    @pytest.mark.parametrize(
        ("norm", "text"),
        [
            (lambda: spec.RMSNorm(eps=-1.0), r"RMSNorm eps -1.0 must be a finite number >= 0"),
            (lambda: spec.LayerNorm(eps=float("nan")), r"LayerNorm eps nan must be"),
            (lambda: spec.L2Norm(eps=0), "L2Norm eps 0 must be positive"),
            (lambda: spec.Cosine(initial=0.0), "Cosine initial 0.0 must be a positive finite number"),
        ],
    )
    def test_norms_that_cannot_be(self, norm: Any, text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = norm()
