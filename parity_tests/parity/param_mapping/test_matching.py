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
from attention.checkpoints import flax_mha, gpt2, torch_mha
from attention.checkpoints.weight_map import read, write
from attention.parity.adapters import Arrays, Call, Made, Program, program
from attention.parity.param_mapping import Block, Move, ParamMap, match
from attention.parity.param_mapping.value_search import fingerprint
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
        for move in found.moves:
            block = move.first.of(first[move.first.name])
            np.testing.assert_array_equal(move.backward(move.forward(block)), block)
            assert move.evidence == "values"

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
        assert row.split("  ")[0] == "in_proj_weight (30, 10)"
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
        for found in (match(torch(first), jax(second)), match(jax(second), torch(first)).inverse):
            carries(found, first, second)
            assert len(found.moves) == 3

    def test_both_fused_each_in_its_own_way(self) -> None:
        q, k, v = draw(2, 3, D, M), draw(2, 1, D, M, seed=1), draw(2, 1, D, M, seed=2)
        grouped = {"wqkv.weight": np.concatenate([q, k, v], axis=1).reshape(-1, M)}
        flat = {"qkv.kernel": np.concatenate([x.reshape(-1, M) for x in (q, k, v)]).T.copy()}
        for found in (match(torch(grouped), jax(flat)), match(jax(flat), torch(grouped)).inverse):
            carries(found, grouped, flat)
            # Keys and values lie in the same order in both, so they move as one.
            assert len(found.moves) == 2

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

    def test_integers_are_matched_by_name_and_left_as_they_are(self) -> None:
        first = {"order.weight": np.arange(6), "fc.weight": draw(M, M)}
        second = {"order.weight": np.arange(6)[::-1].copy(), "fc.kernel": draw(M, M, seed=5)}
        sides = torch(first, lambda p, x: x @ p["fc.weight"].T), jax(second, lambda p, x: x @ p["fc.kernel"])
        found = match(*sides, CALL)
        assert told(found) == {"order.weight": "order.weight", "fc.weight": "fc.kernel"}

    def test_millions_of_numbers_collide_and_are_placed_all_the_same(self) -> None:
        # Of 240,000 multiples of 2^-18 in [0, 1) most are shared by several elements.
        rng = np.random.default_rng(0)
        first = {"in_proj_weight": (rng.integers(0, 2**18, (600, 400)) / 2**18).astype(np.float32)}
        parts = np.split(first["in_proj_weight"], 3)
        second = {f"{n}.kernel": x.reshape(4, 50, 400).transpose(2, 0, 1).copy() for n, x in zip("qkv", parts, strict=True)}
        carries(match(torch(first), jax(second)), first, second)


NAMES = {
    "wte.weight": "embed.embedding",
    "h.0.ln_1.weight": "blocks_0.LayerNorm_0.scale",
    "h.0.ln_1.bias": "blocks_0.LayerNorm_0.bias",
    "h.0.attn.q_proj.weight": "blocks_0.attention.query.kernel",
    "h.0.attn.q_proj.bias": "blocks_0.attention.query.bias",
    "h.0.attn.k_proj.weight": "blocks_0.attention.key.kernel",
    "h.0.attn.k_proj.bias": "blocks_0.attention.key.bias",
    "h.0.attn.v_proj.weight": "blocks_0.attention.value.kernel",
    "h.0.attn.v_proj.bias": "blocks_0.attention.value.bias",
    "h.0.attn.out_proj.weight": "blocks_0.attention.out.kernel",
    "h.0.attn.out_proj.bias": "blocks_0.attention.out.bias",
    "h.0.ln_2.weight": "blocks_0.LayerNorm_1.scale",
    "h.0.ln_2.bias": "blocks_0.LayerNorm_1.bias",
    "h.0.mlp.fc1.weight": "blocks_0.mlp.up_proj.kernel",
    "h.0.mlp.fc1.bias": "blocks_0.mlp.up_proj.bias",
    "h.0.mlp.fc2.weight": "blocks_0.mlp.down_proj.kernel",
    "h.0.mlp.fc2.bias": "blocks_0.mlp.down_proj.bias",
    "ln_f.weight": "final_norm.scale",
    "ln_f.bias": "final_norm.bias",
}


def sized(name: str) -> tuple[int, ...]:
    """The shape of a parameter of `NAMES` in torch."""
    if "wte" in name:
        return (13, 6)
    wide, inner = (8 if "fc1" in name else 6), (8 if "fc2" in name else 6)
    return (wide,) if name.endswith("bias") or "ln_" in name else (wide, inner)


def told(found: ParamMap) -> dict[str, str]:
    return {move.first.name: move.second.name for move in found.moves}


def mlp(kernels: tuple[str, str], *, turned: bool) -> Callable[[Arrays, np.ndarray], np.ndarray]:
    def run(p: Arrays, x: np.ndarray) -> np.ndarray:
        one, other = (p[name].T if turned else p[name] for name in kernels)
        return np.tanh(x @ one) @ other

    return run


class TestNames:
    def test_a_transformer_is_matched_by_its_names(self) -> None:
        """Constant biases and scales, and kernels of which no number is shared."""
        first = {name: np.zeros(sized(name)) if len(sized(name)) == 1 else draw(*sized(name)) for name in NAMES}
        second = {
            NAMES[name]: np.ones_like(x) if x.ndim == 1 else draw(*(x.shape if "wte" in name else x.shape[::-1]), seed=1)
            for name, x in reversed(first.items())
        }
        found = match(torch(first), jax(second))
        assert told(found) == NAMES
        kernel = next(move for move in found.moves if move.first.name == "h.0.mlp.fc1.weight")
        assert (kernel.words, kernel.evidence) == ("transposed", "names")

    def test_twelve_layers_are_matched_by_their_numbers(self) -> None:
        first = {f"layers.{i}.fc.weight": draw(4, 6, seed=i) for i in range(1, 13)}
        second = {f"blocks_{i}.dense.kernel": draw(6, 4, seed=20 + i) for i in reversed(range(12))}
        assert told(match(torch(first), jax(second))) == {
            f"layers.{i + 1}.fc.weight": f"blocks_{i}.dense.kernel" for i in range(12)
        }

    def test_zero_biases_follow_their_kernels(self) -> None:
        first = {**drawn(PACKED), "in_proj_bias": np.zeros(3 * HD, np.float32)}
        second = separate(first, "vkq")
        found = match(torch(first), jax(second))
        assert found.left_over == ((), ())
        rows = {move.second.name: move for move in found.moves}
        assert rows["query.bias"].first.where == rows["query.kernel"].first.where == "rows 20:30"
        assert rows["query.bias"].evidence == "its kernel query.kernel"

    def test_fused_kernels_are_matched_by_their_words(self) -> None:
        first, second = drawn({"attn.c_attn.weight": (7, 18)}), drawn({f"attn.{n}.kernel": (7, 2, 3) for n in "qkv"}, seed=9)
        for found in (match(torch(first), jax(second)), match(jax(second), torch(first)).inverse):
            assert [move.first.where for move in found.moves] == ["columns 0:6", "columns 6:12", "columns 12:18"]
            assert "layouts fit" in found.ties[0]

    def test_stacked_layers_are_matched_by_their_number(self) -> None:
        first = {f"layers.{i}.fc.weight": draw(4, 6, seed=i) for i in (2, 10, 0)}
        found = match(torch(first), jax({"layers.fc.kernel": draw(3, 6, 4, seed=5)}))
        where = {move.first.name: move.second.where for move in found.moves}
        assert where == {f"layers.{i}.fc.weight": f"[{n}:{n + 1}, :, :]" for n, i in enumerate((0, 2, 10))}
        assert {move.words.split(",")[0] for move in found.moves} == {"transposed"}

    def test_what_has_no_counterpart_is_left_over_by_name(self) -> None:
        first = drawn({"fc.weight": (4, 6), "fc.bias": (4,), "extra.weight": (3, 3)})
        second = drawn({"fc.kernel": (6, 4), "scale": (5,)}, seed=5)
        found = match(torch(first), jax(second))
        assert found.left_over == (("fc.bias", "extra.weight"), ("scale",))
        assert "left over in the first: fc.bias, extra.weight" in str(found)

    def test_programs_that_share_nothing_have_an_empty_map(self) -> None:
        found = match(torch(drawn({"a": (4, 6)})), jax(drawn({"b": (5,)})))
        assert (found.moves, found.left_over) == ((), (("a",), ("b",)))

    def test_a_program_that_keeps_rectangles_inputs_first_keeps_squares_so(self) -> None:
        first = drawn({"c_fc.weight": (4, 6), "c_proj.weight": (6, 6)})
        second = drawn({"c_fc.kernel": (4, 6), "c_proj.kernel": (6, 6)}, seed=5)
        found = match(torch(first), jax(second))
        assert {move.words for move in found.moves} == {"as it is"}
        assert len(found.ties) == 1


class TestOutputs:
    @pytest.mark.parametrize("leaf", ["kernel", "weight"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_square_kernels_are_transposed_where_the_outputs_say_so(self, leaf: str, turned: bool) -> None:
        shapes = {"fc1.weight": (M, M), "fc2.weight": (M, M)}
        first = torch(drawn(shapes), mlp(("fc1.weight", "fc2.weight"), turned=turned))
        second = jax(
            {f"fc1.{leaf}": draw(M, M, seed=8), f"fc2.{leaf}": draw(M, M, seed=9)},
            mlp((f"fc1.{leaf}", f"fc2.{leaf}"), turned=False),
        )
        found = match(first, second, CALL)
        assert [(move.words, move.evidence) for move in found.moves] == [
            ("transposed" if turned else "as it is", "outputs agree")
        ] * 2
        assert not found.ties
        assert match(first, second).ties

    def test_each_kernel_may_be_stored_in_its_own_way(self) -> None:
        first = torch(
            drawn({"a.weight": (M, M), "b.weight": (M, M)}), lambda p, x: np.tanh(x @ p["a.weight"]) @ p["b.weight"].T
        )
        second = jax(drawn({"a.weight": (M, M), "b.weight": (M, M)}, seed=5), mlp(("a.weight", "b.weight"), turned=False))
        assert [move.words for move in match(first, second, CALL).moves] == ["as it is", "transposed"]

    def test_kernels_stored_and_ordered_in_ways_of_their_own(self) -> None:
        first = torch(
            drawn({"a.weight": (M, M), "b.weight": (M, M), "c.weight": (M, M)}),
            lambda p, x: np.tanh(np.tanh(x @ p["a.weight"]) @ p["b.weight"].T) @ p["c.weight"],
        )
        second = jax(
            drawn({"x.kernel": (M, M), "y.kernel": (M, M), "z.kernel": (M, M)}, seed=5),
            lambda p, x: np.tanh(np.tanh(x @ p["y.kernel"]) @ p["z.kernel"]) @ p["x.kernel"],
        )
        found = match(first, second, CALL)
        assert told(found) == {"a.weight": "y.kernel", "b.weight": "z.kernel", "c.weight": "x.kernel"}
        assert [move.words for move in found.moves] == ["as it is", "transposed", "as it is"]
        assert not found.ties

    def test_siblings_whose_names_say_nothing_are_told_apart_by_the_outputs(self) -> None:
        first = torch(drawn({"a.weight": (M, M), "b.weight": (M, M)}), mlp(("a.weight", "b.weight"), turned=True))
        second = jax(drawn({"x.kernel": (M, M), "y.kernel": (M, M)}, seed=5), mlp(("y.kernel", "x.kernel"), turned=False))
        found = match(first, second, CALL)
        assert told(found) == {"a.weight": "y.kernel", "b.weight": "x.kernel"}
        assert not found.ties

    def test_the_order_of_a_fused_matrix_is_found(self) -> None:
        def kvq(p: Arrays, x: np.ndarray) -> np.ndarray:
            k, v, q = ((x @ p["in_proj_weight"].T + p["in_proj_bias"]).reshape(len(x), 3, H, D)[:, i] for i in range(3))
            return attend(q, k, v) @ p["out_proj.weight"].T + p["out_proj.bias"]

        first = torch({**drawn(PACKED), "in_proj_bias": np.zeros(3 * HD, np.float32)}, kvq)
        second = jax({name: draw(*x.shape, seed=6) for name, x in separate(drawn(PACKED)).items()}, flax_attention)
        found = match(first, second, CALL)
        rows = {move.second.name: move for move in found.moves}
        assert [rows[f"{n}.kernel"].first.where for n in ("key", "value", "query")] == ["rows 0:10", "rows 10:20", "rows 20:30"]
        assert [rows[f"{n}.bias"].first.where for n in ("key", "value", "query")] == ["rows 0:10", "rows 10:20", "rows 20:30"]
        assert rows["query.kernel"].evidence == "outputs agree"
        loaded = found.forward(first.params)
        np.testing.assert_allclose(flax_attention(loaded, CALL.args[0]), kvq(first.params, CALL.args[0]), rtol=1e-4, atol=1e-5)

    def test_layouts_under_which_the_outputs_agree_alike_are_a_tie(self) -> None:
        first = torch(drawn({"a.weight": (M, M), "b.weight": (M, M)}), lambda p, x: x @ (p["a.weight"] + p["b.weight"]).T)
        second = jax(drawn({"x.kernel": (M, M), "y.kernel": (M, M)}, seed=5), lambda p, x: x @ (p["x.kernel"] + p["y.kernel"]))
        found = match(first, second, CALL)
        assert [tie.split(";")[1].strip() for tie in found.ties] == ["the outputs agree under 2 of them"]
        assert "tie: which of a.weight, b.weight is which" in str(found)

    def test_a_symmetric_kernel_that_was_loaded_is_asked_about(self) -> None:
        """Its values fit both ways; random ones do not."""
        square = draw(M, M)
        first = torch({"fc.weight": square + square.T}, lambda p, x: x @ p["fc.weight"].T)
        second = jax({"fc.weight": square + square.T}, lambda p, x: x @ p["fc.weight"])
        assert match(first, second).ties
        found = match(first, second, CALL)
        assert (found.moves[0].words, found.ties) == ("transposed", ())

    def test_where_the_port_is_wrong_the_nearest_layout_is_kept_and_said_to_differ(self) -> None:
        first = torch(drawn({"fc.weight": (M, M)}), lambda p, x: x @ p["fc.weight"].T)
        second = jax(drawn({"fc.kernel": (M, M)}, seed=5), lambda p, x: 1.02 * (x @ p["fc.kernel"]))
        move = match(first, second, CALL).moves[0]
        assert move.words == "transposed"
        assert move.evidence == "best of 2, outputs still differ (0.02)"

    def test_a_side_that_fails_leaves_the_question_open(self) -> None:
        def broken(_params: Arrays, _x: np.ndarray) -> np.ndarray:
            raise SideFailed("jax side: model.py:3 ZeroDivisionError")

        found = match(torch(drawn({"fc.weight": (M, M)})), jax(drawn({"fc.kernel": (M, M)}, seed=5), broken), CALL)
        assert told(found) == {"fc.weight": "fc.kernel"}
        assert "not asked: jax side: model.py:3 ZeroDivisionError" in found.ties[0]

    def test_runs_are_bounded(self) -> None:
        def chain(p: Arrays, x: np.ndarray) -> np.ndarray:
            for array in p.values():
                x = np.tanh(x @ array)
            return x

        first = torch({f"{'x' * (i + 3)}.weight": draw(M, M, seed=i) for i in range(30)}, chain)
        second = jax({f"{'y' * (33 - i)}.kernel": draw(M, M, seed=30 + i) for i in range(30)}, chain)
        found = match(first, second, CALL)
        assert 150 < first.runs + second.runs <= 200
        assert any("200 runs are the most" in tie for tie in found.ties)

    def test_a_chain_of_siblings_in_another_order_is_put_in_order(self) -> None:
        def chain(names: list[str], *, turned: bool) -> Callable[[Arrays, np.ndarray], np.ndarray]:
            def run(p: Arrays, x: np.ndarray) -> np.ndarray:
                for name in names:
                    x = np.tanh(x @ (p[name].T if turned else p[name]))
                return x

            return run

        ours, theirs = [f"{x}.weight" for x in ("red", "green", "blue", "grey", "pink")], [f"{x}x.kernel" for x in "fghij"]
        first = torch(drawn(dict.fromkeys(ours, (M, M))), chain(ours, turned=True))
        mixed = [theirs[at] for at in (3, 0, 4, 2, 1)]
        second = jax(drawn(dict.fromkeys(theirs, (M, M)), seed=9), chain(mixed, turned=False))
        found = match(first, second, CALL)
        assert told(found) == dict(zip(ours, mixed, strict=True))
        assert not found.ties
        assert {(move.words, move.evidence) for move in found.moves} == {("transposed", "outputs agree")}

    def test_programs_are_not_run_where_values_decide(self) -> None:
        first = drawn(PACKED)
        sides = torch(first, packed_attention), jax(separate(first), flax_attention)
        assert not match(*sides, CALL).ties
        assert sides[0].runs == sides[1].runs == 0


class TestGiven:
    def test_a_mapping_of_names_with_and_without_orders(self) -> None:
        first = drawn({"a": (4, 4), "b": (2, 3, 5), "c": (3, 4), "qkv": (6, 4)})
        second = drawn({"x": (4, 4), "y": (5, 2, 3), "z": (4, 3), "q": (4, 1, 2), "k": (4, 1, 2), "v": (4, 1, 2)}, seed=5)
        lines = {"a": ("x", "transpose"), "b": ("y", (2, 0, 1)), "c": "z", "qkv": ["k", "q", "v"]}
        made = match(torch(first), jax(second), given=lines).forward(first)
        rows = first["qkv"].reshape(3, 2, 4)
        wanted = {"x": first["a"].T, "y": first["b"].transpose(2, 0, 1), "z": first["c"].T}
        equal(made, {**wanted, **{name: rows[i].T.reshape(4, 1, 2) for i, name in enumerate("kqv")}})

    def test_what_a_mapping_does_not_name_is_solved_and_none_is_left_over(self) -> None:
        first = drawn({"odd": (4, 6), "fc.weight": (3, 6), "spare.weight": (7, 2)})
        second = {"strange": first["odd"].T.copy(), "fc.kernel": draw(6, 3), "spare.kernel": draw(2, 7)}
        found = match(torch(first), jax(second), given={"odd": "strange", "spare.weight": None})
        assert told(found) == {"odd": "strange", "fc.weight": "fc.kernel"}
        assert found.left_over == (("spare.weight",), ("spare.kernel",))

    def test_a_saved_map_is_used_as_it_is(self) -> None:
        first, second = drawn({"a": (4, 4), "b": (3,)}), drawn({"x": (4, 4)})
        square = Block.all_of("a", (4, 4)), Block.all_of("x", (4, 4))
        saved = ParamMap((Move(*square, (4, 4), (1, 0)),))
        found = match(torch(first), jax(second), given=saved)
        assert found.moves == saved.moves
        assert found.left_over == (("b",), ())

    def test_two_dialects_meet_in_the_contract(self) -> None:
        contract = torch_mha.contract({"embed_dim": HD, "num_heads": H})
        first = {f"attn.{name}": x for name, x in drawn(PACKED).items()}
        second = write(read(first, torch_mha.PACKED, contract, "attn."), flax_mha.FLAX, contract)
        blank = {name: np.zeros_like(x) for name, x in second.items()}
        found = match(torch(first), jax(blank), given=(torch_mha.PACKED, flax_mha.FLAX, contract))
        carries(found, first, second)
        assert {move.evidence for move in found.moves} == {"torch.nn.MultiheadAttention"}

    def test_one_weight_map_meets_the_canonical_names_on_either_side(self) -> None:
        contract = gpt2.contract({"n_embd": HD, "n_head": H})
        canonical = {name: draw(*param.shape) for name, param in contract.params.items()}
        stored = {f"h.{i}.attn.{n}": x for i in range(2) for n, x in write(canonical, gpt2.GPT2, contract).items()}
        ours = {f"{i}.{n}": x for i in range(2) for n, x in canonical.items()}
        blank = {name: np.zeros_like(x) for name, x in ours.items()}
        carries(match(torch(stored), jax(blank), given=(gpt2.GPT2, contract)), stored, ours)
        carries(match(jax(blank), torch(stored), given=(gpt2.GPT2, contract)), ours, stored)


class TestGradients:
    def test_gradients_of_some_parameters_are_compared_part_by_part(self) -> None:
        first = drawn(PACKED)
        found = match(torch(first), jax(separate(first))).inverse
        grads = separate({name: draw(*x.shape, seed=4) for name, x in first.items()})
        frozen = {name: grads[name] for name in ("query.kernel", "out.bias", "query.bias", "key.bias", "value.bias")}
        packed = {name: draw(*x.shape, seed=4) for name, x in first.items() if name != "in_proj_bias"}
        pairs = found.gradients(frozen, packed)
        assert list(pairs) == ["out_proj.bias", "in_proj_weight (30, 10) rows 0:10"]
        for ours, theirs in pairs.values():
            np.testing.assert_array_equal(ours, theirs)

    def test_forward_gives_the_arrays_all_of_which_are_given(self) -> None:
        first = drawn(PACKED)
        found = match(torch(first), jax(separate(first)))
        assert found.backward({"out.bias": draw(M), "query.bias": draw(H, D)}).keys() == {"out_proj.bias"}
        assert found.forward({"in_proj_bias": draw(3 * HD)}).keys() == {"query.bias", "key.bias", "value.bias"}


class TestRefusals:
    FIRST, SECOND = {"fc.weight": (4, 6), "b": (4,)}, {"fc.kernel": (6, 4), "c": (4,)}

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            ({"fc.wait": "fc.kernel"}, "'fc.wait' must be a parameter of torch side, such as fc.weight"),
            ({"fc.weight": "fc.kernal"}, "'fc.kernal' must be a parameter of jax side, such as fc.kernel"),
            ({"fc.weight": "c"}, r"fc.weight \(4, 6\) must be a reshape of c \(4,\)"),
            ({"fc.weight": ("fc.kernel", (0, 0))}, "must be 'transpose' or an order of its 2 axes"),
            ({"b": "c", "fc.weight": "c"}, "must be a reshape of c"),
            ({"fc.weight": ["c", "fc.kernel"]}, "one after another along one axis"),
            ({"b": ("c",)}, r"'b' is given \('c',\), which must be a name, \(name, order\)"),
            ({"b": []}, r"'b' is given \[\], which must be"),
            ({"b": 7}, "'b' is given 7, which must be a name"),
            (("c",), "given must be a mapping of names, a ParamMap, or"),
        ],
    )
    def test_what_is_given_must_fit(self, lines: Any, words: str) -> None:
        with pytest.raises(ParamError, match=words) as caught:
            _ = match(torch(drawn(self.FIRST)), jax(drawn(self.SECOND)), given=lines)
        assert type(caught.value) is ParamError

    def test_a_parameter_must_not_be_used_twice(self) -> None:
        first, second = drawn({"a": (4,), "b": (4,)}), drawn({"c": (4,)})
        with pytest.raises(ParamError, match=r"must use each parameter once, not c \(4,\), of which 4 elements are used twice"):
            _ = match(torch(first), jax(second), given={"a": "c", "b": "c"})

    def test_a_map_must_be_a_bijection(self) -> None:
        half = Block("a", (4, 2), (4, 2), ((0, 2), (0, 2)))
        move = Move(half, Block.all_of("b", (2, 2)), (2, 2), (0, 1))
        with pytest.raises(ParamError, match=r"first program's .*: a \(4, 2\), of which 4 elements are never used"):
            _ = ParamMap((move,))
        other = Move(Block("a", (4, 2), (4, 2), ((1, 3), (0, 2))), Block.all_of("c", (2, 2)), (2, 2), (0, 1))
        with pytest.raises(ParamError, match="2 elements are never used and 2 elements are used twice"):
            _ = ParamMap((move, other))
        whole = Move(Block.all_of("a", (4,)), Block.all_of("b", (4,)), (4,), (0,))
        with pytest.raises(ParamError, match="b is both matched and left over"):
            _ = ParamMap((whole,), left_over=((), ("b",)))
        with pytest.raises(ParamError, match="one end of it in the bijection"):
            _ = ParamMap((), copies=(whole,))

    def test_a_block_must_lie_in_its_array_and_a_move_keep_its_size(self) -> None:
        with pytest.raises(ParamError, match="must be a box of a"):
            _ = Block("a", (4, 2), (4, 2), ((0, 5), (0, 2)))
        with pytest.raises(ParamError, match="must be as large as b"):
            _ = Move(Block.all_of("a", (4,)), Block.all_of("b", (5,)), (4,), (0,))

    def test_arrays_must_be_those_of_the_map(self) -> None:
        first = drawn({"weight": (4, 6)})
        found = match(torch(first), jax({"kernel": first["weight"].T.copy()}))
        with pytest.raises(ParamError, match=r"weight \(6, 4\) must be \(4, 6\)"):
            _ = found.forward({"weight": draw(6, 4)})
        with pytest.raises(ParamError, match="other must be a parameter of the map"):
            _ = found.backward({"other": draw(6, 4)})

    def test_a_saved_map_must_fit_the_programs(self) -> None:
        saved = ParamMap((Move(Block.all_of("a", (4,)), Block.all_of("x", (4,)), (4,), (0,)),))
        with pytest.raises(ParamError, match=r"jax side does not fit the map: x is missing must be \(4,\)"):
            _ = match(torch({"a": draw(4)}), jax({"y": draw(4)}), given=saved)

    def test_a_table_must_find_its_layers(self) -> None:
        contract = spec.MultiHeadAttention(embed_dim=HD, num_heads=H)
        with pytest.raises(ParamError, match="must hold equally often, under any prefix, c_attn"):
            _ = match(torch({"a": draw(4)}), jax({"y": draw(4)}), given=(gpt2.GPT2, contract))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("no json", "must be a parameter map in JSON"),
            ("[]", "must have format 'attention.parity.ParamMap' and version 1"),
            (json.dumps({"format": "attention.parity.ParamMap", "version": 2}), "and version 1"),
            (json.dumps({"format": "attention.parity.ParamMap", "version": 1, "moves": [{}]}), "is damaged: KeyError"),
        ],
    )
    def test_a_file_must_be_a_map(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "map.json"
        _ = path.write_text(text)
        with pytest.raises(FileError, match=words):
            _ = ParamMap.from_json(path)
        with pytest.raises(FileError, match="must be a parameter map in JSON"):
            _ = ParamMap.from_json(tmp_path / "absent.json")


class TestFrameworks:
    """The frameworks' own attention, freshly drawn: torch's packed matrix and Flax's three kernels by heads."""

    def test_the_outputs_of_both_frameworks_settle_the_map(self) -> None:
        torch_side, jax_side = attentions()
        call = Call((CALL.args[0][None],))
        found = match(torch_side, jax_side, call)
        assert found.left_over == ((), ())
        assert not found.ties
        rows = {move.second.name: move for move in found.moves}
        assert rows["key.kernel"].first.where == "rows 10:20"
        assert rows["key.kernel"].evidence == rows["out.kernel"].evidence == "outputs agree"
        wanted = torch_side.run(call).outputs["output"]
        made = jax_side.run(call, params=found.forward(torch_side.params)).outputs["output"]
        np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def attentions() -> tuple[Program, Program]:
    import torch as framework  # noqa: PLC0415 - most tests here need no framework
    from flax import nnx  # noqa: PLC0415

    class Packed(framework.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = framework.nn.MultiheadAttention(M, H, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.attn(x, x, x, need_weights=False)[0]

    _ = framework.manual_seed(0)
    flax = nnx.MultiHeadAttention(num_heads=H, in_features=M, decode=False, rngs=nnx.Rngs(0))
    return program(Packed()), program(flax)
