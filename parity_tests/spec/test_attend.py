"""The attention formula equals explicit loops, and masked values are never read.

x[h, t, s] = cap(q[t, h] . k[s, h // (H // K)] scale) + bias[h, t, s]
weights[h, t, s] = exp(x[h, t, s] - logsumexp[h, t]) where allowed
context[t, h] = sum_s weights[h, t, s] keep[h, t, s] / (1 - rate) v[s, h // (H // K)]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention.spec.attend import INTERMEDIATES, Observer, attend, softmax
from attention.spec.scores import mix
from parity_tests.support.calls import FULL, Call, Intermediates, calls, close, formula, masked, poisoned

few = settings(max_examples=40)


def loops(*, q: Any, k: Any, v: Any, scale: float, **given: Any) -> Intermediates:
    """The formula one number at a time, in Python's own arithmetic."""
    *batch, t, h, _ = q.shape
    s, kv = k.shape[-3:-1]
    shape = (*batch, h, t, s)
    allowed, bias = (np.broadcast_to(given.get(n, other), shape) for n, other in (("allowed", True), ("bias", 0.0)))
    out = {name: np.zeros(shape) for name in ("scaled", "capped", "scores", "masked", "weights")}
    out |= {"logsumexp": np.zeros(shape[:-1]), "context": np.zeros((*batch, t, h, v.shape[-1]))}
    for *row, i, j in np.ndindex(*batch, h, t):
        b, head = tuple(row), i // (h // kv)
        seen = [n for n in range(s) if allowed[(*b, i, j, n)]]
        for n in range(s):
            x = math.fsum(q[(*b, j, i)] * k[(*b, n, head)]) * scale
            cap, at = given.get("softcap"), (*b, i, j, n)
            out["scaled"][at] = x
            out["capped"][at] = x if cap is None else cap * math.tanh(x / cap)
            out["scores"][at] = out["capped"][at] + bias[at]
            out["masked"][at] = out["scores"][at] if n in seen else -math.inf
        x = out["scores"][(*b, i, j)]
        parts = [math.exp(x[n]) for n in seen] + ([math.exp(given["sinks"][i])] if "sinks" in given else [])
        out["logsumexp"][(*b, i, j)] = math.log(math.fsum(parts)) if parts else -math.inf
        for n in seen:
            weight = math.exp(x[n]) / math.fsum(parts)
            out["weights"][(*b, i, j, n)] = weight
            if given.get("keep", allowed)[(*b, i, j, n)]:
                out["context"][(*b, j, i)] += weight / (1 - given.get("dropout_rate", 0.0)) * v[(*b, n, head)]
    return out | {"mean_weights": sum(out["weights"][..., i, :, :] for i in range(h)) / h}


class TestLaws:
    @given(calls)
    def test_every_intermediate_is_what_loops_compute(self, of: Call) -> None:
        intermediates, wanted = formula(of), loops(**of)
        assert tuple(intermediates) == INTERMEDIATES
        if "allowed" in of:
            # Scores of what may not be read are anything finite; they are only promised where they are used.
            used = np.broadcast_to(of["allowed"], wanted["scores"].shape)
            for name in ("scaled", "capped", "scores"):
                intermediates[name], wanted[name] = (np.where(used, x[name], 0) for x in (intermediates, wanted))
        for name in INTERMEDIATES:
            close(intermediates[name], wanted[name])

    @few
    @given(calls)
    def test_weights_and_the_sink_share_one_and_an_empty_row_is_zero(self, of: Call) -> None:
        intermediates = formula(of)
        total = intermediates["weights"].sum(-1)
        if "sinks" in of:
            total = total + np.exp(of["sinks"][:, None] - intermediates["logsumexp"])
        empty = intermediates["logsumexp"] == -np.inf
        close(total, np.where(empty, 0.0, 1.0))
        assert not intermediates["weights"][empty].any()
        assert not np.moveaxis(intermediates["context"], -2, -3)[empty].any()

    @few
    @given(calls)
    def test_adding_to_a_whole_row_moves_its_logsumexp_alone(self, of: Call) -> None:
        of = {name: x for name, x in of.items() if name != "sinks"}
        shift = np.arange(of["q"].shape[-3], dtype=np.float64)[:, None]
        before, after = formula(of), formula(of, bias=of.get("bias", 0.0) + shift)
        close(after["weights"], before["weights"])
        close(after["logsumexp"], before["logsumexp"] + shift[:, 0])

    @few
    @given(calls, st.randoms(use_true_random=False))
    def test_the_order_of_keys_does_not_matter(self, of: Call, random: Any) -> None:
        order = list(range(of["k"].shape[-3]))
        random.shuffle(order)
        axes = {"k": -3, "v": -3, "allowed": -1, "bias": -1, "keep": -1}
        moved = of | {name: np.take(of[name], order, axis) for name, axis in axes.items() if name in of}
        close(formula(moved)["context"], formula(of)["context"])
        close(formula(moved)["weights"], np.take(formula(of)["weights"], order, -1))

    @few
    @given(masked, st.integers(1, 3))
    def test_two_halves_of_the_keys_merge_by_their_logsumexp(self, of: Call, cut: int) -> None:
        # What every blockwise kernel rests on: Milakov and Gimelshein, arXiv:1805.02867, section 3.
        whole = formula(of)
        total, merged = whole["logsumexp"], np.zeros_like(whole["context"])
        for part in (slice(cut), slice(cut, None)):
            half = of | {"k": of["k"][:, part], "v": of["v"][:, part], "allowed": of["allowed"][..., part]}
            if half["k"].shape[1]:
                intermediates = formula(half)
                share = np.exp(intermediates["logsumexp"] - np.where(np.isfinite(total), total, 0))
                merged += np.moveaxis(share, -2, -1)[..., None] * intermediates["context"]
        close(merged, whole["context"])

    @few
    @given(masked)
    def test_what_may_not_be_read_reaches_nothing(self, of: Call) -> None:
        clean, dirty = formula(of), formula(poisoned(of))
        for name in INTERMEDIATES:
            np.testing.assert_array_equal(dirty[name], clean[name])

    @few
    @given(masked)
    def test_a_bias_of_minus_infinity_is_a_mask(self, of: Call) -> None:
        biased = formula(of, allowed=None, bias=np.where(of["allowed"], 0.0, -np.inf))
        for name in ("weights", "logsumexp", "context"):
            close(biased[name], formula(of)[name])

    @few
    @given(masked, st.sets(st.integers(0, 3)))
    def test_a_mask_broadcasts(self, of: Call, axes: set[int]) -> None:
        small = of["allowed"].any(axis=tuple(axes), keepdims=True)
        full = formula(of, allowed=np.broadcast_to(small, of["allowed"].shape))
        while small.ndim > 1 and small.shape[0] == 1:
            small = small[0]
        for name, wanted in full.items():
            np.testing.assert_array_equal(formula(of, allowed=small)[name], wanted)

    @few
    @given(calls)
    def test_dropout_scales_what_it_keeps_and_leaves_the_weights(self, of: Call) -> None:
        random = np.random.default_rng(0)
        without = {name: x for name, x in of.items() if name not in ("keep", "dropout_rate")}
        plain = formula(without)
        keep = random.random(plain["weights"].shape) < 0.5
        dropped = formula(without, keep=keep, dropout_rate=0.75)
        np.testing.assert_array_equal(dropped["weights"], plain["weights"])
        close(dropped["context"], mix(np, plain["weights"] * keep * 4, of["v"]))

    @pytest.mark.parametrize("intermediate", ["scores", "logsumexp", "weights", "context"])
    def test_the_next_intermediate_uses_what_the_observer_returns(self, intermediate: str) -> None:
        told: list[str] = []

        class Zero(Observer):
            def __call__(self, intermediate_: str, value: np.ndarray) -> np.ndarray:
                told.append(intermediate_)
                return value * 0 if intermediate_ == intermediate else value

            def attending(self, allowed: np.ndarray | None, scores: Any, sinks: Any, dropped: Any) -> None:
                assert allowed is None
                del sinks, dropped
                told.append(f"attending to {scores().shape}")

        intermediates = formula(FULL, allowed=None, observe=Zero())
        assert told == ["query", "key", "value", "attending to (2, 4, 3, 5)", "scores", "logsumexp", "weights", "context"]
        assert not intermediates[intermediate].any()
        if intermediate == "scores":
            weights, logsumexp = softmax(np, intermediates["scores"], None, FULL["sinks"])
            np.testing.assert_array_equal(intermediates["weights"], weights)
            np.testing.assert_array_equal(intermediates["logsumexp"], logsumexp)
        assert intermediates["context"].any() == (intermediate not in ("weights", "context"))

    def test_no_keys_at_all_are_empty_rows(self) -> None:
        intermediates = attend(np, np.ones((3, 2, 4)), np.ones((0, 2, 4)), np.ones((0, 2, 5)), scale=1.0)
        np.testing.assert_array_equal(intermediates["context"], np.zeros((3, 2, 5)))
        np.testing.assert_array_equal(intermediates["logsumexp"], np.full((2, 3), -np.inf))


class TestValues:
    def test_weights_by_hand(self) -> None:
        # exp of the scores is 1 and 3: weights 1/4 and 3/4.
        q, k, v = np.ones((1, 1, 1)), np.log([1.0, 3.0])[:, None, None], np.array([4.0, 8.0])[:, None, None]
        intermediates = attend(np, q, k, v, scale=1.0)
        close(intermediates["weights"], [[[0.25, 0.75]]])
        close(intermediates["logsumexp"], [[math.log(4)]])
        close(intermediates["context"], [[[7.0]]])
        # A sink of log 4 takes half of it and gives nothing.
        intermediates = attend(np, q, k, v, scale=1.0, sinks=np.log([4.0]))
        close(intermediates["weights"], [[[0.125, 0.375]]])
        close(intermediates["logsumexp"], [[math.log(8)]])
        close(intermediates["context"], [[[3.5]]])

    def test_the_order_is_scale_cap_bias_mask(self) -> None:
        one = np.ones((1, 1, 1))
        capped = attend(np, 50 * one, 2 * one, one, scale=0.5, softcap=50.0, bias=10 * one)["scores"]
        # 50 tanh(1) + 10, and not 50 tanh(60 / 50), as it would be with the bias inside (tokamax).
        close(capped, [[[48.07970779778824]]])
        hidden = attend(np, one, one, one, scale=1.0, bias=1e300 * one, allowed=np.array([[False]]))
        assert (hidden["weights"].item(), hidden["context"].item(), hidden["logsumexp"].item()) == (0, 0, -np.inf)

    def test_scores_of_ten_thousand_overflow_nothing(self) -> None:
        far = np.array([-1e4, 1e4, 1e4])[:, None, None]
        intermediates = attend(np, np.ones((1, 1, 1)), far, far, scale=1.0)
        close(intermediates["weights"], [[[0.0, 0.5, 0.5]]])
        close(intermediates["logsumexp"], [[1e4 + math.log(2)]])
        intermediates = attend(np, np.ones((1, 1, 1)), far, far, scale=1.0, sinks=np.array([2e4]))
        close(intermediates["weights"], [[[0.0, 0.0, 0.0]]])
        close(intermediates["logsumexp"], [[2e4]])
