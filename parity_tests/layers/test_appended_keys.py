"""Appended keys: a query without visible keys attends to them and has gradients, as in `torch.nn.MultiheadAttention`.

References:
    torch.nn.MultiheadAttention with add_bias_kv and add_zero_attn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from attention import spec
from attention.checkpoints import torch_mha
from attention.checkpoints.weight_map import write
from attention.parity.contracts.probes import Probe
from attention.torch_impl.params import to_numpy, to_tensor
from tools.evaluation.option_fuzzing import Draw
from tools.evaluation.option_fuzzing.check import LIMIT, PROGRAMS

M, H, N = 8, 2, 3
CONFIG: dict[str, Any] = {"embed_dim": M, "num_heads": H, "bias": True, "add_bias_kv": True, "add_zero_attn": True}
CONTRACT = torch_mha.contract(CONFIG)
ALLOWED = np.array([[True, True, False], [False, False, False], [True, False, False]])
"""Query 1 sees no key, and nobody sees key 2."""
DRAW = Draw(contract=CONTRACT, T=N, S=N, mask=spec.DenseMask(ALLOWED), seed=3)
each_program = pytest.mark.parametrize("program", PROGRAMS)


def run(program: str, probe: Probe) -> dict[str, np.ndarray]:
    return dict(PROGRAMS[program](probe, "auto"))


def theirs(probe: Probe) -> tuple[np.ndarray, ...]:
    """Return torch's output, and its gradients of query, key and value."""
    module = torch.nn.MultiheadAttention(M, H, batch_first=True, add_bias_kv=True, add_zero_attn=True, dtype=torch.float64)
    stored = write(probe.weights, torch_mha.weight_map(CONFIG), CONTRACT)
    _ = module.load_state_dict({name: to_tensor(x) for name, x in stored.items()})
    inputs = [to_tensor(probe.arrays[name]).requires_grad_() for name in ("query", "key", "value")]
    output = module(*inputs, attn_mask=to_tensor(~ALLOWED), need_weights=False)[0]
    gradients = torch.autograd.grad(output, inputs, to_tensor(probe.cotangents["output"]))
    return tuple(to_numpy(x) for x in (output, *gradients))


class TestValues:
    @each_program
    def test_a_query_that_sees_appended_keys_alone_is_torchs(self, program: str) -> None:
        probe = DRAW.probe()
        got, wanted = run(program, probe), theirs(probe)
        assert np.abs(wanted[1][:, 1]).max() > 0.01, "torch's d query of that row is not 0"
        for name, value in zip(("output", "d query", "d key", "d value"), wanted, strict=True):
            np.testing.assert_allclose(got[name], value, rtol=0, atol=LIMIT * np.abs(value).max(), err_msg=name)


class TestLaws:
    @each_program
    def test_nan_in_a_hidden_key_changes_no_query_that_sees_appended_keys_alone(self, program: str) -> None:
        probe = DRAW.probe()
        sick = {name: x.copy() for name, x in probe.arrays.items()}
        for name in ("key", "value"):
            sick[name][:, 2] = np.nan
        wanted, got = run(program, probe), run(program, replace(probe, arrays=sick))
        for name in ("output", "d query", "d q_proj.kernel", "d bias_k"):
            np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=LIMIT * np.abs(wanted[name]).max(), err_msg=name)

    @each_program
    def test_nan_in_a_query_that_sees_appended_keys_alone_reaches_no_gradient(self, program: str) -> None:
        probe = DRAW.probe()
        probe.arrays["query"][:, 1] = np.nan
        made = run(program, probe)
        assert all(np.isfinite(x).all() for x in made.values())
        assert not made["d query"][:, 1].any()
