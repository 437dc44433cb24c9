"""Adapters of kernels maintained by others in JAX: the arguments made from a mask, and the calls that are refused.

adapter(q, k, v, mask) = reference(q, k, v, mask)        cuDNN's arguments are answered by XLA, splash runs in the interpreter
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from attention import jax_impl, spec
from attention.jax_impl.attend import make_request
from attention.jax_impl.kernels.experimental import cudnn, splash
from attention.jax_impl.kernels.experimental.cudnn import Cudnn, conjuncts
from attention.jax_impl.kernels.experimental.splash import Splash
from attention.spec.errors import KernelRefused
from attention.spec.kernels import Request
from attention.spec.masks.algebra import Mask, evaluate
from parity_tests.support.backends import numbers
from parity_tests.support.formula import formula

B, H, K, D = 2, 2, 1, 8
HOPPER = Cudnn(capability=(9, 0))


def qkv(T: int, S: int, dtype: Any = jnp.float32, D: int = D) -> list[jax.Array]:
    shapes = ((B, T, H, D), (B, S, K, D), (B, S, K, D))
    return [jnp.asarray(numbers(i, *shape), dtype) for i, shape in enumerate(shapes)]


def request(T: int = 6, S: int = 6, device: str = "gpu", dtype: Any = jnp.bfloat16, D: int = D, **options: Any) -> Request:
    q, k, v = qkv(T, S, dtype, D)
    return replace(make_request(q, k, v, **options), device=device)


def pulled(kernel: Any, given: list[jax.Array], mask: Mask | None, **options: Any) -> list[np.ndarray]:
    """Return the context and the gradients of q, k and v along a fixed direction."""

    @jax.jit
    def both(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        def call(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            asked = make_request(q, k, v, mask=mask, **options)
            assert kernel.refuses(asked) is None
            return kernel.run(asked)["context"]

        context, pull = jax.vjp(call, q, k, v)
        return context, pull(jnp.asarray(numbers(8, *context.shape), context.dtype))

    return [np.asarray(x) for x in jax.tree.leaves(both(*given))]


# Masks that cuDNN can be told without an array, and sizes T, S.
TOLD: dict[str, tuple[Mask | None, int, int]] = {
    "all": (None, 6, 5),
    "causal": (spec.Causal(), 6, 6),
    "causal from the start": (spec.Causal(align="start"), 4, 6),
    "a window behind": (spec.Window(before=2, after=0), 6, 6),
    "two windows": (spec.Causal() & spec.Window(before=3, after=1) & spec.Window(before=1, after=None), 6, 6),
    "lengths, of which one is 0": (spec.Lengths(kv=[6, 0], q=[4, 6]), 6, 6),
    "lengths and causal": (spec.Lengths(kv=[3, 6]) & spec.Causal(), 6, 6),
}


class TestCudnn:
    @pytest.mark.parametrize("name", TOLD)
    def test_the_arguments_it_is_given_say_what_the_mask_says(self, name: str) -> None:
        mask, t, s = TOLD[name]
        asked = request(t, s, mask=mask)
        assert HOPPER.refuses(asked) is None
        told = replace(HOPPER, implementation="xla").run(asked)["context"]
        wanted = formula(*(np.asarray(x, np.float64) for x in (asked.q, asked.k, asked.v)), mask=mask, scale=asked.scale)
        # A few units of bfloat16; a key too many or too few moves a row by tenths.
        np.testing.assert_allclose(np.asarray(told, np.float64), wanted["context"], rtol=0, atol=0.03)

    def test_what_it_is_given_is_structure_and_no_array(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, Any]] = []

        def spy(*_: Any, **options: Any) -> jax.Array:
            asked.append({name: np.asarray(x).tolist() if isinstance(x, jax.Array) else x for name, x in options.items()})
            return jnp.zeros((B, 6, H, D))

        monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
        mask = spec.Causal() & spec.Window(before=2, after=3)
        for one in (None, mask, spec.Lengths(kv=[6, 0], q=[4, 6]) & spec.Causal()):
            _ = HOPPER.run(request(mask=one))
        always = {"scale": 1 / np.sqrt(D), "is_causal": False, "local_window_size": None, "implementation": "cudnn"}
        assert asked == [
            always,
            always | {"is_causal": True, "local_window_size": (2, 0)},
            always | {"is_causal": True, "key_value_seq_lengths": [6, 1], "query_seq_lengths": [4, 6]},
        ]

    def test_every_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def why(kernel: Cudnn = HOPPER, **options: Any) -> str | None:
            return kernel.refuses(request(**options))

        assert why(device="cpu") == "has no cpu"
        assert why(device="tpu") == "has no tpu"
        assert why(T=0) == "does not support axes of size 0"
        assert why(dtype=jnp.float32) == "has no float32"
        assert why(softcap=1.0, sinks=jnp.zeros(H)) == "has no softcap, no sinks"
        assert why(bias=jnp.zeros((6, 6), jnp.bfloat16)) == "has no bias"
        assert why(D=12) == "has no D but multiples of 8 up to 256, not 12"
        assert why(Cudnn(capability=(8, 0)), D=136) == "has no D but multiples of 8 up to 128, not 136"
        assert why(Cudnn(capability=(7, 5))) == "has no GPU before Ampere, 8.0, and this is 7.5"
        # A CPU stands in for a GPU that has no compute capability.
        assert why(Cudnn()) == "has no GPU but NVIDIA's"
        monkeypatch.setattr(cudnn, "_capability", lambda: (9, 0))
        assert why(Cudnn()) is None

    @pytest.mark.parametrize(
        ("mask", "reason"),
        [
            (spec.Causal(align="end"), "has no Causal that is aligned at the end or by positions"),
            (spec.Window(before=1, after=1, align="start"), "has no Window that looks ahead without Causal"),
            (spec.Window(before=1, after=0, align="start"), "has no Window that may have passed the last key"),
            (spec.Segments(kv=np.zeros(5, int), q=np.zeros(6, int)), "has no Segments but as an array, which is slow"),
            (~spec.Causal(align="start"), "has no Not but as an array, which is slow"),
            (spec.Lengths(kv=[1, 2], padding="left"), "has no padding on the left"),
            (spec.Lengths(kv=[1, 2]) & spec.Lengths(kv=[2, 1]), "has no two lengths"),
        ],
        ids=repr,
    )
    def test_masks_that_it_would_read_as_arrays(self, mask: Mask, reason: str) -> None:
        assert HOPPER.refuses(request(6, 5, mask=mask)) == reason


T, S = 128, 256
IDS = np.arange(S) * 3 // S


class TestSplash:
    def test_values_and_gradients_are_the_formulas(self) -> None:
        mask = spec.Causal(align="end") & spec.Lengths(kv=[200, 0], q=[100, T])
        mask = mask & spec.Segments(kv=[[*IDS[1:], -1]] * B, q=[[*IDS[-T + 1 :], -1]] * B)
        kernels = (Splash(interpret=True), jax_impl.kernels.KERNELS["reference"])
        got, wanted = (pulled(kernel, qkv(T, S), mask, softcap=3.0, scale=0.5) for kernel in kernels)
        for one, other in zip(got, wanted, strict=True):
            assert np.abs(other).max() > 0.1
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())

    @pytest.mark.parametrize(
        ("mask", "name"),
        [
            (None, "FullMask"),
            (spec.Causal(align="end"), "CausalMask"),
            (spec.Window(before=3, after=None, align="start"), "LocalMask"),
            (spec.Causal(align="end") & spec.Window(before=9, after=2, align="end"), "LocalMask"),
            (spec.Causal(align="end") & spec.Window(before=9, after=2, align="start"), "NumpyMask"),
            (spec.Chunked(size=100, align="end") | spec.Prefix(3), "NumpyMask"),
        ],
        ids=repr,
    )
    def test_its_own_masks_are_ours(self, mask: Mask | None, name: str) -> None:
        of = request(T, S).sizes
        made = splash._named(splash_attention, mask, of)  # noqa: SLF001 - what the kernel is told of a head
        assert type(made).__name__ == name
        wanted = np.broadcast_to(True if mask is None else np.asarray(evaluate(mask, of)), of.scores)[0, 0]
        np.testing.assert_array_equal(made[:, :], wanted)

    def test_each_head_has_its_own(self) -> None:
        windows = (spec.Window(before=1, after=0), spec.Window(before=2, after=0))
        heads, ids = splash._split(spec.PerHead(windows) & spec.Causal() & spec.Lengths(kv=[1, 2]), request(T, T).sizes)  # noqa: SLF001
        assert [[*conjuncts(head)] for head in heads if head] == [[window, spec.Causal()] for window in windows]
        assert ids is not None
        np.testing.assert_array_equal(ids[1][:, :3], [[0, -1, -1], [0, 0, -1]])
        np.testing.assert_array_equal(ids[0], 0)

    def test_every_refusal(self) -> None:
        def why(T: int = T, S: int = S, device: str = "tpu", dtype: Any = jnp.bfloat16, **options: Any) -> str | None:
            return Splash().refuses(request(T, S, device, dtype, **options))

        assert why() is None
        assert why(device="cpu") == "has no cpu"
        assert why(device="gpu") == "has no gpu"
        assert why(T=100) == "has no T but multiples of 128, not 100"
        assert why(S=0) == "has no S but multiples of 128, not 0"
        assert why(dtype=jnp.float16) == "has no float16"
        assert why(sinks=jnp.zeros(H)) == "has no sinks"
        assert why(precision="high") == "has no precision 'high': Mosaic has the default and 'highest'"
        for mask in (
            spec.DenseMask(np.ones((T, S), bool)),
            spec.PerRow((spec.Prefix(1), spec.Prefix(2))),
            ~spec.Lengths(kv=[1, 2]),
        ):
            assert why(mask=mask) == f"has no {type(mask).__name__} that holds arrays or differs from row to row"
        two = spec.Segments(kv=np.zeros(S, int), q=np.zeros(T, int))
        assert why(mask=two & two) == "has no two kinds of segments"


class TestRefusals:
    @pytest.mark.parametrize("name", ["cudnn", "splash", "pallas"])
    def test_asked_for_by_name_on_a_cpu_a_kernel_of_another_device_says_so(self, name: str) -> None:
        with pytest.raises(KernelRefused, match=f"^kernel '{name}' refuses: has no cpu"):
            _ = jax_impl.dot_product_attention(*qkv(6, 6), implementation=name)
