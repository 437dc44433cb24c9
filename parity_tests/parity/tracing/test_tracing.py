"""Tracing: what is recorded of a program, and what is known of an array when its layout is forgotten.

fingerprint(x) = fingerprint(x transposed, reshaped, broadcast, masked otherwise) != fingerprint((1 + 1e-6) x)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from attention.parity.adapters import Call, program
from attention.parity.tracing.array_difference import difference, familiar
from attention.parity.tracing.axis_permutations import consistent
from attention.parity.tracing.constant_tables import share_constants
from attention.parity.tracing.fingerprint import fingerprint, masked
from attention.parity.tracing.locate import record
from attention.parity.tracing.run_precision import narrowed
from attention.parity.tracing.source_location import Place, is_user, within
from attention.parity.tracing.trace import Recording
from attention.parity.tracing.trace_alignment import Alignment, increasing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5))
Function = Callable[..., Any]


def recorded(function: Function, *arrays: np.ndarray, framework: str = "jax", gradients: bool = False) -> Recording:
    return record(program(function, framework), Call(arrays), "float64", gradients=gradients)


def line(function: Function, text: str) -> int:
    """Return the number of the one line of a function that holds a text."""
    lines, first = inspect.getsourcelines(inspect.unwrap(function))
    [found] = [first + n for n, source in enumerate(lines) if text in source]
    return found


def lines(recording: Recording, op: str, *, backward: bool = False) -> set[int]:
    """Return the lines at which an operation was recorded in this file."""
    events = [event for event in recording.events if event.op == op and event.backward == backward]
    assert all(event.file == __file__ for event in events)
    return {event.line for event in events}


def same(a: np.ndarray, b: np.ndarray, unit: float = 2.0**-53) -> bool:
    return fingerprint(a, unit).equals(fingerprint(b, unit))


class TestFingerprintLaws:
    @pytest.mark.parametrize(
        "other",
        [X.transpose(2, 0, 1), X.reshape(6, 5), X[:, None], np.broadcast_to(X, (4, 2, 3, 5)), X * (1 + 1e-12)],
        ids=["transposed", "reshaped", "unsqueezed", "broadcast", "rounded"],
    )
    def test_layout_is_forgotten(self, other: np.ndarray) -> None:
        assert same(X, other)

    @pytest.mark.parametrize("fill", [-np.inf, np.finfo(np.float32).min, -1e30, -1e9, -1e4, np.nan])
    def test_what_masks_is_forgotten(self, fill: float) -> None:
        hidden = RNG.random(X.shape) < 0.3
        assert same(np.where(hidden, -np.inf, X), np.where(hidden, fill, X))

    def test_what_is_masked_is_not(self) -> None:
        assert not same(np.where(X > 0, -np.inf, X), np.where(X > 0.5, -np.inf, X))
        assert not same(np.where(X > 0, -np.inf, X), np.where(X > 0, X, -np.inf))

    @pytest.mark.parametrize("other", [X * (1 + 1e-6), X + 1e-6, -X, np.where(X.max() == X, X + 1e-6, X), X[:, :2], X**3])
    def test_the_elements_are_not_forgotten(self, other: np.ndarray) -> None:
        assert not same(X, other)

    def test_the_finer_dtype_decides(self) -> None:
        near = narrowed(X, "bfloat16")
        assert fingerprint(X, 2.0**-8).equals(fingerprint(near, 2.0**-8))
        assert not fingerprint(X).equals(fingerprint(near, 2.0**-8))

    def test_large_negative_numbers_among_their_like_are_numbers(self) -> None:
        assert not masked(-1e6 * (1 + RNG.random(7))).any()

    def test_a_mask_is_its_complement_and_no_other(self) -> None:
        causal = np.tri(4, dtype=bool)
        assert same(causal, ~causal)
        assert not same(causal, causal.T)
        assert not same(causal, np.tri(4, k=1, dtype=bool))

    def test_a_mask_of_floats_is_its_pattern(self) -> None:
        causal = np.tri(4)
        assert same(causal, causal[None])
        assert not same(causal, causal.T)

    def test_a_rounding_error_of_zero_is_zero(self) -> None:
        assert fingerprint(X * 1e-17, noise=1e-13).equals(fingerprint(np.zeros(3)))
        assert not fingerprint(X * 1e-17).equals(fingerprint(np.zeros(3)))


class TestLayoutLaws:
    def test_heads_are_split_in_one_way(self) -> None:
        x = RNG.normal(size=(2, 7, 6))
        right, wrong = x.reshape(2, 7, 3, 2), x.reshape(2, 7, 2, 3).swapaxes(2, 3)
        assert consistent(right.transpose(0, 2, 1, 3), right, 1e-9)
        assert consistent(x, right.transpose(0, 2, 1, 3), 1e-9)
        assert not consistent(right.transpose(0, 2, 1, 3), wrong, 1e-9)

    def test_repeating_is_not_tiling(self) -> None:
        k = RNG.normal(size=(2, 2, 5, 3))
        assert not consistent(np.repeat(k, 2, axis=1), np.tile(k, (1, 2, 1, 1)), 1e-9)

    def test_exchanged_axes_of_one_size_are_told_apart_when_asked(self) -> None:
        x = RNG.normal(size=(4, 4))
        assert consistent(x, x.T, 1e-9)
        assert not consistent(x, x.T, 1e-9, same=True)


class TestTorchRecorder:
    def test_every_operation_is_at_its_line(self) -> None:
        def f(x: Any) -> Any:
            y = x.exp()
            return torch.tanh(y)

        made = recorded(f, X, framework="torch")
        assert lines(made, "exp") == {line(f, "x.exp()")}
        assert lines(made, "tanh") == {line(f, "torch.tanh")}

    def test_a_fused_operation_is_recorded_in_parts_at_its_line(self) -> None:
        def f(x: Any) -> Any:
            return functional.layer_norm(x, (5,)).softmax(-1)

        made = recorded(f, X, framework="torch")
        for op in ("rsqrt", "amax", "exp", "div"):
            assert lines(made, op) == {line(f, "layer_norm")}
        assert not {"native_layer_norm", "_softmax"} & {event.op for event in made.events}

    def test_the_backward_pass_is_at_the_line_of_the_forward_one(self) -> None:
        def f(x: Any) -> Any:
            y = x.exp()
            return y.sin()

        made = recorded(f, X, framework="torch", gradients=True)
        assert lines(made, "cos", backward=True) == {line(f, "y.sin()")}
        assert made.events[made.outputs["d input"]].line == line(f, "x.exp()")

    def test_a_library_module_shows_the_line_that_calls_it(self) -> None:
        layer = torch.nn.Linear(5, 5).double()

        def f(x: Any) -> Any:
            return layer(x)

        assert lines(recorded(f, X, framework="torch"), "mm") == {line(f, "layer(x)")}

    def test_a_module_of_modules_shows_the_library(self) -> None:
        made = recorded(torch.nn.Sequential(torch.nn.Tanh()), X, framework="torch")
        [event] = [event for event in made.events if event.op == "tanh"]
        assert "torch/nn" in event.file
        assert "tanh" in event.text

    def test_what_is_written_in_place_is_read_anew(self) -> None:
        def f(x: Any) -> Any:
            y = torch.zeros_like(x)
            y[:, 0] = x[:, 0]
            return y * 2

        made = recorded(f, X, framework="torch")
        read = next(event for event in made.events if event.op == "mul")
        assert (made.events[read.inputs[0]].value[:, 0] == X[:, 0]).all()

    def test_float32_is_as_wide_as_the_run_and_bfloat16_is_not(self) -> None:
        def f(x: Any) -> Any:
            return x.to(torch.float32) * 3, x.to(torch.bfloat16)

        made = recorded(f, X, framework="torch")
        wide, narrow = (made.events[i] for i in made.outputs.values())
        assert (wide.value == 3 * X).all()
        assert (narrow.value == narrowed(X, "bfloat16")).all()

    def test_only_what_the_program_stops_is_a_stop(self) -> None:
        def f(x: Any) -> Any:
            return x.rsqrt().detach() * x.exp()

        made = recorded(f, abs(X), framework="torch", gradients=True)
        assert [stop.line for stop in made.stops] == [line(f, "detach()")]


class TestJaxRecorder:
    @pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap], ids=["jit", "remat", "vmap"])
    def test_every_operation_is_at_its_line(self, wrap: Any) -> None:
        def body(x: Any) -> Any:
            return jnp.sin(x) + 1

        def f(x: Any) -> Any:
            return wrap(body)(x)

        made = recorded(f, X)
        assert lines(made, "sin") == {line(body, "jnp.sin")}
        [sine] = [event for event in made.events if event.op == "sin"]
        assert [place.line for place in sine.places] == [line(body, "jnp.sin"), line(f, "wrap(body)")]

    def test_a_scan_is_unrolled(self) -> None:
        def step(carry: Any, x: Any) -> Any:
            carry = carry * jnp.cos(x)
            return carry, carry

        def f(x: Any) -> Any:
            return jax.lax.scan(step, jnp.ones(5), x[0])[1]

        made = recorded(f, X)
        assert lines(made, "cos") == {line(step, "jnp.cos")}
        assert sum(event.op == "cos" for event in made.events) == 3
        assert np.allclose(made.events[made.outputs["output"]].value, np.cumprod(np.cos(X[0]), axis=0))

    def test_a_loop_and_a_branch_are_followed(self) -> None:
        def f(x: Any) -> Any:
            x = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 2), (0, x))[1]
            return jax.lax.cond(x.shape[0] == 2, jnp.sin, jnp.cos, x)

        made = recorded(f, X)
        assert np.allclose(made.events[made.outputs["output"]].value, np.sin(8 * X))

    def test_what_the_library_jits_is_at_each_line_that_calls_it(self) -> None:
        def f(x: Any) -> Any:
            y = jnp.where(x > 0, x, 0)
            return jnp.where(y > 1, y, 1)

        assert lines(recorded(f, X), "select_n") == {line(f, "x, 0"), line(f, "y, 1")}

    def test_a_backward_pass_by_hand_is_at_its_own_line(self) -> None:
        @jax.custom_vjp
        def f(x: Any) -> Any:
            return jnp.sin(x)

        def forward(x: Any) -> Any:
            return jnp.sin(x), x

        def backward(x: Any, c: Any) -> Any:
            return (c * jnp.cos(x),)

        _ = f.defvjp(forward, backward)
        made = recorded(f, X, gradients=True)
        assert {event.line for event in made.events if event.op == "cos"} == {line(backward, "jnp.cos")}
        assert lines(made, "sin") == {line(forward, "jnp.sin")}

    def test_a_derived_backward_pass_is_at_the_line_of_the_forward_one(self) -> None:
        def f(x: Any) -> Any:
            y = jnp.exp(x)
            return y * y * 3

        made = recorded(f, X, gradients=True)
        assert made.events[made.outputs["d input"]].line == line(f, "jnp.exp")

    def test_float32_is_as_wide_as_the_run_and_bfloat16_is_not(self) -> None:
        made = recorded(lambda x: (x.astype(jnp.float32) * 3, x.astype(jnp.bfloat16)), X)
        wide, narrow = (made.events[i] for i in made.outputs.values())
        assert (wide.value == 3 * X).all()
        assert (narrow.value == narrowed(X, "bfloat16")).all()

    def test_a_remembered_trace_does_not_know_where_it_is_called_from(self) -> None:
        body, old, new = Place("m.py", 3, "body"), Place("m.py", 10, "f"), Place("m.py", 20, "f")
        assert within((body, old), (new,)) == (body, new)
        assert within((body,), (new,)) == (body, new)


class TestAlignment:
    def test_the_longest_pairing_in_order_is_chosen(self) -> None:
        assert increasing([(0, 5), (1, 1), (2, 2), (3, 0), (4, 3)]) == [(1, 1), (2, 2), (4, 3)]
        assert increasing([]) == []

    def test_two_ways_to_a_variance_meet_again(self) -> None:
        def first(x: Any) -> Any:
            return x.var(-1, unbiased=False)

        def second(x: Any) -> Any:
            return (x * x).mean(-1) - x.mean(-1) ** 2

        pair = Alignment(recorded(first, X, framework="torch"), recorded(second, X))
        assert not pair.unequal
        assert any(not found for event, found in zip(pair.jax.events, pair.partners[1], strict=True) if event.is_operation)

    def test_a_gradient_is_compared_with_that_of_the_equal_parameter(self) -> None:
        w = RNG.normal(size=(5, 4))
        first = program((lambda p, x: x @ p["w"].T, {"w": torch.tensor(w.T.copy())}), "torch")
        second = program((lambda p, x: x @ p["kernel"], {"kernel": w}), "jax")
        torch_recording, jax_recording = (record(side, Call((X,)), "float64", gradients=True) for side in (first, second))
        pair = Alignment(torch_recording, jax_recording)
        names = {(pair.torch.events[i].name, pair.jax.events[j].name) for i, j in pair.outputs}
        assert ("d w", "d kernel") in names
        assert not pair.unequal

    def test_a_table_in_float32_is_shared(self) -> None:
        table = (10000.0 ** -np.linspace(0, 1, 5)).astype(np.float32)
        first = recorded(lambda x: x * torch.tensor(table).double(), X, framework="torch")
        second = recorded(lambda x: x * 10000.0 ** -jnp.linspace(0, 1, 5), X)
        assert Alignment(first, second).unequal
        assert share_constants(first, second)
        assert not Alignment(first, second).unequal


class TestDifferences:
    @pytest.mark.parametrize(
        ("other", "kind"),
        [
            (X / np.sqrt(3), "factor"),
            (X + 2, "offset"),
            (X * np.arange(1, 6), "axis factor"),
            (X + np.arange(1, 6), "axis offset"),
            (X[..., ::-1], "reversed"),
            (np.roll(X, 2, axis=2), "rolled"),
            (X[:, :, [1, 0, 2, 4, 3]], "reordered"),
            (narrowed(X, "bfloat16"), "rounded"),
            (narrowed(X, "tfloat32"), "rounded"),
            (np.where(X > 0, X, -np.inf), "masked"),
            (X * 0, "zero"),
            (np.sin(X), "values"),
            (X[:1], "shape"),
            (X.transpose(0, 2, 1), "axes"),
            (X * (1 + 1e-12), "none"),
        ],
        ids=str.split(
            "factor offset axis_factor axis_offset reversed rolled reordered bfloat16 tf32 masked zero values shape axes none"
        ),
    )
    def test_a_difference_is_named(self, other: np.ndarray, kind: str) -> None:
        assert difference(X, other).kind == kind

    def test_a_merged_axis_is_no_difference(self) -> None:
        assert difference(X.reshape(6, 5), 2 * X).kind == "factor"

    def test_masks(self) -> None:
        causal = np.tri(5, dtype=bool)
        assert difference(causal, ~causal).kind == "complement"
        assert difference(causal, np.tri(5, k=1, dtype=bool)).numbers["diagonals"] == [1]

    def test_a_familiar_factor_is_named(self) -> None:
        assert "1 / sqrt 3" in difference(X, X / np.sqrt(3)).text
        assert familiar(np.log2(np.e)) == " (log2 e)"
        assert not familiar(0.123)


class TestValues:
    def test_whose_a_file_is(self) -> None:
        assert is_user(__file__)
        assert not is_user(torch.__file__)
        assert not is_user(inspect.__file__)
        assert not is_user(inspect.getfile(Recording))
