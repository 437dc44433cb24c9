"""The Pallas kernel in JAX's interpreter: the tests of every kernel, with tiles so small that each kind of tile occurs.

pallas(q, k, v) = formula(q, k, v)        and its gradients, whatever the tile; lowered for GPUs and TPUs, which it has not seen
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import jax_impl, spec
from attention.jax_impl.attend import make_request
from attention.jax_impl.kernels.experimental.pallas import Pallas
from attention.parity.contracts.check import check_probe
from attention.parity.contracts.probes import probes
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused
from attention.spec.masks.algebra import Mask
from attention.spec.masks.tile_schedule import EMPTY, FULL, PARTIAL, schedule
from parity_tests.support.backends import close, numbers
from parity_tests.support.formula import formula

B, T, S, H, K, D, E = 2, 10, 13, 4, 2, 3, 5
TILE = (4, 4)
SEED = 2**32 + 7
IDS = np.arange(S) // 5
# A head each: what is read beside the queries, the keys, the rows and the scores, and what structure says.
KINDS: tuple[Mask, ...] = (
    spec.Segments(kv=[[*IDS[:-1], -1]] * B, q=[IDS[:T], IDS[3:]]) | spec.Prefix([5, 0]),
    spec.Causal(align="end") & spec.Lengths(kv=[12, 0], q=[T, 7], padding="left"),
    spec.PerRow((spec.Chunked(size=6, align="start"), spec.Window(before=2, after=None, query_positions=[range(T)]))),
    spec.DenseMask(numbers(3, B, 1, T, S) > 0) & ~spec.Placed(spec.Causal(), [[*range(T)]] * B, [[*range(S - 1, -1, -1)]] * B),
)


def calls() -> dict[str, dict[str, Any]]:
    """Options of calls that differ in what the kernel has to do, by name."""
    bias = 2 * numbers(4, B, 1, T, S)
    bias[:, :, 3] = -np.inf
    return {
        "nothing but whole tiles": {"T": 8, "S": 8, "K": 1},
        "every mask and option": {
            "mask": spec.PerHead(KINDS),
            "bias": bias,
            "softcap": 2.0,
            "score_mod": lambda x, b, h, t, s: jnp.maximum(x, x / (2 + b + h)) - 0.01 * (t - s),
            "sinks": numbers(6, H),
            "dropout_rate": 0.3,
            "dropout_seed": SEED,
            "scale": -0.4,
        },
    }


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jax_impl.kernels.KERNELS, "pallas", Pallas(interpret=True, tile=TILE))


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def qkv(*, T: int = T, S: int = S, K: int = K, batch: tuple[int, ...] = (B,)) -> list[jax.Array]:
    shapes = ((*batch, T, H, D), (*batch, S, K, D), (*batch, S, K, E))
    return [jnp.asarray(numbers(i, *shape)) for i, shape in enumerate(shapes)]


def pulled(implementation: str, *calls: list[jax.Array], **options: Any) -> list[list[np.ndarray]]:
    """Return for each call the context, the logsumexp and the gradients of both along fixed directions.

    Gradients of q, k and v, and of each array among the options. All calls share one compilation.
    """
    names = [name for name, x in options.items() if isinstance(x, np.ndarray)]
    attend = partial(jax_impl.dot_product_attention, return_intermediates=("logsumexp",), implementation=implementation)

    def call(inputs: list[Any], rest: list[Any]) -> Any:
        context, intermediates = attend(*inputs, **(options | dict(zip(names, rest, strict=True))))
        return context, intermediates["logsumexp"]

    @jax.jit
    def both(inputs: list[Any], rest: list[Any]) -> Any:
        (context, logsumexp), pull = jax.vjp(call, inputs, rest)
        along = [jnp.asarray(numbers(8 + i, *x.shape), x.dtype) for i, x in enumerate((context, logsumexp))]
        return context, logsumexp, pull((along[0], jnp.where(logsumexp == -jnp.inf, 0, along[1])))

    arrays = [options[name] for name in names]
    return [[np.asarray(x) for x in jax.tree.leaves(both(given, arrays))] for given in calls]


@pytest.mark.usefixtures("x64")
class TestGradients:
    @pytest.mark.parametrize("name", calls())
    def test_values_and_gradients_in_float64_are_the_formulas(self, name: str) -> None:
        options = calls()[name]
        given = qkv(**{letter: options.pop(letter) for letter in "TSK" if letter in options})
        (got,), (wanted,) = (pulled(kernel, given, **options) for kernel in ("pallas", "reference"))
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            close(one, other, 1e-13)

    def test_the_masks_of_these_tests_have_tiles_of_every_kind_and_rows_of_none(self) -> None:
        of = Sizes((B,), T, S, H, H, D, E)
        kinds = schedule(spec.PerHead(KINDS), of, TILE).kinds
        assert {int(kind) for kind in np.unique(kinds)} == {EMPTY, PARTIAL, FULL}
        assert (kinds == EMPTY).all(-1).any()


class TestLaws:
    def test_new_lengths_and_ids_are_not_compiled_again(self) -> None:
        q, k, v = (x.astype(np.float32) for x in qkv(T=8, S=8))
        ids = np.arange(8) // 3
        traced: list[str] = []

        @jax.jit
        def call(mask: Mask, *given: jax.Array) -> jax.Array:
            traced.append("once")
            q, k, v = given
            return jax_impl.dot_product_attention(q, k, v, mask=mask, implementation="pallas")

        for kv, documents in (([8, 5], ids), ([0, 3], ids[::-1].copy()), ([4, 4], ids // 2)):
            mask = spec.Lengths(kv=kv) & spec.Segments(kv=documents[None])
            wanted = formula(*map(np.asarray, (q, k, v)), mask=mask, scale=D**-0.5)["context"]
            np.testing.assert_allclose(call(mask, q, k, v), wanted, rtol=0, atol=1e-6)
        assert traced == ["once"]

    def test_what_nobody_sees_reaches_nothing(self) -> None:
        # Key 9 is in a tile that other keys of the row need, the second row sees none, and query 2 sees nothing.
        mask = spec.Lengths(kv=[9, 0]) & spec.DenseMask(np.arange(T)[:, None] != 2)
        q, k, v = (np.asarray(x, np.float32) for x in qkv())
        bad = [x.copy() for x in (q, k, v)]
        bad[0][:, 2], bad[1][:, 9:], bad[2][0, 9:], bad[2][1] = np.nan, np.inf, np.nan, -np.inf
        clean, poisoned = pulled("pallas", *([jnp.asarray(x) for x in given] for given in ((q, k, v), bad)), mask=mask)
        for one, other in zip(clean, poisoned, strict=True):
            np.testing.assert_array_equal(one, other)
        context, logsumexp, dq, dk, dv = poisoned
        assert all(np.isfinite(x).all() for x in (context, dq, dk, dv))
        assert not any(x[1].any() for x in (context, dq, dk, dv))
        assert not any(x.any() for x in (context[:, 2], dq[:, 2], dk[0, 9:], dv[0, 9:]))
        np.testing.assert_array_equal(logsumexp[0, :, 2], -np.inf)

    def test_rounding_stays_within_the_budget_of_what_it_says_it_rounds(self) -> None:
        contract = spec.MultiHeadAttention(8, 4, 2, head_dim=4, mask=spec.Causal())
        plain, saturated, *_ = probes(contract, "bfloat16")
        for probe in (plain, saturated):
            (row,) = check_probe("pallas", probe, ("jax",), "pallas")
            assert (row.kernel, row.refusal) == ("pallas", "")
            assert [verdict.name for verdict in row.verdicts if not verdict.agrees] == []

    def test_it_maps_over_axes_as_the_batch_does(self) -> None:
        q, k, v = (x.astype(np.float32) for x in qkv(T=8, S=8, batch=(2, 3)))
        lengths = np.array([[8, 3, 0], [5, 8, 1]])

        def call(kv: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return jax_impl.dot_product_attention(q, k, v, mask=spec.Lengths(kv=kv), implementation="pallas")

        wanted = formula(*map(np.asarray, (q, k, v)), mask=spec.Lengths(kv=lengths), scale=D**-0.5)["context"]
        mapped = jax.jit(jax.vmap(call))(jnp.asarray(lengths), q, k, v)
        np.testing.assert_allclose(mapped, wanted, rtol=0, atol=1e-6)


def lowered(platform: str, device: str, dtype: Any, **options: Any) -> str:
    """Return the program of a call and its gradients as a machine of this platform would be given it."""
    shapes = ((B, 384, H, 64), (B, 640, K, 64), (B, 640, K, 128))
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]

    def call(q: Any, k: Any, v: Any) -> Any:
        request = replace(make_request(q, k, v, **options), device=device)
        assert Pallas().refuses(request) is None
        out = Pallas().run(request)
        return (out["context"].astype(jnp.float32) ** 2).sum() + out["logsumexp"].sum()

    return jax.jit(jax.grad(call, (0, 1, 2))).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


class TestValues:
    @pytest.mark.parametrize(
        ("platform", "device", "target", "dtype"),
        [
            ("cuda", "gpu", "@__gpu$xla.gpu.triton(", jnp.bfloat16),
            ("tpu", "tpu", "@tpu_custom_call(", jnp.float32),
        ],
        ids=["cuda", "tpu"],
    )
    def test_the_text_lowers_for_machines_that_are_not_here(self, platform: str, device: str, target: str, dtype: Any) -> None:
        mask = spec.Causal(align="end") & spec.Lengths(kv=[600, 9]) & spec.DenseMask(np.ones((1, 384, 640), bool))
        options: dict[str, Any] = {"mask": mask | spec.Segments(kv=np.zeros((1, 640), int), q=np.ones((1, 384), int))}
        options |= {"softcap": 3.0, "dropout_rate": 0.1, "dropout_seed": 1, "bias": jnp.zeros((H, 384, 1), dtype)}
        assert lowered(platform, device, dtype, precision="highest", **options).count(target) == 3


class TestRefusals:
    def reason(self, kernel: Pallas = Pallas(), device: str = "cpu", dtype: Any = np.float32, **options: Any) -> str | None:  # noqa: B008
        q, k, v = (x.astype(dtype) for x in qkv())
        return kernel.refuses(replace(make_request(q, k, v, **options), device=device))

    def test_it_has_no_cpu_but_the_interpreter(self) -> None:
        assert self.reason() == "has no cpu: interpret mode is for tests"
        assert self.reason(Pallas(interpret=True)) is None
        assert [self.reason(device=device) for device in ("gpu", "cuda", "tpu")] == [None] * 3

    @pytest.mark.usefixtures("x64")
    def test_dtypes_and_precisions_that_compilers_lack(self) -> None:
        assert self.reason(device="gpu", dtype=np.float64) == "has no float64"
        assert self.reason(device="tpu", dtype=np.float16) == "has no float16"
        assert self.reason(device="tpu", precision="high") == "has no precision 'high': Mosaic has the default and 'highest'"
        assert self.reason(device="gpu", precision="high") is None

    def test_empty_axes(self) -> None:
        q, k, v = qkv()
        for given in ((q[:, :0], k, v), (q, k[:, :0], v[:, :0]), (q[:0], k[:0], v[:0])):
            with pytest.raises(KernelRefused, match=r"^kernel 'pallas' refuses: does not support axes of size 0$"):
                _ = jax_impl.dot_product_attention(*given, implementation="pallas")

    def test_a_function_of_scores_that_holds_an_array(self) -> None:
        table, kernel = jnp.arange(S, dtype=jnp.float32), Pallas(interpret=True)
        assert self.reason(kernel, score_mod=lambda x, *at: x + table[at[-1]]) == "has no score_mod that holds arrays"
        assert self.reason(kernel, score_mod=lambda x, *at: x + 2.0 * at[-1]) is None

    def test_a_sequence_that_does_not_fit_into_a_tpus_vector_memory(self) -> None:
        shape = jax.ShapeDtypeStruct((1, 2**14, 8, 128), jnp.bfloat16)
        reasons: list[str | None] = []
        _ = jax.eval_shape(
            lambda *given: reasons.append(Pallas().refuses(replace(make_request(*given), device="tpu"))), *[shape] * 3
        )
        assert reasons == ["supports 12 MiB of blocks for a head on tpu, and this call needs 16"]
