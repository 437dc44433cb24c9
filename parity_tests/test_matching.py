"""Parameter maps: found from values, names, shapes and outputs; exact in both directions; what is open is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention import spec
from attention.exchange import flax_mha, gpt2, torch_mha
from attention.exchange.dialect import read, write
from attention.parity.matching import Block, Move, ParamMap, match
from attention.parity.matching.values import fingerprint
from attention.parity.programs import Arrays, Call, Made, Program
from attention.spec.errors import FileError, ParamError, SideFailed

M, H, D = 10, 2, 5
HD = H * D
CALL = Call((np.random.default_rng(7).standard_normal((3, M)).astype(np.float32),))


@dataclass
class Fake(Program):
    """A program in NumPy: `function(params, x)`, and how often it ran."""

    params: Arrays
    function: Callable[[Arrays, np.ndarray], np.ndarray] = lambda _params, x: x
    framework: str = "torch"
    name: str = "fake"
    runs: int = 0

    def run(self, call: Call, *, params: Any = None, cotangents: Any = None, dtype: str | None = None) -> Made:
        del cotangents, dtype
        self.runs += 1
        return Made({"output": np.asarray(self.function(self.params if params is None else params, call.args[0]))})


def torch(params: Arrays, function: Any = None) -> Fake:
    return Fake(params, function or (lambda _params, x: x), name="torch side")


def jax(params: Arrays, function: Any = None) -> Fake:
    return Fake(params, function or (lambda _params, x: x), "jax", name="jax side")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    return {name: draw(*shape, seed=seed + place) for place, (name, shape) in enumerate(shapes.items())}


def equal(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
        assert got[name].dtype == array.dtype


def carries(found: ParamMap, first: Arrays, second: Arrays) -> None:
    """Both directions give the other program's very bits, and nothing is left."""
    equal(found.forward(first), second)
    equal(found.backward(second), first)
    assert found.left_over == ((), ())


PACKED: dict[str, tuple[int, ...]] = {
    "in_proj_weight": (3 * HD, M),
    "in_proj_bias": (3 * HD,),
    "out_proj.weight": (M, HD),
    "out_proj.bias": (M,),
}


def separate(packed: Arrays, order: str = "qkv") -> Arrays:
    """The kernels that Flax makes of torch's packed matrix."""
    names = {"q": "query", "k": "key", "v": "value"}
    found: Arrays = {}
    for place, letter in enumerate(order):
        rows = slice(place * HD, (place + 1) * HD)
        found[f"{names[letter]}.kernel"] = packed["in_proj_weight"][rows].reshape(H, D, M).transpose(2, 0, 1)
        found[f"{names[letter]}.bias"] = packed["in_proj_bias"][rows].reshape(H, D)
    found["out.kernel"] = packed["out_proj.weight"].T.reshape(H, D, M)
    found["out.bias"] = packed["out_proj.bias"]
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(T, H, D) each; heads are merged."""
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v).reshape(len(q), -1)


def packed_attention(p: Arrays, x: np.ndarray) -> np.ndarray:
    q, k, v = ((x @ p["in_proj_weight"].T + p["in_proj_bias"]).reshape(len(x), 3, H, D)[:, i] for i in range(3))
    return attend(q, k, v) @ p["out_proj.weight"].T + p["out_proj.bias"]


def flax_attention(p: Arrays, x: np.ndarray) -> np.ndarray:
    q, k, v = (np.einsum("tm,mhd->thd", x, p[f"{n}.kernel"]) + p[f"{n}.bias"] for n in ("query", "key", "value"))
    return attend(q, k, v) @ p["out.kernel"].reshape(HD, M) + p["out.bias"]


class TestLaws:
    @given(st.data())
    @settings(max_examples=60)
    def test_any_composition_of_splits_transposes_and_fusions_is_found(self, data: st.DataObject) -> None:
        first, second = composed(data.draw)
        found = match(torch(first), jax(second))
        carries(found, first, second)
        assert all(move.evidence == "values" for move in found.moves)

    @given(st.lists(st.integers(-9, 9), min_size=1), st.lists(st.integers(-9, 9), min_size=1), st.randoms())
    def test_fingerprints_ignore_order_and_add_up(self, one: list[int], other: list[int], random: Any) -> None:
        x, y = np.array(one, np.float32), np.array(other, np.float32)
        both = [*one, *other]
        random.shuffle(both)
        assert fingerprint(np.array(both, np.float32)) == (fingerprint(x) + fingerprint(y)) % 2**64

    def test_negative_zero_is_zero_and_another_number_is_another_fingerprint(self) -> None:
        assert fingerprint(np.array([0.0, 1.0])) == fingerprint(np.array([1.0, -0.0]))
        assert fingerprint(np.array([0.0, 1.0])) != fingerprint(np.array([0.0, 1.0 + 1e-16 * 3]))

    def test_maps_are_read_back_from_json(self, tmp_path: Path) -> None:
        first = drawn(PACKED)
        found = match(torch(first), jax(separate(first)))
        found.to_json(tmp_path / "map.json")
        assert ParamMap.from_json(tmp_path / "map.json") == found

    def test_the_inverse_of_the_inverse_is_the_map(self) -> None:
        first = drawn(PACKED)
        found = match(torch(first), jax(separate(first)))
        assert found.inverse.inverse == found

    def test_two_hundred_arrays_take_less_than_two_seconds(self) -> None:
        first = {f"layers.{i}.weight": draw(64, 64, seed=i) for i in range(200)}
        second = {f"blocks_{i}.kernel": np.ascontiguousarray(first[f"layers.{i}.weight"].T) for i in reversed(range(200))}
        start = process_time()
        found = match(torch(first), jax(second))
        assert process_time() - start < 2.0
        equal(found.forward(first), second)


def composed(draw_: Any) -> tuple[Arrays, Arrays]:
    """Two layouts of the same numbers: some arrays transposed with their axes split, some fused in groups along one axis."""
    sizes = st.sampled_from([2, 3, 4, 5])
    first: Arrays = {}
    second: Arrays = {}
    for place in range(draw_(st.integers(1, 3))):
        groups, rest = draw_(sizes), draw_(sizes)
        widths = draw_(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        parts = [draw(groups, width, rest, 3, seed=10 * place + i) for i, width in enumerate(widths)]
        order = draw_(st.sampled_from(list(permutations(range(len(parts))))))
        fused = np.concatenate([parts[at] for at in order], axis=1)
        turned = fused.transpose(draw_(st.sampled_from(list(permutations(range(4))))))
        cut = draw_(st.integers(1, 3))
        whole = np.ascontiguousarray(turned).reshape(int(np.prod(turned.shape[:cut])), -1)
        single = {}
        for i, part in enumerate(parts):
            perm = draw_(st.sampled_from(list(permutations(range(4)))))
            single[f"part{place}_{i}"] = np.ascontiguousarray(part.transpose(perm))
        flipped = draw_(st.booleans())
        first |= single if flipped else {f"whole{place}": whole}
        second |= {f"whole{place}": whole} if flipped else single
    return first, second


class TestValues:
    def test_linear(self) -> None:
        first = drawn({"weight": (7, 5), "bias": (7,)})
        second = {"kernel": np.ascontiguousarray(first["weight"].T), "bias": first["bias"].copy()}
        found = match(torch(first), jax(second))
        carries(found, first, second)
        assert str(found).splitlines() == [
            "weight (7, 5)  ->  kernel (5, 7)   transposed   by values",
            "bias (7,)      ->  bias (7,)       as it is     by values",
        ]

    def test_packed_attention_is_three_kernels_by_heads(self) -> None:
        first = drawn(PACKED)
        second = separate(first)
        found = match(torch(first), jax(second))
        carries(found, first, second)
        row = next(line for line in str(found).splitlines() if "key.kernel" in line)
        assert row.split("  ") [0] == "in_proj_weight (30, 10)"
        assert "rows 10:20, transposed, split (2, 5)" in row

    def test_packed_attention_loaded_in_another_order_is_said_to_be(self) -> None:
        first = drawn(PACKED)
        second = separate(first, "kqv")
        found = match(torch(first), jax(second))
        carries(found, first, second)
        assert "rows 0:10, transposed" in next(line for line in str(found).splitlines() if "key.kernel" in line)

    def test_gpt2_packs_columns(self) -> None:
        weights = drawn({"q.kernel": (M, H, D), "k.kernel": (M, H, D), "v.kernel": (M, H, D)})
        packed = {"c_attn.weight": np.concatenate([x.reshape(M, HD) for x in weights.values()], axis=1)}
        found = match(torch(packed), jax(weights))
        carries(found, packed, weights)
        assert "columns 10:20, split (2, 5)" in str(found)

    @pytest.mark.parametrize("groups", [1, 2])
    def test_interleaved_per_head_and_per_group(self, groups: int) -> None:
        # K = 2 heads of keys, each with `groups` of queries: [q ... q k v] for each.
        q, k, v = draw(2, groups, D, M), draw(2, 1, D, M, seed=1), draw(2, 1, D, M, seed=2)
        first = {"qkv.weight": np.concatenate([q, k, v], axis=1).reshape(-1, M)}
        second = {f"{n}.kernel": np.ascontiguousarray(x.reshape(-1, M).T) for n, x in (("q", q), ("k", k), ("v", v))}
        carries(match(torch(first), jax(second)), first, second)
        carries(match(jax(second), torch(first)), second, first)

    def test_both_fused_each_in_its_own_way(self) -> None:
        q, k, v = draw(2, 3, D, M), draw(2, 1, D, M, seed=1), draw(2, 1, D, M, seed=2)
        grouped = {"wqkv.weight": np.concatenate([q, k, v], axis=1).reshape(-1, M)}
        flat = {"qkv.kernel": np.concatenate([x.reshape(-1, M) for x in (q, k, v)]).T.copy()}
        carries(match(torch(grouped), jax(flat)), grouped, flat)
        carries(match(jax(flat), torch(grouped)), flat, grouped)

    def test_layers_that_a_scan_has_stacked(self) -> None:
        first = {f"layers.{i}.in_proj_weight": draw(3 * HD, M, seed=i) for i in range(3)}
        second = {
            f"layers.{n}.kernel": np.stack([x[j * HD : (j + 1) * HD].T for x in first.values()]) for j, n in enumerate("qkv")
        }
        carries(match(torch(first), jax(second)), first, second)

    def test_rotary_halves_and_pairs(self) -> None:
        first = {"q_proj.weight": draw(H * 4, M)}
        second = {"q_proj.weight": first["q_proj.weight"].reshape(H, 2, 2, M).swapaxes(1, 2).reshape(H * 4, M)}
        carries(match(torch(first), jax(second)), first, second)

    def test_convolution(self) -> None:
        first = {"conv.weight": draw(5, 3, 2, 2)}
        second = {"conv.kernel": np.ascontiguousarray(first["conv.weight"].transpose(2, 3, 1, 0))}
        found = match(torch(first), jax(second))
        carries(found, first, second)

    def test_a_square_kernel_is_transposed_where_its_values_are(self) -> None:
        first = {"fc.weight": draw(6, 6)}
        for turned in (False, True):
            kernel = np.ascontiguousarray(first["fc.weight"].T) if turned else first["fc.weight"].copy()
            found = match(torch(first), jax({"fc.kernel": kernel}))
            assert found.moves[0].words == ("transposed" if turned else "as it is")
            assert not found.ties

    def test_twelve_layers_of_one_shape_are_told_apart_by_values_whatever_their_names(self) -> None:
        first = {f"layers.{i}.fc.weight": draw(6, 6, seed=i) for i in range(12)}
        second = {f"Dense_{11 - i}.kernel": x.T.copy() for i, x in enumerate(first.values())}
        carries(match(torch(first), jax(second)), first, second)

    def test_cloned_layers_are_told_apart_by_name(self) -> None:
        """`nn.TransformerEncoder` copies its first layer: all begin equal."""
        packed = drawn(PACKED)
        first = {f"layers.{i}.self_attn.{n}": x.copy() for i in range(3) for n, x in packed.items()}
        second = {f"layers_{i}.attention.{n}": x.copy() for i in range(3) for n, x in separate(packed).items()}
        found = match(torch(first), jax(second))
        assert found.left_over == ((), ())
        for move in found.moves:
            assert move.first.name.split(".")[1] == move.second.name.split(".")[0].removeprefix("layers_")

    @pytest.mark.parametrize("extra", ["first", "second"])
    def test_tied_embeddings_are_copied_and_their_gradients_added(self, extra: str) -> None:
        table = draw(7, 4)
        once: Arrays = {"wte.weight": table}
        twice: Arrays = {"embed.embedding": table.copy(), "lm_head.kernel": np.ascontiguousarray(table.T)}
        first, second = (once, twice) if extra == "second" else (twice, once)
        found = match(torch(first), jax(second))
        carries(found, first, second)
        assert len(found.copies) == 1
        assert "lm_head.kernel" in {found.copies[0].first.name, found.copies[0].second.name}
        assert "tied" in str(found)
        one, other = draw(7, 4, seed=1), draw(4, 7, seed=2)
        divided, added = {"embed.embedding": one, "lm_head.kernel": other}, {"wte.weight": one + other.T}
        pairs = found.gradients(*((added, divided) if extra == "second" else (divided, added)))
        assert list(pairs) == (["embed.embedding"] if extra == "second" else ["wte.weight"])
        for ours, theirs in pairs.values():
            np.testing.assert_array_equal(ours, theirs)

    def test_numbers_stored_in_another_dtype_are_recognised(self) -> None:
        first = {"weight": draw(9, 8).astype(np.float16).astype(np.float32)}
        second = {"kernel": first["weight"].T.astype(np.float16)}
        assert match(torch(first), jax(second)).moves[0].evidence == "values"

    def test_millions_of_numbers_collide_and_are_placed_all_the_same(self) -> None:
        # Of 240,000 multiples of 2^-18 in [0, 1) most are shared by several elements.
        rng = np.random.default_rng(0)
        first = {"in_proj_weight": (rng.integers(0, 2**18, (600, 400)) / 2**18).astype(np.float32)}
        parts = np.split(first["in_proj_weight"], 3)
        second = {f"{n}.kernel": x.reshape(4, 50, 400).transpose(2, 0, 1).copy() for n, x in zip("qkv", parts, strict=True)}
        carries(match(torch(first), jax(second)), first, second)
