"""Parameter maps: what is a stack, what is a number, what a given map may say, what stays open, and what it costs."""

from __future__ import annotations

from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest

from attention.parity.adapters import Arrays, Call, Made, Program
from attention.parity.param_mapping import ParamMap, match
from attention.parity.param_mapping.name_assignment import names_distinguish, numbered
from attention.parity.param_mapping.parameter_values import resolve_values
from attention.spec.errors import ParamError

CALL = Call((np.ones((2, 6), np.float32),))


class Fake(Program):
    """A program in NumPy: `function(params, x)`."""

    def __init__(self, params: Arrays, framework: str, function: Any = lambda _params, x: x) -> None:
        self.params, self.framework, self.name, self.function = params, framework, f"{framework} side", function

    def run(self, call: Call, *, params: Any = None, cotangents: Any = None, dtype: str | None = None) -> Made:
        del cotangents, dtype
        return Made({"output": np.asarray(self.function(self.params if params is None else params, call.args[0]))})


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Arrays:
    return {name: draw(*shape, seed=seed + place) for place, (name, shape) in enumerate(shapes.items())}


def matched(first: Arrays, second: Arrays, **more: Any) -> ParamMap:
    return match(Fake(first, "torch"), Fake(second, "jax"), **more)


def told(found: ParamMap) -> dict[str, str]:
    return {move.first.name: f"{move.second.name} {move.second.where}".rstrip() for move in found.moves}


LAYERS: dict[str, tuple[int, ...]] = {
    f"layers.{i}.{name}": shape
    for i in range(2)
    for name, shape in {"fc.weight": (16, 4), "fc.bias": (16,), "norm1.weight": (4,), "norm2.weight": (4,)}.items()
}


class TestStacks:
    def test_a_stack_holds_every_array_of_every_layer_biases_included(self) -> None:
        found = matched(
            drawn(LAYERS),
            drawn(
                {
                    "layers.fc.kernel": (2, 4, 16),
                    "layers.fc.bias": (2, 16),
                    "layers.norm1.scale": (2, 4),
                    "layers.norm2.scale": (2, 4),
                },
                9,
            ),
        )
        assert found.left_over == ((), ())
        assert told(found)["layers.1.fc.bias"] == "layers.fc.bias rows 1:2"
        assert told(found)["layers.1.norm2.weight"] == "layers.norm2.scale rows 1:2"

    def test_an_array_as_large_as_those_of_all_layers_is_no_stack_of_them(self) -> None:
        """Two token types of the width of two norms, and (4 M, M) beside two (2 M, M)."""
        first = drawn({**LAYERS, "kinds.weight": (2, 4), "wide.weight": (32, 4)})
        second = drawn(
            {
                **{
                    f"block_{i}.{n}": s
                    for i in range(2)
                    for n, s in (("up.kernel", (4, 16)), ("up.bias", (16,)), ("ln_0.scale", (4,)), ("ln_1.scale", (4,)))
                },
                "kinds_table": (2, 4),
                "broad.kernel": (4, 32),
            },
            9,
        )
        found = matched(first, second)
        assert told(found)["kinds.weight"] == "kinds_table"
        assert told(found)["wide.weight"] == "broad.kernel"
        assert all(move.second.whole for move in found.moves)

    def test_arrays_of_one_layer_alone_are_no_stack(self) -> None:
        found = matched(drawn(LAYERS), drawn({"table": (2, 4)}, 9))
        assert found.moves == ()

    def test_unlike_layers_that_take_turns_are_stacked_by_turns(self) -> None:
        first = drawn({f"layers.{i}.fc.weight": (4, 6) for i in range(6)})
        found = matched(first, drawn({"pattern_0.fc.kernel": (3, 6, 4), "pattern_1.fc.kernel": (3, 6, 4)}, 9))
        assert {name: where.partition(" ")[0] for name, where in told(found).items()} == {
            f"layers.{i}.fc.weight": f"pattern_{i % 2}.fc.kernel" for i in range(6)
        }

    def test_experts_of_stacked_layers_are_stacked_twice(self) -> None:
        first = drawn({f"layers.{i}.experts.{e}.w{n}.weight": (4, 6) for i in range(2) for e in range(3) for n in (1, 3)})
        found = matched(first, drawn({"layers.experts.w1": (2, 3, 6, 4), "layers.experts.w3": (2, 3, 6, 4)}, 9))
        made = found.forward(first)
        np.testing.assert_array_equal(made["layers.experts.w3"][1, 2], first["layers.1.experts.2.w3.weight"].T)


class TestNames:
    def test_a_digit_inside_a_word_is_no_layer_number(self) -> None:
        words = numbered(["GPT2Block_0.c_fc.kernel", "GPT2Block_1.c_fc.kernel", "Wav2Vec2.c_fc.kernel"])
        assert [key for key in words["GPT2Block_1.c_fc.kernel"] if key.startswith("#")] == ["#0 1"]

    def test_a_number_that_all_names_share_is_none(self) -> None:
        first = drawn({f"blocks.0.blocks.{i}.fc.weight": (4, 6) for i in range(3)})
        found = matched(first, drawn({f"block_{i}.fc.kernel": (6, 4) for i in (2, 0, 1)}, 9))
        assert told(found) == {f"blocks.0.blocks.{i}.fc.weight": f"block_{i}.fc.kernel" for i in range(3)}

    def test_names_tell_two_pairs_apart_only_where_both_ends_say_it(self) -> None:
        assert names_distinguish(("norm1.weight", "norm2.weight"), ("norm_1.scale", "norm_2.scale"))
        assert not names_distinguish(
            ("input_layernorm.weight", "post_attention_layernorm.weight"),
            ("feedforward_layernorm.scale", "self_attention_layernorm.scale"),
        )

    def test_a_parameter_without_axes_is_matched(self) -> None:
        first = {"logit_scale": np.asarray(2.0, np.float32), "fc.weight": draw(4, 6)}
        found = matched(first, {"fc.kernel": draw(6, 4), "temperature": np.asarray(1.0, np.float32)}, call=CALL)
        assert found.forward(first)["temperature"].shape == ()
        assert found.forward(first)["temperature"] == 2.0

    def test_two_recurrent_biases_are_added_where_the_other_program_has_one(self) -> None:
        first = drawn({"cell.weight_ih": (12, 5), "cell.weight_hh": (12, 3), "cell.bias_ih": (12,), "cell.bias_hh": (12,)})
        gates = {f"{a}{n}.kernel": (5 if a == "i" else 3, 3) for n in "ifgo" for a in "ih"}
        found = matched(first, drawn({**gates, **{f"h{n}.bias": (3,) for n in "ifgo"}}, 9))
        assert found.left_over == ((), ())
        made = found.forward(first)
        np.testing.assert_array_equal(made["hg.bias"], (first["cell.bias_ih"] + first["cell.bias_hh"])[6:9])
        again = found.backward(made)
        np.testing.assert_array_equal(
            again["cell.bias_ih"] + again["cell.bias_hh"], first["cell.bias_ih"] + first["cell.bias_hh"]
        )
        assert found.inverse.inverse == found

    def test_the_bias_that_a_gate_keeps_to_itself_is_not_added(self) -> None:
        """The third gate of a GRU resets its recurrent bias."""
        first = drawn({"cell.weight_ih": (9, 5), "cell.weight_hh": (9, 3), "cell.bias_ih": (9,), "cell.bias_hh": (9,)})
        gates = {f"{a}{n}.kernel": (5 if a == "i" else 3, 3) for n in "rzn" for a in "ih"}
        found = matched(first, drawn({**gates, **{f"{n}.bias": (3,) for n in ("ir", "iz", "in", "hn")}}, 9))
        made = found.forward(first)
        np.testing.assert_array_equal(made["hn.bias"], first["cell.bias_hh"][6:])
        np.testing.assert_array_equal(made["in.bias"], first["cell.bias_ih"][6:])
        np.testing.assert_array_equal(made["iz.bias"], (first["cell.bias_ih"] + first["cell.bias_hh"])[3:6])
        assert found.left_over == ((), ())


class TestGiven:
    def test_numbers_in_braces_stand_for_all_layers(self) -> None:
        first = drawn({f"layers.{i}.q_proj.weight": (6, 4) for i in range(3)})
        second = drawn({f"blocks[{i}].attn.q.kernel": (4, 6) for i in range(3)}, 9)
        found = matched(first, second, given={"layers.{i}.q_proj.weight": "blocks.{i}.attn.q.kernel"})
        assert told(found) == {f"layers.{i}.q_proj.weight": f"blocks[{i}].attn.q.kernel" for i in range(3)}

    def test_numbers_that_one_side_lacks_are_stacked(self) -> None:
        first = drawn({f"layers.{i}.weight": (6, 4) for i in (10, 2, 0)})
        second = drawn({"scan.kernel": (3, 4, 6)}, 9)
        wanted = np.stack([first[f"layers.{i}.weight"].T for i in (0, 2, 10)])
        for found in (
            matched(first, second, given={"layers.{i}.weight": "scan.kernel"}),
            matched(second, first, given={"scan.kernel": "layers.{i}.weight"}).inverse,
            matched(second, first, given={"layers.{i}.weight": "scan.kernel"}).inverse,
        ):
            np.testing.assert_array_equal(found.forward(first)["scan.kernel"], wanted)

    def test_several_of_the_first_are_one_of_the_second(self) -> None:
        first = drawn({f"h.{i}.{n}.weight": (4, 4) for i in range(2) for n in "qkv"})
        second = drawn({f"h.{i}.qkv.kernel": (4, 12) for i in range(2)}, 9)
        for i in range(2):
            found = matched(first, second, given={tuple(f"h.{i}.{n}.weight" for n in "kqv"): f"h.{i}.qkv.kernel"})
            made = found.forward(first)[f"h.{i}.qkv.kernel"]
            np.testing.assert_array_equal(made, np.concatenate([first[f"h.{i}.{n}.weight"].T for n in "kqv"], 1))

    def test_a_key_map_of_regular_expressions_with_a_transpose_and_a_shape(self) -> None:
        """As google-tunix writes it."""
        first = drawn({"model.embed.weight": (7, 4), **{f"model.layers.{i}.q.weight": (6, 4) for i in range(2)}})
        second = drawn({"embedder.input": (7, 4), **{f"layers.{i}.q.w": (4, 2, 3) for i in range(2)}}, 9)
        given = {
            r"model\.embed\.weight": ("embedder.input", None),
            r"model\.layers\.([0-9]+)\.q\.weight": (r"layers.\1.q.w", ((1, 0), (4, 2, 3))),
        }
        made = matched(first, second, given=given).forward(first)
        np.testing.assert_array_equal(made["layers.1.q.w"], first["model.layers.1.q.weight"].T.reshape(4, 2, 3))

    def test_pairs_of_paths(self) -> None:
        first, second = drawn({"a.w": (4, 4), "b.w": (4, 4)}), drawn({"x/kernel": (4, 4), "y/kernel": (4, 4)}, 9)
        assert told(matched(first, second, given=[("a.w", "y.kernel"), ("b.w", "x/kernel")])) == {
            "a.w": "y/kernel",
            "b.w": "x/kernel",
        }

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"layers.{i}.v.weight": "x"}, r"'layers.\{i\}.v.weight' must be a parameter of torch side"),
            ({"layers.{i}.weight": "blocks.{i}.kernel"}, "'blocks.0.kernel' must be a parameter of jax side"),
            ({r"layers\.(\d)\.weight": r"blocks.\2.kernel"}, r"must be filled by what .* matches"),
            ({"layers.{i}.weight": ("x", ((1, 0), (3, 3)))}, r"must be what .* are, one after another|shape"),
            ({("layers.0.weight", "no"): "x"}, "'no' must be a parameter of torch side"),
        ],
    )
    def test_a_pattern_must_name_parameters(self, given: Any, words: str) -> None:
        with pytest.raises(ParamError, match=words):
            _ = matched(drawn({f"layers.{i}.weight": (6, 4) for i in range(2)}), drawn({"x": (2, 4, 6)}), given=given)


def odd(params: Arrays, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ params["alpha"]) @ params["omega"] + 1.0


def even(params: Arrays, x: np.ndarray) -> np.ndarray:
    return np.sin(x @ params["one"].T) @ params["two"]


class TestOpen:
    SIDES = (drawn({"one": (6, 6), "two": (6, 6)}), drawn({"alpha": (6, 6), "omega": (6, 6)}, 9))

    def test_what_no_evidence_says_is_open_where_outputs_differ(self) -> None:
        found = match(Fake(self.SIDES[0], "torch", even), Fake(self.SIDES[1], "jax", odd), CALL)
        assert any("is not told" in line for line in found.open)
        assert "open: " in str(found)
        assert "open: " in found.table

    def test_programs_under_an_open_map_cannot_be_compared_and_the_message_says_how_they_can(self) -> None:
        pair = Fake(self.SIDES[0], "torch", even), Fake(self.SIDES[1], "jax", odd)
        known = resolve_values(pair, ("torch", "jax"), CALL, None, "first")
        assert known.open
        assert known.failure.startswith("cannot compare: the parameter map is open: ")
        assert "params={'one': " in known.failure
        assert len(known.failure) < 500

    def test_an_explicit_map_is_not_open(self) -> None:
        pair = Fake(self.SIDES[0], "torch", even), Fake(self.SIDES[1], "jax", odd)
        known = resolve_values(pair, ("torch", "jax"), CALL, {"one": "alpha", "two": "omega"}, "first")
        assert (known.open, known.failure) == ((), "")

    def test_names_and_conventions_establish_a_map_whatever_the_outputs(self) -> None:
        first = Fake(drawn({"fc.weight": (6, 6)}), "torch", lambda p, x: x @ p["fc.weight"].T)
        second = Fake(drawn({"fc.kernel": (6, 6)}, 9), "jax", lambda p, x: np.exp(x @ p["fc.kernel"]))
        found = match(first, second, CALL)
        assert (found.open, found.moves[0].words) == ((), "transposed")

    def test_what_is_open_is_saved(self, tmp_path: Path) -> None:
        found = match(Fake(self.SIDES[0], "torch", even), Fake(self.SIDES[1], "jax", odd), CALL)
        found.to_json(tmp_path / "map.json")
        assert ParamMap.from_json(tmp_path / "map.json") == found

    def test_a_table_shows_layers_that_are_alike_on_one_line(self) -> None:
        first = drawn({f"layers.{i}.fc.weight": (4, 6) for i in range(12)})
        text = matched(first, drawn({f"block_{i}.fc.kernel": (6, 4) for i in range(12)}, 9)).table
        assert text.splitlines() == [
            "layers.{i}",
            "  fc.weight (4, 6)  ->  block_{i}.fc.kernel (6, 4)   transposed   by names   12 times",
        ]


class TestExchanges:
    def test_names_that_mislead_are_overruled_by_the_outputs(self) -> None:
        """Norms of ones, whose values hide the exchange, in programs whose use of them cannot be followed."""
        first = {"input_layernorm.weight": np.ones(6), "post_attention_layernorm.weight": np.ones(6), "fc.weight": draw(6, 6)}
        second = {
            "feedforward_layernorm.scale": np.ones(6),
            "self_attention_layernorm.scale": np.ones(6),
            "fc.kernel": draw(6, 6).T.copy(),
        }

        def ours(p: Arrays, x: np.ndarray) -> np.ndarray:
            return np.tanh((x * p["input_layernorm.weight"]) @ p["fc.weight"].T) * p["post_attention_layernorm.weight"]

        def theirs(p: Arrays, x: np.ndarray) -> np.ndarray:
            return np.tanh((x * p["self_attention_layernorm.scale"]) @ p["fc.kernel"]) * p["feedforward_layernorm.scale"]

        found = match(Fake(first, "torch", ours), Fake(second, "jax", theirs), CALL)
        assert told(found)["input_layernorm.weight"] == "self_attention_layernorm.scale"
        assert {move.evidence for move in found.moves if "norm" in move.first.name} == {"outputs agree"}

    def test_names_that_both_sides_tell_apart_are_not(self) -> None:
        """A port that uses norm2 for norm1 is wrong, and its map does not hide it."""
        first = {"norm1.weight": np.ones(6), "norm2.weight": np.ones(6)}
        second = {"norm1.scale": np.ones(6), "norm2.scale": np.ones(6)}
        sides = (
            Fake(first, "torch", lambda p, x: np.tanh(x * p["norm1.weight"]) * p["norm2.weight"]),
            Fake(second, "jax", lambda p, x: np.tanh(x * p["norm2.scale"]) * p["norm1.scale"]),
        )
        assert told(match(*sides, CALL)) == {"norm1.weight": "norm1.scale", "norm2.weight": "norm2.scale"}


class TestCost:
    def test_sixteen_linears_of_which_no_value_agrees_take_less_than_a_second(self) -> None:
        shapes = {f"layers.{i}.weight": (500, 500) for i in range(16)}
        first, second = drawn(shapes), drawn({name.replace("weight", "kernel"): shape for name, shape in shapes.items()}, 99)
        start = process_time()
        found = matched(first, second)
        assert process_time() - start < 1.0
        assert len(found.moves) == 16

    def test_values_that_a_stack_holds_are_found_without_words(self) -> None:
        first = {f"{letter}.thing": draw(300, 200, seed=at) for at, letter in enumerate("abcdef")}
        second = {"other": np.stack([first[f"{letter}.thing"].T for letter in "cafebd"])}
        start = process_time()
        found = matched(first, second)
        assert process_time() - start < 1.0
        np.testing.assert_array_equal(found.forward(first)["other"], second["other"])
