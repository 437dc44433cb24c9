"""Transformer blocks and stacks in both backends, compared with torch's own layers with the same weights.

x = norm(x + drop(branch(x)))    or    x = x + drop(branch(norm(x)))        float64: 1e-13 of the largest, torch's 1e-12
"""

from __future__ import annotations

import copy
import doctest
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import spec
from attention.checkpoints import torch_transformer, weight_map
from attention.parity.contracts import backends
from attention.parity.contracts.check import check_probe, expect, verdicts
from attention.parity.contracts.probes import Probe, probes
from attention.spec.errors import AttentionError, DTypeError, MaskError, OptionError, ParamError, ShapeError
from attention.spec.layers.block import Block
from attention.spec.layers.contract import Contract
from attention.spec.layers.tokens import seed_at
from attention.spec.params import inner
from attention.spec.random import keep
from attention.torch_impl.params import to_numpy
from parity_tests.support.backends import Backend, each_backend, numbers

B, T, S, M, A = 2, 5, 7, 6, 11
LENGTHS, MEMORY = np.array([5, 3]), np.array([4, 7])


def attention(**options: Any) -> spec.MultiHeadAttention:
    return spec.MultiHeadAttention(**{"embed_dim": M, "num_heads": 2, "head_dim": 4, **options})


def feed(**options: Any) -> spec.FeedForward:
    return spec.FeedForward(**{"embed_dim": M, "hidden_dim": A, **options})


POST = spec.EncoderBlock(attention(dropout_rate=0.2), feed(activation="gelu", dropout_rate=0.3), dropout_rate=0.25)
LLAMA = spec.EncoderBlock(
    attention(mask=spec.Causal(), positions=spec.Rotary(), qkv_bias=False, out_bias=False),
    feed(activation="swiglu", bias=False),
    norm=spec.RMSNorm(eps=1e-3),
    order="pre",
)
DECODES = spec.DecoderBlock(attention(mask=spec.Causal()), attention(kdim=5), feed(), dropout_rate=0.1)
PRE = spec.DecoderBlock(attention(), attention(kdim=5), feed(), norm=spec.LayerNorm(eps=1e-3, bias=False), order="pre")
ENCODER = spec.Encoder(replace(POST, order="pre"), depth=2, final_norm=spec.LayerNorm(eps=1e-3))
DECODER = spec.Decoder(DECODES, depth=2)
CONTRACTS = {"post": POST, "llama": LLAMA, "decodes": DECODES, "pre": PRE, "encoder": ENCODER, "decoder": DECODER}
# A block has so many operations that JAX compiles it as a whole in less time than one after another.
each_side = pytest.mark.parametrize("side", ["torch", "jax"])


def close(got: Any, wanted: Any, within: float = 1e-13) -> None:
    assert np.shape(got) == np.shape(wanted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=within * max(1.0, float(np.abs(wanted).max())))


def by_hand(contract: Contract, weights: spec.Weights | None = None, dtype: str = "float64", **call: Any) -> Probe:
    """Return a call of T tokens, and S of a memory, one of whose tokens hardly varies, so that eps shows."""
    sizes = {"x": T, "memory": S}
    arrays = {name: numbers(i, B, sizes[name], width) for i, (name, width) in enumerate(contract.inputs.items())}
    arrays["x"][0, 1] *= 1e-2
    drawn = {name: numbers(9 + i, *p.shape) / 2 for i, (name, p) in enumerate(contract.params.items())}
    pull = {"output": numbers(5, B, T, M)}
    arrays, drawn, pull = (spec.cast(group, dtype) for group in (arrays, weights or drawn, pull))
    return Probe("by hand", contract, dtype, drawn, arrays, pull, **call)


def run(side: str, probe: Probe) -> dict[str, np.ndarray]:
    return backends.find(side).run(probe, "auto").results


@cache
def oracle(name: str) -> tuple[Probe, dict[str, np.ndarray]]:
    contract = CONTRACTS[name]
    call: dict[str, Any] = {"mask": spec.Lengths(kv=LENGTHS, q=LENGTHS)}
    call |= {"memory_mask": spec.Lengths(kv=MEMORY)} if "memory" in contract.inputs else {}
    call |= {"dropout_seed": 2**32 - 5} if contract.drops else {}
    probe = by_hand(contract, **call)
    return probe, expect(probe, runs=1).value


class TestPeers:
    """torch's own layers; their key_padding_mask hides keys, and lets padded queries attend."""

    CONFIGS = (
        {"activation": "relu", "norm_first": False, "bias": True},
        {"activation": "gelu", "norm_first": True, "bias": False},
        {"activation": "gelu", "norm_first": False, "bias": True},
        {"activation": "relu", "norm_first": True, "bias": False},
    )
    # JAX is shown the first two, between which every option takes both its values.
    BOTH = ("torch", "jax_eager")
    each_config = pytest.mark.parametrize("options", CONFIGS, ids=lambda o: "-".join(map(str, o.values())))

    @staticmethod
    def config(**options: Any) -> dict[str, Any]:
        return {"d_model": M, "nhead": 2, "dim_feedforward": A, "dropout": 0.0, "layer_norm_eps": 3e-3, **options}

    def shown(self, options: dict[str, Any]) -> tuple[str, ...]:
        return self.BOTH if options in self.CONFIGS[:2] else ("torch",)

    @staticmethod
    def drawn(peer: torch.nn.Module) -> torch.nn.Module:
        with torch.no_grad():
            for i, parameter in enumerate(peer.parameters()):
                _ = parameter.copy_(torch.tensor(numbers(20 + i, *parameter.shape)) / 2)
        return peer.double()

    def agree(
        self, peer: torch.nn.Module, contract: Any, given: dict[str, Any], shown: tuple[str, ...] = BOTH, **call: Any
    ) -> None:
        """Raise unless outputs and the gradients of everything are those of the peer, which takes `call` for our `given`."""
        table = torch_transformer.weight_map(contract)
        weights = weight_map.read({name: to_numpy(x) for name, x in peer.state_dict().items()}, table, contract)
        probe = by_hand(contract, weights, **given)
        arrays = {name: torch.tensor(x).requires_grad_() for name, x in probe.arrays.items()}
        output = peer(*arrays.values(), **call)
        output.backward(torch.tensor(probe.cotangents["output"]))
        grads = {name: to_numpy(p.grad) for name, p in peer.named_parameters() if p.grad is not None}
        wanted = {
            "output": to_numpy(output),
            **{f"d {name}": to_numpy(x.grad) for name, x in arrays.items() if x.grad is not None},
        }
        wanted |= {f"d {name}": g for name, g in weight_map.read(grads, table, contract).items()}
        for side in shown:
            got = run(side, probe)
            assert set(got) == set(wanted)
            for name, value in got.items():
                close(value, wanted[name], 1e-12)

    @each_config
    def test_encoder_layer(self, options: dict[str, Any]) -> None:
        config = self.config(**options)
        peer = self.drawn(torch.nn.TransformerEncoderLayer(**config, batch_first=True))
        hidden = torch.tensor(np.arange(T) >= LENGTHS[:, None])
        contract = torch_transformer.encoder_block(config)
        self.agree(peer, contract, {"mask": spec.Lengths(kv=LENGTHS)}, self.shown(options), src_key_padding_mask=hidden)

    @each_config
    def test_decoder_layer(self, options: dict[str, Any]) -> None:
        config = self.config(**options)
        peer = self.drawn(torch.nn.TransformerDecoderLayer(**config, batch_first=True))
        hidden, later = torch.tensor(np.arange(S) >= MEMORY[:, None]), torch.ones(T, T, dtype=torch.bool).triu(1)
        contract = torch_transformer.decoder_block(config, mask=spec.Causal())
        self.agree(
            peer,
            contract,
            {"memory_mask": spec.Lengths(kv=MEMORY)},
            self.shown(options),
            tgt_mask=later,
            memory_key_padding_mask=hidden,
        )

    def test_stacks(self) -> None:
        config = self.config(norm_first=True)
        norm = torch.nn.LayerNorm(M, eps=0.01)
        one = torch.nn.TransformerEncoderLayer(**config, batch_first=True)
        peer = self.drawn(torch.nn.TransformerEncoder(one, 2, norm=norm, enable_nested_tensor=False))
        block = torch_transformer.encoder_block(config)
        self.agree(peer, spec.Encoder(block, 2, spec.LayerNorm(eps=0.01)), {})
        other = torch.nn.TransformerDecoderLayer(**config, batch_first=True)
        self.agree(
            self.drawn(torch.nn.TransformerDecoder(other, 2)), spec.Decoder(torch_transformer.decoder_block(config), 2), {}
        )

    def test_dropout_stands_where_torch_puts_it(self) -> None:
        class Kept(torch.nn.Module):
            def __init__(self, seed: int | None) -> None:
                super().__init__()
                self.seed = seed

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * torch.tensor(keep(self.seed, 0.4, tuple(x.shape))) / 0.6

        config = self.config(norm_first=True)
        peer = self.drawn(torch.nn.TransformerEncoderLayer(**config, batch_first=True))
        places = {"dropout1": seed_at(7, "dropout1"), "dropout": seed_at(7, "ffn"), "dropout2": seed_at(7, "dropout2")}
        for name, seed in places.items():
            setattr(peer, name, Kept(seed))
        plain = torch_transformer.encoder_block(config)
        contract = replace(plain, feed_forward=replace(plain.feed_forward, dropout_rate=0.4), dropout_rate=0.4)
        self.agree(peer, contract, {"dropout_seed": 7}, ("torch",))

    def test_tables_are_exact_both_ways(self) -> None:
        config = self.config()
        for peer, contract in (
            (torch.nn.TransformerEncoderLayer(**config), torch_transformer.encoder_block(config)),
            (torch.nn.TransformerDecoderLayer(**config), torch_transformer.decoder_block(config)),
        ):
            stored = {f"at.{name}": to_numpy(x) for name, x in peer.state_dict().items()}
            table = torch_transformer.weight_map(contract)
            weights = weight_map.read(stored, table, contract, "at.")
            assert list(weights) == list(contract.params)
            back = weight_map.write(weights, table, contract, "at.")
            assert set(back) == set(stored)
            for name, x in stored.items():
                np.testing.assert_array_equal(back[name], x)

    def test_configs_say_everything(self) -> None:
        config = {"d_model": 6, "nhead": 2}
        block = torch_transformer.encoder_block({**config, "norm_first": True, "bias": False, "activation": "gelu"})
        assert block == spec.EncoderBlock(
            spec.MultiHeadAttention(6, 2, qkv_bias=False, out_bias=False, dropout_rate=0.1),
            spec.FeedForward(6, 2048, "gelu", bias=False, dropout_rate=0.1),
            norm=spec.LayerNorm(eps=1e-5, bias=False),
            order="pre",
            dropout_rate=0.1,
        )


class TestRecipe:
    """The article's `TransformerBlock(hidden_dim, num_heads)`: post-norm, four times as wide inside, relu."""

    TEXT = """
    >>> import jax.numpy, numpy, torch
    >>> from attention import spec
    >>> def transformer_block(hidden_dim, num_heads):
    ...     return spec.EncoderBlock(
    ...         spec.MultiHeadAttention(hidden_dim, num_heads), spec.FeedForward(hidden_dim, 4 * hidden_dim, "relu")
    ...     )
    >>> contract = transformer_block(hidden_dim=64, num_heads=4)
    >>> x = numpy.random.default_rng(0).normal(size=(5, 10, 64)).astype("float32")
    >>> t = contract.build("torch")(torch.tensor(x), mask=spec.Lengths(kv=[10, 7, 4, 1, 10]))
    >>> j = contract.build("jax")(jax.numpy.asarray(x), mask=spec.Lengths(kv=[10, 7, 4, 1, 10]))
    >>> t.shape, bool(abs(t.detach().numpy() - j).max() < 1e-5)
    (torch.Size([5, 10, 64]), True)
    """

    def test_it_runs_in_both_backends_and_agrees(self) -> None:
        example = doctest.DocTestParser().get_doctest(self.TEXT, {}, "recipe", None, None)
        assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=8)


class TestLaws:
    # JAX spends a second on every new shape, and shows stacks and "pre" beside torch's own layers.
    @pytest.mark.parametrize(
        ("name", "side"),
        [*((name, "torch") for name in CONTRACTS), *((name, "jax") for name in ("post", "llama", "decodes"))],
    )
    def test_float64_is_the_oracle_to_1e_13(self, name: str, side: str) -> None:
        # Masked and, where the contract drops anything, training: outputs and the gradients of all inputs and parameters.
        probe, wanted = oracle(name)
        got = run(side, probe)
        assert set(got) == {"output", *(f"d {n}" for n in (*probe.contract.inputs, *probe.contract.params))}
        for n, value in got.items():
            close(value, wanted[n])

    def test_float32_is_within_its_budget(self) -> None:
        for probe in probes(PRE)[:3:2]:
            for row in check_probe("pre", probe, backends=("torch", "jax") if probe.mask is None else ("torch",)):
                assert [str(verdict) for verdict in row.verdicts if not verdict.agrees] == []

    @each_side
    def test_bfloat16_is_within_its_budget(self, side: str) -> None:
        # Not relu: a feature that rounding moves across its corner changes a gradient by a whole, and no budget knows of it.
        probe = probes(POST, "bfloat16")[-1]
        assert probe.dropout_seed is not None
        (row,) = check_probe("post", probe, backends=(side,))
        assert [str(verdict) for verdict in row.verdicts if not verdict.agrees] == []

    def test_a_llama_block_is_six_lines(self) -> None:
        probe = by_hand(LLAMA)
        w, x = probe.weights, probe.arrays["x"]

        def norm(name: str, x: np.ndarray) -> np.ndarray:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * w[f"{name}.scale"]

        arrays = {"query": norm("norm1", x)}
        x = x + LLAMA.attention.formula(np, inner("self_attn", w), arrays, LLAMA.attention.resolve(arrays))["output"]
        y = norm("norm2", x)
        gate = y @ w["ffn.gate.kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn.up.kernel"])) @ w["ffn.down.kernel"]
        close(run("numpy", probe)["output"], x)

    @each_backend
    def test_rotary_positions_are_those_of_the_call(self, backend: Backend) -> None:
        # The same three tokens, padded on the right and on the left.
        probe = by_hand(LLAMA, dtype="float32")
        layer = LLAMA.build(backend.name)
        layer.load_weights(probe.weights)
        right, left = probe.arrays["x"], np.roll(probe.arrays["x"], 2, axis=1)
        masks = [spec.Lengths(kv=[3, 3], q=[3, 3], padding=side) for side in ("right", "left")]
        at = np.array([0, 0, 0, 1, 2])
        wanted = backend.numpy(layer(backend.array(right), mask=masks[0]))[:, :3]
        close(backend.numpy(layer(backend.array(left), mask=masks[1], positions=at))[:, 2:], wanted, 1e-6)
        # Rotary sees distances alone, so only positions that are no shift of these can be told from them.
        other = backend.numpy(layer(backend.array(left), mask=masks[1], positions=3 * at))[:, 2:]
        assert np.abs(other - wanted).max() > 1e-3

    @each_backend
    def test_a_large_mean_costs_no_digits(self, backend: Backend) -> None:
        # mean(x^2) - mean(x)^2 would be off by 1e6 * 2^-24, 6 % of the variance.
        block = spec.EncoderBlock(attention(), feed(), norm=spec.LayerNorm(eps=1e-5), order="pre")
        x = (1000 + numbers(3, B, T, M)).astype(np.float32)
        probe = replace(by_hand(block), arrays={"x": x.astype(np.float64)})
        layer = block.build(backend.name)
        layer.load_weights(spec.cast(probe.weights, "float32"))
        weights = {n: w.astype(np.float32).astype(np.float64) for n, w in probe.weights.items()}
        wanted = run("numpy", replace(probe, weights=weights))["output"]
        change = np.abs(wanted - x).max()
        assert np.abs(backend.numpy(layer(backend.array(x))) - wanted).max() < 1e-3 * change

    @each_backend
    def test_weights_come_back_bit_for_bit(self, backend: Backend) -> None:
        layer = ENCODER.build(backend.name, seed=3)
        first = ENCODER.init(3)
        assert not np.array_equal(first["layers.0.ffn.up.kernel"], first["layers.1.ffn.up.kernel"])
        assert list(layer.weights()) == list(first)
        for name, value in first.items():
            np.testing.assert_array_equal(layer.weights()[name], value)


class TestPadding:
    """A token that neither attends nor is attended to is no token: output 0, gradient 0, influence none."""

    MASK = spec.Lengths(kv=LENGTHS, q=LENGTHS)
    GONE = (np.arange(T) >= LENGTHS[:, None])[..., None]

    def probe(self, contract: Contract, fill: float, pull: float) -> Probe:
        call: dict[str, Any] = {"mask": self.MASK}
        probe = by_hand(contract, dtype="float32", **call)
        arrays = {**probe.arrays, "x": np.where(self.GONE, np.float32(fill), probe.arrays["x"])}
        along = {"output": np.where(self.GONE, np.float32(pull), probe.cotangents["output"])}
        return replace(probe, arrays=arrays, cotangents=along)

    @pytest.mark.parametrize(("name", "side"), [("decodes", "torch"), ("encoder", "torch"), ("encoder", "jax")])
    def test_it_touches_nothing(self, name: str, side: str) -> None:
        clean = run(side, self.probe(CONTRACTS[name], 0.0, 0.0))
        poisoned = run(side, self.probe(CONTRACTS[name], np.nan, 1e6))
        np.testing.assert_array_equal(np.where(self.GONE, clean["output"], 0), 0)
        np.testing.assert_array_equal(np.where(self.GONE, clean["d x"], 0), 0)
        for n, value in clean.items():
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(poisoned[n], value)

    def test_a_padded_row_is_the_short_row(self) -> None:
        probe = by_hand(POST, mask=self.MASK)
        short = replace(
            probe,
            arrays={"x": probe.arrays["x"][1:, :3]},
            cotangents={"output": probe.cotangents["output"][1:, :3]},
            mask=None,
        )
        got, wanted = run("torch", probe), run("torch", short)
        close(got["output"][1:, :3], wanted["output"])
        close(got["d x"][1:, :3], wanted["d x"])

    @each_side
    def test_a_token_that_only_attends_or_is_only_attended_to_lives(self, side: str) -> None:
        # Token 4 sees token 0, nobody sees it; nothing is seen by token 0, which is seen.
        allowed = np.zeros((T, T), bool)
        allowed[4, 0] = True
        output = run(side, by_hand(POST, mask=spec.DenseMask(allowed)))["output"]
        assert (output != 0).any(-1).tolist() == [[True, False, False, False, True]] * B


class TestDropout:
    @each_backend
    def test_every_place_and_layer_drops_its_own(self, backend: Backend) -> None:
        # On ones, what is dropped is what is 0: no two places of a layer, and no two layers, drop alike.
        places = [
            seed_at(seed_at(3, f"layers.{i}"), name) for i in (0, 1) for name in ("self_attn", "dropout1", "ffn", "dropout2")
        ]
        assert len({tuple(keep(seed, 0.5, (64,)).tolist()) for seed in places}) == len(places)
        layer = ENCODER.build(backend.name)
        x = backend.array(numbers(1, B, T, M, dtype="float32"))
        one, again, other = (backend.numpy(layer(x, dropout_seed=seed)) for seed in (2**40 + 3, 2**40 + 3, 3))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)
        arrays, weights = {"x": numbers(1, B, T, M, dtype="float32")}, layer.weights()
        resolved = ENCODER.resolve(arrays, dropout_seed=2**40 + 3)
        close(one, ENCODER.formula(np, weights, arrays, resolved)["output"], 1e-5)
        drawn = [backend.numpy(layer(x)) for _ in range(2)]
        assert not np.array_equal(drawn[0], drawn[1])
        layer.eval()
        still = [backend.numpy(layer(x, dropout_seed=seed)) for seed in (None, 3)]
        np.testing.assert_array_equal(still[0], still[1])

    @each_backend
    def test_a_seed_may_be_an_array_of_the_framework(self, backend: Backend) -> None:
        layer, x = POST.build(backend.name), backend.array(numbers(1, B, T, M, dtype="float32"))
        seed = torch.tensor(9) if backend.name == "torch" else jnp.uint32(9)
        np.testing.assert_array_equal(backend.numpy(layer(x, dropout_seed=seed)), backend.numpy(layer(x, dropout_seed=9)))

    def test_torchs_generator_moves_for_dropout_alone(self) -> None:
        x, state = torch.zeros(B, T, M), torch.get_rng_state()
        _ = POST.build("torch")(x, dropout_seed=1), LLAMA.build("torch")(x), POST.build("torch").eval()(x)
        assert torch.equal(torch.get_rng_state(), state)


class TestTransforms:
    def test_jax_compiles_once_for_all_lengths(self) -> None:
        layer, traced = POST.build("jax"), []

        @nnx.jit
        def step(layer: Any, x: jax.Array, mask: spec.Mask) -> Any:
            traced.append(1)
            return nnx.value_and_grad(lambda layer: jnp.square(layer(x, mask=mask, dropout_seed=3)).sum())(layer)

        x = jnp.asarray(numbers(1, B, T, M, dtype="float32"))
        for lengths in ([5, 3], [2, 0]):
            value, _ = step(layer, x, spec.Lengths(kv=np.array(lengths), q=np.array(lengths)))
            eager = jnp.square(layer(x, mask=spec.Lengths(kv=lengths, q=lengths), dropout_seed=3)).sum()
            np.testing.assert_allclose(value, eager, rtol=1e-5)
        assert len(traced) == 1

    def test_jax_vmap(self) -> None:
        layer = LLAMA.build("jax")
        x = jnp.asarray(numbers(1, B, T, M, dtype="float32"))
        close(np.asarray(jax.vmap(layer)(x)), np.asarray(layer(x)), 1e-6)

    def test_torch_compiles_once_for_all_lengths(self) -> None:
        torch.compiler.reset()
        layer, compiled = replace(LLAMA, dropout_rate=0.5).build("torch"), []

        def backend(graph: Any, _: Any) -> Any:
            compiled.append(1)
            return graph.forward

        fast = torch.compile(layer, fullgraph=True, backend=backend)
        x = torch.tensor(numbers(1, B, T, M)).float()
        for lengths in ([5, 3], [2, 1]):
            call: dict[str, Any] = {"mask": spec.Lengths(kv=torch.tensor(lengths), q=torch.tensor(lengths))}
            call["dropout_seed"] = torch.tensor(lengths[0])
            torch.testing.assert_close(fast(x, **call), layer(x, **call), rtol=0, atol=0)
        assert len(compiled) == 1

    def test_torch_func_and_state_dict(self) -> None:
        layer, x = LLAMA.build("torch"), torch.tensor(numbers(1, B, T, M)).float()
        learned = dict(layer.named_parameters())

        def loss(learned: Any, x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(layer, learned, (x,)).square().sum()

        per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(learned, x)
        whole = torch.func.grad(loss)(learned, x)
        for name, gradient in whole.items():
            torch.testing.assert_close(per_row[name].sum(0), gradient)
        other = copy.deepcopy(layer)
        _ = other.load_state_dict(LLAMA.build("torch", seed=4).state_dict())
        assert not torch.equal(other(x), layer(x))
        _ = other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), layer(x))


def changed(**options: Any) -> Callable[[Probe], Probe]:
    """Return what gives the block of a contract other options."""

    def plant(probe: Probe) -> Probe:
        c = probe.contract
        if isinstance(c, Block):
            return replace(probe, contract=replace(c, **options))
        assert isinstance(c, (spec.Encoder, spec.Decoder))
        return replace(probe, contract=replace(c, **options))

    return plant


def layers_swapped(probe: Probe) -> Probe:
    names = {n: n.replace("layers.0", "*").replace("layers.1", "layers.0").replace("*", "layers.1") for n in probe.weights}
    return replace(probe, weights={n: probe.weights[names[n]] for n in probe.weights})


def norms_swapped(probe: Probe) -> Probe:
    names = {n: n.replace("norm1", "*").replace("norm2", "norm1").replace("*", "norm2") for n in probe.weights}
    return replace(probe, weights={n: probe.weights[names[n]] for n in probe.weights})


def no_final_norm(probe: Probe) -> Probe:
    weights = {n: x for n, x in probe.weights.items() if not n.startswith("final_norm")}
    return replace(changed(final_norm=None)(probe), weights=weights)


PLAIN = by_hand(replace(POST, dropout_rate=0.0), dtype="float32")
LLAMA32, PRE32, STACKED = (by_hand(c, dtype="float32") for c in (LLAMA, PRE, ENCODER))
MASKED = by_hand(DECODES, dtype="float32", mask=spec.Lengths(kv=LENGTHS), memory_mask=spec.Lengths(kv=MEMORY))
DROPPED = by_hand(POST, dtype="float32", dropout_seed=7)
MUTANTS: list[tuple[str, Probe, Callable[[Probe], Probe]]] = [
    ("pre is post", PLAIN, changed(order="pre")),
    ("post is pre", PRE32, changed(order="post")),
    ("eps is flax's", PLAIN, changed(norm=spec.LayerNorm(eps=1e-6))),
    ("rms norm's eps is another", LLAMA32, changed(norm=spec.RMSNorm(eps=1e-6))),
    ("scale is an offset", LLAMA32, changed(norm=spec.RMSNorm(eps=1e-3, offset=True))),
    ("layer norm is rms norm", PRE32, changed(norm=spec.RMSNorm(eps=1e-3))),
    ("activation is another", PLAIN, changed(feed_forward=feed(activation="gelu_tanh"))),
    ("norms are swapped", PLAIN, norms_swapped),
    ("layers are swapped", STACKED, layers_swapped),
    ("the final norm is forgotten", STACKED, no_final_norm),
    ("causality is forgotten", MASKED, changed(self_attention=attention())),
    ("the mask is forgotten", MASKED, lambda p: replace(p, mask=None)),
    ("the memory's mask is forgotten", MASKED, lambda p: replace(p, memory_mask=None)),
    ("dropout is forgotten", DROPPED, changed(dropout_rate=0.0)),
    ("dropout rate is another", DROPPED, changed(dropout_rate=0.2501)),
    ("the seed is another", DROPPED, lambda p: replace(p, dropout_seed=8)),
]


# A probe is hashed by identity, so what several mutants are compared with is computed once.
expected_of = cache(expect)


class TestMutants:
    @pytest.mark.parametrize(("name", "right", "plant"), MUTANTS, ids=[m[0] for m in MUTANTS])
    def test_every_mutant_is_killed(
        self, name: str, right: Probe, plant: Callable[[Probe], Probe], record_property: Callable[[str, Any], None]
    ) -> None:
        expected = expected_of(right)
        assert all(verdict.agrees for verdict in verdicts(run("torch", right), expected))
        got = run("torch", plant(right))
        assert not all(verdict.agrees for verdict in verdicts({"output": got["output"]}, expected)), f"{name} survives"
        record_property("kill", (name, type(right.contract).__name__, "torch", right.name))


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: replace(POST, norm=spec.L2Norm()), r"norm L2Norm\(eps=1e-12\) must be LayerNorm\(\.\.\.\) or RMSNorm\("),
            (
                lambda: replace(POST, norm=spec.RMSNorm(eps=0.0)),
                "norm eps 0 must be positive: a padded token is a row of zeros",
            ),
            (lambda: replace(POST, order="both"), "order 'both' must be one of 'post', 'pre'"),
            (lambda: replace(POST, dropout_rate=1.0), r"dropout_rate 1\.0 must be in \[0, 1\)"),
            (lambda: replace(POST, attention=feed()), r"attention FeedForward\(.* must be MultiHeadAttention\("),
            (lambda: replace(POST, feed_forward=None), r"feed_forward None must be FeedForward\("),
            (lambda: spec.EncoderBlock(attention(kdim=5), feed()), r"attention widths \(6, 5, 5, 6\) of query, key, value and"),
            (lambda: spec.EncoderBlock(attention(out_dim=5), feed()), r"attention widths \(6, 6, 6, 5\) of query"),
            (
                lambda: spec.EncoderBlock(attention(), feed(embed_dim=5)),
                "feed_forward embed_dim 5 must be 6 as the attention has",
            ),
            (
                lambda: replace(DECODES, cross_attention=attention(kdim=5, vdim=4)),
                r"cross_attention widths \(6, 5, 4, 6\) must be \(6, M', M', 6\) as self_attention has",
            ),
            (
                lambda: replace(DECODES, cross_attention=attention(positions=spec.Rotary())),
                r"cross_attention positions Rotary\(.* must be None",
            ),
            (lambda: spec.Encoder(DECODES, 2), r"block DecoderBlock\(.* must be EncoderBlock\("),
            (lambda: spec.Decoder(DECODES, 0), "depth 0 must be a positive int"),
            (lambda: replace(ENCODER, final_norm=spec.L2Norm()), "final_norm L2Norm"),
        ],
    )
    def test_a_contract_that_cannot_be(self, make: Callable[[], Any], text: str) -> None:
        with pytest.raises(OptionError, match=f"^{text}"):
            _ = make()

    @each_backend
    def test_inputs_that_do_not_fit(self, backend: Backend) -> None:
        def zeros(*shape: int, dtype: str = "float32") -> Any:
            return backend.array(np.zeros(shape, dtype))

        encoder, decoder = POST.build(backend.name), DECODER.build(backend.name)
        calls: list[tuple[Callable[[], Any], type[AttentionError], str]] = [
            (
                lambda: encoder(zeros(B, T, 5), dropout_seed=1),
                ShapeError,
                r"x \(2, 5, 5\) must be \(\*batch, T, M\) with M = 6",
            ),
            (lambda: encoder(zeros(M), dropout_seed=1), ShapeError, r"x \(6,\) must be \(\*batch, T, M\) with M = 6"),
            (lambda: encoder(zeros(B, T, M, dtype="float16")), DTypeError, "parameters float32 must be float16 as x is"),
            (lambda: encoder(zeros(B, T, M), mask=spec.Lengths([6, 1])), MaskError, r"Lengths kv \[6, 1\] must be in 0\.\."),
            (lambda: encoder(zeros(B, T, M), mask="causal"), MaskError, "mask str must be a Mask"),
            (
                lambda: decoder(zeros(B, T, M), zeros(B, S, M)),
                ShapeError,
                r"memory \(2, 7, 6\) must be \(\*batch, S, M\) with M = 5, batch = \(2,\) as x has",
            ),
            (lambda: decoder(zeros(B, T, M), zeros(1, S, 5)), ShapeError, r"memory \(1, 7, 5\) must be \(\*batch, S, M\)"),
        ]
        for call, error, text in calls:
            with pytest.raises(error, match=text, check=lambda caught, error=error: type(caught) is error):
                _ = call()

    @pytest.mark.parametrize(
        ("contract", "text"),
        [
            (LLAMA, "norm RMSNorm.* must be LayerNorm"),
            (
                spec.EncoderBlock(attention(), feed()),
                "self_attn MultiHeadAttention.* must be plain: torch's layer has no option",
            ),
            (spec.EncoderBlock(spec.MultiHeadAttention(M, 2, softcap=3.0), feed()), "self_attn .* must be plain"),
            (replace(DECODES, self_attention=spec.MultiHeadAttention(M, 2)), "cross_attn .* must be plain"),
        ],
        ids=["norm", "head_dim", "softcap", "kdim"],
    )
    def test_what_torch_has_no_layer_for(self, contract: Any, text: str) -> None:
        with pytest.raises(OptionError, match=text):
            _ = torch_transformer.weight_map(contract)

    def test_a_gate_has_no_tensor_in_torch(self) -> None:
        contract = spec.EncoderBlock(spec.MultiHeadAttention(M, 2), feed(activation="geglu"))
        with pytest.raises(ParamError, match=r"TransformerEncoderLayer has no tensor for ffn\.gate\.bias; ffn\.gate\.kernel"):
            _ = weight_map.write(contract.init(0), torch_transformer.weight_map(contract), contract)
        with pytest.raises(OptionError, match="activation 'silu' must be one of 'relu', 'gelu'"):
            _ = torch_transformer.encoder_block({"d_model": 6, "nhead": 2, "activation": "silu"})
