"""Suspect lines: of either side at most five, the line of the mistake among them, whatever the mistake stands in.

a setting of a module, a helper's helper, an argument of a call, an absent operation, one loop beside a whole array
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
from flax import nnx
from torch import nn

from attention.parity.tracing import Divergence, locate
from attention.parity.tracing.source_statements import definition_lines, reading_lines, span

RNG = np.random.default_rng(8)
X = RNG.normal(size=(3, 5, 8)).astype(np.float32)
Y = RNG.normal(size=(3, 5, 8)).astype(np.float32)


def line_of(text: str) -> int:
    """Return the line of this file that ends with a comment."""
    lines = inspect.getsource(inspect.getmodule(line_of) or inspect).splitlines()  # type: ignore[arg-type]
    return next(n for n, line in enumerate(lines, 1) if line.rstrip().endswith(f"# {text}"))


def shown(found: Divergence, which: int) -> list[tuple[int, int]]:
    return [place.span for place in found.suspects[which] if place.file == __file__]


def is_shown(found: Divergence, which: int, text: str) -> bool:
    return any(first <= line_of(text) <= last for first, last in shown(found, which))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8, eps=1e-5)

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.norm(x.mT)).mT * 2


class GatedPort(nnx.Module):
    def __init__(self) -> None:
        self.other = nnx.LayerNorm(8, rngs=nnx.Rngs(0))
        self.norm = grouped()

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(self.norm(x)) * 2


def grouped() -> Any:
    return nnx.GroupNorm(8, num_groups=4, epsilon=1e-5, rngs=nnx.Rngs(0))  # four groups


def attend(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.mT) @ v


def attended(x: Any, y: Any) -> Any:
    a = jnp.sin(x)
    return attend(a, y, a)  # the values are the queries


def attended_torch(x: Any, y: Any) -> Any:
    return (torch.sin(x) @ y.mT).softmax(-1) @ y


def split(x: Any) -> Any:
    a, b, c, d = jnp.split(x, 4, axis=-1)  # in another order
    return jax.nn.sigmoid(a) * jnp.tanh(b) + jnp.cos(c) * d


def split_torch(x: Any) -> Any:
    a, c, b, d = x.chunk(4, -1)
    return torch.sigmoid(a) * torch.tanh(b) + torch.cos(c) * d


def frequencies(x: Any) -> Any:
    exponent = np.arange(8) / 7  # one less
    return x * jnp.cos(10.0**exponent)


def frequencies_torch(x: Any) -> Any:
    return x * torch.cos(10.0 ** (torch.arange(8, dtype=x.dtype) / 8))


def in_lines(x: Any) -> Any:
    y = jnp.mean(
        jnp.square(x),
        axis=1,  # another axis
        keepdims=True,
    )
    return x * y


def in_lines_torch(x: Any) -> Any:
    return x * x.square().mean(-1, keepdim=True)


def looped(x: Any) -> Any:
    out = []
    for i in range(x.shape[1]):
        y = torch.sin(x[:, i]) * 2
        y = torch.tanh(y)
        out.append(y + y.square())
    return torch.stack(out, 1)


def at_once(x: Any) -> Any:
    y = jnp.sin(x) * 2
    y = jnp.tanh(y)
    return y + y**3  # the cube


def unmapped(x: Any) -> Any:
    y = x @ x.mT
    y = y * 1.0
    return jax.nn.softmax(y)  # no tanh before


def mapped_torch(x: Any) -> Any:
    return torch.tanh(x @ x.mT).softmax(-1)


def nearest(x: Any, y: Any) -> Any:
    near = jnp.argmax(((x[:, :, None] - y[:, None]) ** 2).sum(-1), -1)  # the farthest
    return jnp.take_along_axis(y, near[..., None], 1) * 3


def nearest_torch(x: Any, y: Any) -> Any:
    near = ((x[:, :, None] - y[:, None]) ** 2).sum(-1).argmin(-1)
    return torch.take_along_dim(y, near[..., None], 1) * 3


def scaled(x: Any) -> Any:
    scale = 8**0.5  # the root
    y = x * scale
    y = jnp.tanh(y) + 1
    return jnp.exp(-y) * y


def scaled_torch(x: Any) -> Any:
    y = torch.tanh(x * 8) + 1
    return torch.exp(-y) * y


def summed(x: Any) -> Any:
    def step(carry: Any, x: Any) -> Any:
        carry = 0.5 * carry + jnp.sin(x)
        y = jnp.tanh(carry)
        return carry, y * jax.nn.sigmoid(y)  # a sigmoid

    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.moveaxis(x, 1, 0))[1], 0, 1) * 3


def summed_torch(x: Any) -> Any:
    steps = torch.arange(x.shape[1])
    weights = torch.where(steps[:, None] >= steps, 0.5 ** (steps[:, None] - steps).clamp(min=0), 0.0).to(x.dtype)
    y = torch.tanh(torch.einsum("ts,bsc->btc", weights, torch.sin(x)))
    return y * torch.cos(y) * 3


def repeated(x: Any) -> Any:
    y = jnp.tanh(x)
    y = jax.lax.fori_loop(0, 4, lambda _, y: y + 0.3 * jnp.sin(y), y)  # four times
    return jnp.cos(y) @ y.mT


def repeated_torch(x: Any) -> Any:
    y = torch.tanh(x)
    for _ in range(3):
        y = y + 0.3 * torch.sin(y)
    return torch.cos(y) @ y.mT


CASES: dict[str, tuple[Any, Any, tuple[np.ndarray, ...], str]] = {
    "a setting of a helper's module": (Gated(), GatedPort(), (X,), "four groups"),
    "an argument of a call": (attended_torch, attended, (X, Y), "the values are the queries"),
    "the order of a split": (split_torch, split, (X,), "in another order"),
    "a constant made before the trace": (frequencies_torch, frequencies, (X,), "one less"),
    "a call over several lines": (in_lines_torch, in_lines, (X,), "another axis"),
    "a loop beside a whole array": (looped, at_once, (X,), "the cube"),
    "an absent operation": (mapped_torch, unmapped, (X,), "no tanh before"),
    "a number beside the line": (scaled_torch, scaled, (X,), "the root"),
    "a scan beside a whole array": (summed_torch, summed, (X,), "a sigmoid"),
    "how often a loop runs": (repeated_torch, repeated, (X,), "four times"),
    "an index that is decided": (nearest_torch, nearest, (X, Y), "the farthest"),
}


class TestValues:
    @pytest.mark.parametrize("name", CASES)
    def test_the_line_of_the_mistake_is_among_them(self, name: str) -> None:
        first, second, inputs, text = CASES[name]
        found = locate(first, second, inputs)
        assert found.found
        assert is_shown(found, 1, text), (text, line_of(text), shown(found, 1))

    def test_a_loop_beside_a_whole_array_parts_at_one_operation(self) -> None:
        found = locate(looped, at_once, (X,))
        assert found.kind == "different"
        assert found.jax is not None
        assert found.jax.line == line_of("the cube")

    def test_a_scan_beside_a_whole_array_parts_at_one_operation(self) -> None:
        found = locate(summed_torch, summed, (X,))
        assert found.kind == "different"
        assert found.jax is not None
        assert found.jax.line == line_of("a sigmoid")

    def test_axes_of_one_size_in_another_order_hide_no_mistake(self) -> None:
        x = RNG.normal(size=(2, 2, 5, 5))

        def first(x: Any) -> Any:
            y = torch.tanh(x) * 2
            return (y @ y.mT).sum((1, 3))

        def second(x: Any) -> Any:
            y = jnp.swapaxes(jnp.tanh(x), 0, 1)
            y = y + 0.1 * y**3  # heads come first
            return jnp.einsum("hbqd,hbkd->bq", y, y)

        found = locate(first, second, (x,))
        assert found.kind == "different"
        assert found.share == pytest.approx(1.0)
        assert is_shown(found, 1, "heads come first")

    def test_a_stopped_gradient_names_what_should_read_it(self) -> None:
        def first(x: Any) -> Any:
            with torch.no_grad():
                z = torch.sin(x)
            return x.square() + z

        def second(x: Any) -> Any:
            z = jnp.sin(x)  # flows
            return jnp.square(x) + z

        found = locate(first, second, (X,), gradients=True)
        assert found.kind == "absent in jax"
        assert is_shown(found, 1, "flows")

    def test_a_scan_tells_the_turn(self) -> None:
        def first(x: Any) -> Any:
            for n in range(3):
                x = torch.sin(x) + (0.5 if n == 1 else 0.0)
            return x

        def second(x: Any) -> Any:
            def layer(x: Any, n: Any) -> tuple[Any, None]:
                return jnp.sin(x) + n * 0.25, None

            return jax.lax.scan(layer, x, jnp.asarray([0.0, 1.0, 0.0]))[0]

        found = locate(first, second, (X,))
        assert found.jax is not None
        assert found.jax.turns == (1,)
        assert "in turn 1 of a scan" in str(found)


class TestLaws:
    @pytest.mark.parametrize("name", CASES)
    def test_there_are_at_most_five_of_either_side(self, name: str) -> None:
        first, second, inputs, _ = CASES[name]
        found = locate(first, second, inputs)
        for which, places in enumerate(found.suspects):
            assert 1 <= len(places) <= 5
            assert len({(p.file, p.line) for p in places}) == len(places)
            event = (found.torch, found.jax)[which]
            assert event is not None
            assert places[0] == event.place
        assert "lines that may hold the mistake" in str(found) or max(map(len, found.suspects)) == 1

    def test_right_programs_have_none(self) -> None:
        found = locate(looped, lambda x: jnp.tanh(jnp.sin(x) * 2) + jnp.tanh(jnp.sin(x) * 2) ** 2, (X,))
        assert not found.found
        assert found.suspects == ((), ())


class TestStatements:
    def test_a_call_is_one_statement(self) -> None:
        line = line_of("another axis") - 2
        assert span(__file__, line) == (line, line + 4)

    def test_a_function_is_its_first_line(self) -> None:
        line = inspect.getsourcelines(in_lines)[1]
        assert span(__file__, line) == (line, line)

    def test_an_attribute_is_defined_where_it_is_set(self) -> None:
        line = inspect.getsourcelines(GatedPort.__call__)[1] + 1
        texts = [text for _, text in definition_lines(__file__, line)]
        assert "self.norm = grouped()" in texts
        assert not any("other" in text for text in texts)

    def test_readers_are_below_in_the_same_function(self) -> None:
        line = line_of("in another order")
        assert reading_lines(__file__, line) == [line + 1]

    @pytest.mark.parametrize("call", [definition_lines, reading_lines])
    def test_what_cannot_be_read_has_none(self, call: Callable[[str, int], list[Any]]) -> None:
        assert call("/nowhere.py", 3) == []
        assert span("/nowhere.py", 3) == (3, 3)
