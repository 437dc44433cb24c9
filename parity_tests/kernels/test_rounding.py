"""Rounding: each kernel rounds exactly where it declares so, and the budget allows for that alone.

d scores = weights * (d weights - delta)        delta = sum(d context * context), of the context as it was returned

Where tokens are alike everything cancels but the error of delta.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch

from attention import jax_impl, spec, torch_impl
from attention.jax_impl.kernels.experimental.pallas import Pallas
from attention.parity.contracts import backends
from attention.parity.contracts.check import expect, verdicts
from attention.parity.contracts.probes import Drawer, Probe
from attention.parity.numerics.rounding_sites import ROUNDS
from attention.spec.kernels import Request
from attention.torch_impl.kernels.sdpa import Sdpa
from parity_tests.support.backends import JAX, KERNELS, Kernel, numbers

T = 8
CONTRACT = spec.MultiHeadAttention(8, 4, 2, head_dim=4, qkv_bias=True)


def cases() -> Iterator[tuple[Kernel, str]]:
    """Every kernel that has a gradient on a CPU and each of its narrow dtypes; float32 where weights are made anew."""
    for kernel in [*KERNELS, Kernel(JAX, "pallas")]:
        made_anew = "logsumexp" in kernel.backend.module.kernels.KERNELS[kernel.name].rounds
        for dtype in ("float32", "bfloat16", "float16"):
            if kernel.name != "flex" and (kernel.name, dtype) != ("xla", "float16") and (dtype != "float32" or made_anew):
                yield kernel, dtype


CASES = list(cases())


@cache
def alike(dtype: str) -> Probe:
    """A call whose tokens differ by 1 % of what they have in common, and so its keys and values."""
    probe = Drawer(CONTRACT, dtype).draw("alike", T, T)
    x = numbers(1, 8) + 0.01 * numbers(2, *probe.arrays["query"].shape)
    return replace(probe, arrays=spec.cast({"query": x}, dtype))


def holed() -> Probe:
    """A call with empty rows, a key that nobody sees, a bias that forbids, sinks and dropout, and a loss of the logsumexp."""
    contract = replace(CONTRACT, sinks=True, dropout_rate=0.3)
    mask = spec.DenseMask(np.tri(T, T, -1, dtype=bool))
    probe = Drawer(contract, "float16").draw(
        "holes", T, T, biased=True, mask=mask, dropout_seed=3, intermediates=("logsumexp",)
    )
    probe.arrays["bias"][..., 5, 2:4] = -np.inf
    return probe


def outside(probe: Probe, results: dict[str, np.ndarray], *rounds: str) -> set[str]:
    """The results that a kernel which rounds this and nothing else does not make."""
    return {verdict.name for verdict in verdicts(results, expect(probe, rounds)) if not verdict.agrees}


@dataclass(frozen=True)
class Coarse(Sdpa):
    """Torch's own attention in float16, whose delta is taken from the context in bfloat16."""

    def run(self, request: Request) -> dict[str, torch.Tensor]:
        context = super().run(request)["context"]
        k = request.k.repeat_interleave(request.sizes.group, -2)
        logsumexp = (torch.einsum("bthd,bshd->bths", request.q, k) * request.scale).logsumexp(-1, keepdim=True)
        lost = (context.bfloat16() - context.float()).detach()
        return {"context": (context - lost * (logsumexp - logsumexp.detach())).to(context.dtype)}


class TestLaws:
    @pytest.mark.parametrize(("kernel", "dtype"), CASES, ids=str)
    def test_a_kernel_takes_delta_from_its_context_if_and_only_if_it_says_so(
        self, kernel: Kernel, dtype: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(jax_impl.kernels.KERNELS, "pallas", Pallas(interpret=True))
        probe = alike(dtype)
        ran = backends.find(kernel.backend.name).run(probe, kernel.name)
        assert outside(probe, ran.results, *ran.rounds) == set()
        if dtype != "float32":
            shown = outside(probe, ran.results, *(name for name in ROUNDS if name != "logsumexp"))
            assert shown >= {"d q_proj.bias", "d k_proj.bias"} if "logsumexp" in ran.rounds else shown == set()

    @pytest.mark.parametrize(
        "probe",
        [
            holed(),
            Drawer(spec.DifferentialAttention(8, 2, depth=3), "float16").draw("two attentions", T, T),
            Drawer(spec.AlignmentAttention(8), "float16").draw("weights are an output", T, T),
        ],
        ids=lambda probe: type(probe.contract).__name__,
    )
    def test_whatever_a_kernel_rounds_the_oracle_is_the_same(self, probe: Probe) -> None:
        wanted = expect(probe, runs=1).value
        for rounds in (("logsumexp",), ROUNDS):
            got = expect(probe, rounds, runs=1).value
            for name, value in wanted.items():
                np.testing.assert_allclose(got[name], value, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(value).max()))

    def test_a_delta_from_a_context_of_fewer_digits_is_condemned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(torch_impl.kernels.KERNELS, "coarse", Coarse("coarse"))
        probe = alike("float16")
        ran = backends.find("torch").run(probe, "coarse")
        assert outside(probe, ran.results, *ran.rounds) >= {"d q_proj.bias", "d k_proj.bias"}
        assert outside(probe, {"output": ran.results["output"]}, *ran.rounds) == set()
