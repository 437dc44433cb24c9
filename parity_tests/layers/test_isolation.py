"""Packed documents in whole layers: NaN in one document reaches neither outputs nor gradients of another.

layer(packed, NaN in one document)[another] = layer(packed)[another]        bit for bit, and its gradients
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch

from attention import spec
from attention.spec.layers.contract import Contract
from parity_tests.support.backends import Backend, each_backend, numbers

M, N = 8, 6
HEALTHY, SICK = slice(0, 4), slice(4, 6)
PACKED = spec.Segments.from_cu_seqlens([0, 4, 6])

LAYERS: dict[str, Contract] = {
    "plain": spec.MultiHeadAttention(M, 2),
    "appended": spec.MultiHeadAttention(M, 2, add_bias_kv=True, add_zero_attn=True),
    "relative keys": spec.MultiHeadAttention(M, 2, positions=spec.RelativeKeys(3), gate="headwise"),
    "additive": spec.AlignmentAttention(M, score=spec.Additive(hidden=3)),
    "general": spec.AlignmentAttention(M, score=spec.General()),
    "linear": spec.LinearAttention(M, 2, causal=True),
    "differential": spec.DifferentialAttention(M, 2, depth=0),
    "latent": spec.LatentAttention(M, 2, kv_rank=3, nope_dim=4, rope_dim=2, value_dim=3),
}


def run(backend: Backend, layer: Any, x: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first output, and the gradient of its healthy rows with respect to the input."""
    names = list(layer.contract.inputs)

    def first(x: Any) -> Any:
        given = {names[0]: x} if layer.contract.attends_self else {names[0]: x, names[1]: x}
        made = layer(**given, mask=PACKED)
        return made[0] if isinstance(made, tuple) else made

    if backend.name == "torch":
        leaf = torch.from_numpy(x).requires_grad_()
        out = first(leaf)
        (gradient,) = torch.autograd.grad((out[:, HEALTHY] * torch.from_numpy(along)).sum(), leaf)
        return out.detach().numpy(), gradient.numpy()
    gradient = jax.grad(lambda x: (first(x)[:, HEALTHY] * along).sum())(x)
    return np.asarray(first(x)), np.asarray(gradient)


class TestLaws:
    @pytest.mark.parametrize("name", LAYERS)
    @each_backend
    def test_nan_in_a_document_stays_in_it(self, backend: Backend, name: str) -> None:
        layer = LAYERS[name].build(backend.name)
        x = numbers(0, 2, N, M, dtype="float32")
        sick = x.copy()
        sick[:, SICK] = np.nan
        along = numbers(1, 2, 4, M, dtype="float32")
        (wanted, gradient), (got, slope) = run(backend, layer, x, along), run(backend, layer, sick, along)
        np.testing.assert_array_equal(got[:, HEALTHY], wanted[:, HEALTHY])
        np.testing.assert_array_equal(slope, gradient)
        assert not gradient[:, SICK].any()
        assert np.isnan(got[:, SICK]).all(), "a sick document must not look healthy"

    @each_backend
    def test_a_shut_gate_has_a_finite_gradient(self, backend: Backend) -> None:
        contract = spec.MultiHeadAttention(M, 2, gate="headwise")
        layer = contract.build(backend.name)
        weights = contract.init(0)
        layer.load_weights({**weights, "gate_proj.kernel": np.full_like(weights["gate_proj.kernel"], -100.0)})
        _, gradient = run(backend, layer, np.ones((2, N, M), np.float32), np.ones((2, 4, M), np.float32))
        assert np.isfinite(gradient).all()
