"""Decoding with a cache beside the whole pass: torch models of Hugging Face's kind, NNX, Linen, and functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)
from typer.testing import CliRunner

from attention import cli, parity
from attention.parity.language_models import Decoding
from attention.spec.errors import OptionError, ParityError, ShapeError

B, T, V = 2, 6, 23
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
STATES = np.random.default_rng(1).normal(size=(B, T, 12)).astype(np.float32)


def llama(kind: type = LlamaForCausalLM, **more: Any) -> Any:
    _ = torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **more,
    )
    return kind(config).eval()


def gpt2(kind: type = GPT2LMHeadModel) -> Any:
    _ = torch.manual_seed(0)
    return kind(GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()


class DropsPositions(GPT2LMHeadModel):
    """A port that counts padding as tokens: it looks at no position_ids."""

    def forward(self, input_ids: Any, position_ids: Any = None, **more: Any) -> Any:  # type: ignore[override]
        del position_ids
        return super().forward(input_ids, **more)


class ForgetsFirst(LlamaForCausalLM):
    """A port whose cache loses the first token after the prefill."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **more: Any) -> Any:  # type: ignore[override]
        made = super().forward(input_ids, past_key_values=past_key_values, **more)
        if past_key_values is None and made.past_key_values is not None:
            layers: Any = made.past_key_values.layers
            for layer in layers:
                layer.keys[:, :, 0] = 0.0
        return made


class Causal(nnx.Module):
    """Causal self-attention that decodes with Flax' own cache."""

    def __init__(self, *, is_causal: bool) -> None:
        self.attention = nnx.MultiHeadAttention(3, 12, decode=False, rngs=nnx.Rngs(0))
        self.is_causal = is_causal

    def __call__(self, x: Any) -> Any:
        if self.is_causal:
            return self.attention(x, is_causal=True)
        return self.attention(x, mask=None if self.attention.decode else nnx.make_causal_mask(x[..., 0]))


class LinenCausal(linen.Module):
    decode: bool = False

    @linen.compact
    def __call__(self, x: Any) -> Any:
        mask = None if self.decode else linen.make_causal_mask(x[..., 0])
        return linen.MultiHeadDotProductAttention(3, decode=self.decode)(x, mask=mask)


def functional(slip: int = 0, **more: Any) -> parity.CachedModel:
    """One layer of attention over token embeddings; `slip` shifts the slot that a step writes to."""
    rng = np.random.default_rng(3)
    params = {name: jnp.asarray(rng.normal(size=(V, 8)), jnp.float32) for name in ("q", "k", "v")}

    def whole(params: Any, tokens: Any, positions: Any) -> Any:
        return step(params, None, tokens, positions)[0]

    def step(params: Any, cache: Any, tokens: Any, positions: Any) -> Any:
        q, k, v = (params[name][tokens] for name in ("q", "k", "v"))
        seen = positions
        if cache is not None:
            first = int(cache["count"]) - (slip if cache["count"] else 0)
            last = first + tokens.shape[1]
            cache = {**cache, "count": last}
            for name, piece in (("k", k), ("v", v), ("seen", positions)):
                cache[name] = cache[name].at[:, first:last].set(piece)
            k, v, seen = cache["k"], cache["v"], cache["seen"]
        allowed = (seen[:, None] <= positions[:, :, None]) & (seen[:, None] >= 0)
        scores = jnp.where(allowed, jnp.einsum("btd,bsd->bts", q, k), -1e30)
        return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, -1), v) @ params["q"].T, cache

    def init_cache(batch: int, length: int) -> Any:
        empty = jnp.zeros((batch, length, 8))
        return {"k": empty, "v": empty, "seen": jnp.full((batch, length), -1), "count": 0}

    return parity.CachedModel(step, init_cache, whole, params, **more)


def verdicts(found: Decoding) -> dict[str, str]:
    return {row.run: row.verdict for row in found.rows}


class TestLaws:
    @pytest.mark.parametrize("make", [llama, gpt2])
    def test_a_model_of_hugging_face_decodes_as_its_whole_pass_whatever_the_split_and_padding(self, make: Any) -> None:
        found = parity.compare_decoding(make(), None, TOKENS, left_padding=(0, 2))
        found.assert_ok()
        assert list(verdicts(found)) == [
            "one token at a time",
            "prefill 3 + 3 steps",
            "prefill 5 + 1 steps",
            "one token at a time, left padding 0, 2",
            "prefill 3 + 3 steps, left padding 0, 2",
            "prefill 5 + 1 steps, left padding 0, 2",
        ]

    def test_an_encoder_decoder_decodes_beside_what_its_encoder_reads(self) -> None:
        _ = torch.manual_seed(0)
        config = T5Config(vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        model = T5ForConditionalGeneration(config).eval()
        encoded = {"input_ids": torch.from_numpy(TOKENS[:, ::-1].copy())}
        parity.compare_decoding(model, None, TOKENS, splits=(3,), torch_call=encoded).assert_ok()

    def test_any_cache_will_do(self) -> None:
        model = llama()
        for cache in (lambda: StaticCache(config=model.config, max_cache_len=8), DynamicCache):
            parity.compare_decoding(model, None, TOKENS, splits=(3,), torch_cache=cache).assert_ok()

    def test_padding_that_counts_as_tokens_is_found_with_padding_alone(self) -> None:
        found = parity.compare_decoding(gpt2(DropsPositions), None, TOKENS, splits=(3,), left_padding=(0, 2))
        assert verdicts(found) == {"prefill 3 + 3 steps": "agrees", "prefill 3 + 3 steps, left padding 0, 2": "differs"}
        assert found.rows[1].comparison is not None
        assert found.rows[1].comparison.worst_position[0] == 1

    def test_a_cache_that_loses_a_token_is_found_at_the_first_step_after_the_prefill(self) -> None:
        found = parity.compare_decoding(llama(ForgetsFirst), None, TOKENS, splits=(3,))
        assert [(row.verdict, row.parts_at) for row in found.rows] == [("differs", 3)]

    def test_flax_attention_decodes_rightly_without_is_causal_and_wrongly_with_it(self) -> None:
        parity.compare_decoding(None, Causal(is_causal=False), STATES).assert_ok()
        found = parity.compare_decoding(None, Causal(is_causal=True), STATES)
        assert (found.verdict, found.rows[0].parts_at) == ("differs", 1)
        direct = nnx.MultiHeadAttention(3, 12, decode=False, rngs=nnx.Rngs(0))
        assert parity.compare_decoding(None, direct, STATES, jax_call={"is_causal": True}).verdict == "differs"

    def test_linen_decodes_with_its_mutable_cache(self) -> None:
        module = LinenCausal()
        variables = module.init(jax.random.key(0), STATES)
        parity.compare_decoding(None, (module, variables), STATES).assert_ok()

    def test_functions_decode_with_a_cache_of_their_own_and_with_padding(self) -> None:
        found = parity.compare_decoding(None, functional(takes_padding=True), TOKENS, left_padding=(1, 0))
        found.assert_ok()
        assert len(found.rows) == 6
        wrong = parity.compare_decoding(None, functional(slip=1), TOKENS, splits=(3,))
        assert [(row.verdict, row.parts_at) for row in wrong.rows] == [("differs", 3)]

    def test_two_sides_are_compared_whole_and_decoded(self) -> None:
        found = parity.compare_decoding(functional(), functional(name="other"), TOKENS, splits=(3,))
        found.assert_ok()
        assert [(row.side, row.run) for row in found.rows] == [
            ("other", "whole pass beside that of jax step"),
            ("jax step", "prefill 3 + 3 steps"),
            ("other", "prefill 3 + 3 steps"),
            ("other", "decoded, beside the whole pass of jax step"),
        ]
        wrong = parity.compare_decoding(functional(), functional(slip=1, name="other"), TOKENS, splits=(3,))
        assert [row.verdict for row in wrong.rows] == ["agrees", "agrees", "differs", "differs"]

    def test_a_model_is_left_as_it_was(self) -> None:
        model, module = llama(), Causal(is_causal=False)
        before = {name: x.clone() for name, x in model.state_dict().items()}
        state, random = str(nnx.state(module)), torch.get_rng_state()
        _ = parity.compare_decoding(model, None, TOKENS, splits=(3,))
        _ = parity.compare_decoding(None, module, STATES)
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
        assert (str(nnx.state(module)), module.attention.decode) == (state, False)
        assert torch.equal(torch.get_rng_state(), random)


class TestValues:
    def test_the_report_says_where_they_part_and_is_json(self, tmp_path: Path) -> None:
        found = parity.compare_decoding(None, functional(slip=1), TOKENS, splits=(3,))
        assert "step 3" in str(found)
        with pytest.raises(ParityError, match="pass: differs"):
            found.assert_ok()
        found.to_json(tmp_path / "d.json")
        assert json.loads((tmp_path / "d.json").read_text())["rows"][0]["parts at"] == 3

    def test_what_cannot_run_is_said_and_is_no_agreement(self) -> None:
        found = parity.compare_decoding(None, functional(), TOKENS, splits=(3,), left_padding=(0, 1))
        assert (found.verdict, [row.verdict for row in found.rows]) == ("cannot tell", ["agrees", "cannot tell"])
        assert "it takes no padding" in str(found)

        def broken(*_: Any) -> Any:
            raise ArithmeticError("no step")

        model = functional()
        told = parity.compare_decoding(None, parity.CachedModel(broken, model.init_cache, model.whole, model.params), TOKENS)
        assert told.verdict == "cannot tell"
        assert "ArithmeticError: no step" in str(told)


class TestCommands:
    def run(self, folder: Path, *words: str) -> tuple[int, str]:
        _ = (folder / "models.py").write_text(
            "import torch\n"
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "def make_llama(eps=1e-6):\n"
            "    torch.manual_seed(0)\n"
            "    sizes = dict(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2)\n"
            "    return LlamaForCausalLM(LlamaConfig(**sizes, rms_norm_eps=eps)).eval()\n"
            "def make_other(): return make_llama(0.1)\n"
        )
        result = CliRunner().invoke(cli.app, [word.replace("models.py", str(folder / "models.py")) for word in words])
        return result.exit_code, result.output

    def test_decoding_is_compared(self, tmp_path: Path) -> None:
        words = ("decoding", "models.py:make_llama", "--tokens", "2,4:int64", "--split", "2", "--left-padding", "0,1")
        code, text = self.run(tmp_path, *words, "--json", str(tmp_path / "out.json"))
        assert code == 0, text
        assert "pass: agrees" in text
        assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 2
        assert self.run(tmp_path, "decoding", "models.py:make_llama", "--left-padding", "x")[0] == 2
        code, text = self.run(tmp_path, "decoding", "models.py:make_llama", "models.py:make_other", "--tokens", "2,4:int64")
        assert code == 1, text

    def test_layers_are_compared(self, tmp_path: Path) -> None:
        words = ("models.py:make_other", "--inputs", "input_ids=1,4:int64", "--json", str(tmp_path / "out.json"))
        code, text = self.run(tmp_path, "layers", "models.py:make_llama", *words)
        assert code == 1, text
        rows = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert [row["subject"] for row in rows if not row["agrees"]] == ["whole model", "model.layers.0", "model.norm"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "error", "said"),
        [
            ({"splits": (0,)}, OptionError, "splits"),
            ({"splits": (9,)}, OptionError, "must lie between 1 and T=6"),
            ({"left_padding": (1,)}, ShapeError, "must have B=2 ints"),
            ({"tokens": TOKENS[0]}, ShapeError, r"must be ints \(B, T\)"),
            ({"jax_side": None}, OptionError, "must not both be None"),
            ({"jax_side": print}, OptionError, "must be a torch module"),
            ({"jax_side": nnx.Linear(2, 2, rngs=nnx.Rngs(0))}, OptionError, "must have a layer with init_cache"),
            ({"torch_side": torch.nn.Linear(2, 2)}, OptionError, "must take a cache as past_key_values"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, more: dict[str, Any], error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            _ = parity.compare_decoding(**({"torch_side": None, "jax_side": functional(), "tokens": TOKENS} | more))
