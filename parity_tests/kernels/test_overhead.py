"""Overhead: nothing is checked or compiled twice, and no mask is made dense.

calls of one signature check and choose once        compiled(layer) = layer        memory of a mask = O(stripe * S)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention import jax_impl, spec, torch_impl
from attention.jax_impl import attend as jax_attend
from attention.jax_impl import masks as jax_masks
from attention.spec.axes import Sizes
from attention.spec.errors import DTypeError, OptionError, ShapeError
from attention.spec.kernels.nan_safety import ALL_FINITE, STRIPE, reach_of
from attention.spec.kernels.plan_cache import MOST, Plans
from attention.spec.masks.algebra import Mask
from attention.spec.masks.grid import Grid
from attention.torch_impl import attend as torch_attend
from attention.torch_impl import masks as torch_masks
from parity_tests.support.backends import Backend, close, each_backend, numbers

M = 8
CAUSAL = spec.MultiHeadAttention(M, 2, mask=spec.Causal())


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Return a list that grows with every call of a function of torch's attend.py."""
    module: Any = torch_attend
    real: Any = getattr(module, name)
    calls: list[Any] = []

    def spy(*args: Any, **options: Any) -> Any:
        calls.append(name)
        return real(*args, **options)

    monkeypatch.setattr(module, name, spy)
    return calls


class TestPlans:
    def test_the_second_call_of_a_signature_neither_checks_nor_chooses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = torch_impl.MultiHeadAttention(CAUSAL).eval(), torch.randn(1, 3, M)
        asked = [counted(monkeypatch, name) for name in ("make_request", "choose")]
        outputs = [layer(x) for _ in range(3)]
        assert [len(calls) for calls in asked] == [1, 1]
        assert all(torch.equal(outputs[0], one) for one in outputs)

    @pytest.mark.parametrize(
        "change",
        [lambda x: torch.cat([x, x], dim=1), lambda x: x.requires_grad_(), lambda x: torch.cat([x, x])],
        ids=["length", "gradient", "batch"],
    )
    def test_another_signature_is_checked_anew(self, change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = torch_impl.MultiHeadAttention(CAUSAL).eval().requires_grad_(requires_grad=False), torch.randn(1, 3, M)
        _ = layer(x)
        calls = counted(monkeypatch, "make_request")
        _ = layer(change(x.clone()))
        assert len(calls) == 1

    def test_a_planned_call_still_refuses_what_does_not_fit(self) -> None:
        layer, x = torch_impl.MultiHeadAttention(CAUSAL), torch.randn(1, 3, M)
        _ = layer(x)
        with pytest.raises(ShapeError, match="must be"):
            _ = layer(torch.randn(1, 3, M + 1))
        with pytest.raises(DTypeError, match="must be"):
            _ = layer(x.double())
        layer = layer.double()
        with pytest.raises(DTypeError, match="must be"):
            _ = layer(x)

    def test_a_plan_gives_what_the_general_way_gives(self) -> None:
        layer, x = torch_impl.MultiHeadAttention(CAUSAL), torch.randn(2, 3, M)
        _ = layer(x)
        # Intermediates are no plan's business.
        assert torch.equal(layer(x), layer(x, return_intermediates=("weights",))[0])

    def test_a_mask_of_arrays_has_no_plan(self) -> None:
        q = torch.randn(1, 3, 2, 4)
        for kv in ([3], [1]):
            out = torch_impl.dot_product_attention(q, q, q, mask=spec.Lengths(kv=kv))
            wanted = torch_impl.dot_product_attention(q, q, q, mask=spec.Lengths(kv=kv), implementation="reference")
            close(out.numpy(), wanted.numpy(), 1e-6)

    def test_plans_are_bounded(self) -> None:
        plans = Plans[int]()
        for i in range(MOST + 5):
            _ = plans.keep(i, i)
        assert len(plans) == MOST
        assert plans.get(0) is None
        assert plans.get(MOST + 4) == MOST + 4


class TestCompiled:
    def test_jax_agrees_traces_once_and_sees_new_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = jax_impl.MultiHeadAttention(CAUSAL), jnp.asarray(numbers(0, 2, 4, M, dtype="float32"))
        traced: list[int] = []
        real = jax_impl.MultiHeadAttention.__call__

        def spy(self: Any, *args: Any, **options: Any) -> Any:
            traced.append(1)
            return real(self, *args, **options)

        monkeypatch.setattr(jax_impl.MultiHeadAttention, "__call__", spy)
        fast = jax_impl.compiled(layer)
        got = [fast(x, mask=spec.Lengths(kv=kv), implementation="reference") for kv in ([4, 2], [1, 3])]
        layer.load_weights(CAUSAL.init(1))
        got.append(fast(x, mask=spec.Lengths(kv=[1, 3]), implementation="reference"))
        assert len(traced) == 1
        close(np.asarray(got[2]), np.asarray(layer(x, mask=spec.Lengths(kv=[1, 3]), implementation="reference")), 1e-5)
        assert np.abs(np.asarray(got[2] - got[1])).max() > 1e-2

    def test_jax_takes_a_seed_or_refuses_to_drop(self) -> None:
        contract = spec.MultiHeadAttention(M, 2, dropout_rate=0.5)
        layer, x = jax_impl.MultiHeadAttention(contract), jnp.asarray(numbers(0, 2, 4, M, dtype="float32"))
        fast = jax_impl.compiled(layer)
        with pytest.raises(OptionError, match="dropout_seed None must be given"):
            _ = fast(x)
        close(np.asarray(fast(x, dropout_seed=2**31)), np.asarray(layer(x, dropout_seed=2**31)), 1e-5)

    def test_torch_agrees_and_compiles_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graphs: list[Any] = []

        def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        torch.compiler.reset()
        layer, x = torch_impl.MultiHeadAttention(CAUSAL), torch.randn(2, 4, M)
        fast = torch_impl.compiled(layer)
        for kv in ([4, 2], [1, 3]):
            mask = spec.Lengths(kv=torch.tensor(kv))
            torch.testing.assert_close(fast(x, mask=mask), layer(x, mask=mask), rtol=0, atol=1e-6)
        assert len(graphs) == 1


class TestNoDenseMask:
    def spied(self, monkeypatch: pytest.MonkeyPatch, mask: Mask) -> list[int]:
        """Return the sizes of all answers that masks of a kind give."""
        kind, sizes = type(mask), []
        real = kind.allowed

        def spy(self: Any, at: Grid) -> Any:
            made = real(self, at)
            if hasattr(made, "shape"):
                sizes.append(int(np.prod(made.shape)))
            return made

        monkeypatch.setattr(kind, "allowed", spy)
        return sizes

    @pytest.mark.parametrize("poison", [0.0, np.nan])
    @each_backend
    def test_zero_masking_of_a_long_call_evaluates_stripes_at_most(
        self, backend: Backend, poison: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = 4 * STRIPE + 3
        mask = spec.Segments(kv=np.where(np.arange(size) < size - 7, np.arange(size) // 100, -1))
        x = numbers(0, size, 1, 2, dtype="float32")
        x[-7:] = poison
        asked = self.spied(monkeypatch, mask)
        q, k, v = (backend.array(x) for _ in range(3))
        request = backend.module.attend.make_request(q, k, v, mask)
        zero_masked = backend.module.masks.zero_masked(request)
        assert max(asked, default=0) <= STRIPE * size
        assert bool(asked) == bool(np.isnan(poison)), "safe numbers do not evaluate the mask"
        for got in zero_masked:
            np.testing.assert_array_equal(backend.numpy(got)[-7:], 0)
            np.testing.assert_array_equal(backend.numpy(got)[:-7], x[:-7])

    def test_stripes_find_what_the_whole_mask_says(self) -> None:
        size = 2 * STRIPE + 5
        ids = np.random.default_rng(0).integers(-1, 40, size)
        of = Sizes((), size, size, 1, 1, 2, 2)
        dense = (ids[:, None] == ids) & (ids >= 0)
        mask: Mask = spec.Segments(kv=ids)
        torch_mask, jax_mask = torch_masks.native(mask, torch.device("cpu")), jax_masks.native(mask)
        assert torch_mask is not None
        assert jax_mask is not None
        for found in (torch_masks.reach(torch_mask, of, torch.device("cpu")), jax_masks.reach(jax_mask, of)):
            np.testing.assert_array_equal(np.asarray(found.rows).ravel(), dense.any(1))
            np.testing.assert_array_equal(np.asarray(found.keys).ravel(), dense.any(0))

    def test_a_traced_program_decides_as_it_runs(self) -> None:
        mask, x = spec.Lengths(kv=[2], q=[3]), numbers(0, 1, 4, 1, 2, dtype="float32")

        @jax.jit
        def zero_masked(x: jax.Array) -> Any:
            return jax_masks.zero_masked(jax_attend.make_request(x, x, x, mask))

        for got in zero_masked(jnp.asarray(x)):
            np.testing.assert_array_equal(got, x)
        x[:, 3] = np.inf
        q, k, v = zero_masked(jnp.asarray(x))
        np.testing.assert_array_equal(np.asarray(q)[:, 3], 0)
        for got in (k, v):
            np.testing.assert_array_equal(np.asarray(got)[:, 2:], 0)

    def test_a_whole_grid_and_its_reach(self) -> None:
        at = Grid(np.arange(3)[:, None], np.arange(3), 3, 3, xp=np)
        found = reach_of(np, spec.Causal(), at, ALL_FINITE)
        assert found.rows.all()
        assert found.keys.all()
        assert not found.nonfinite.any()


class TestRefusals:
    def test_a_compiled_layer_refuses_what_is_no_array_in_our_words(self) -> None:
        fast = jax_impl.compiled(jax_impl.MultiHeadAttention(spec.MultiHeadAttention(embed_dim=8, num_heads=2)))
        with pytest.raises(DTypeError, match=r"^argument builtins.str must be a jax.Array or numpy.ndarray$"):
            _ = cast("Any", fast)("x")
