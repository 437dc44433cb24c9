"""The multi-head layer in both backends, with the same weights, compared with the formula and the frameworks' own layers.

float64 agrees with the oracle to 1e-13 of the largest element: outputs, intermediates, gradients of parameters and inputs.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention import spec
from attention.spec.layers.multi_head.formula import formula as oracle
from attention.spec.layers.multi_head.formula import resolve
from attention.torch_impl.params import parameter, to_canonical
from parity_tests.support.backends import JAX, TORCH, Backend, close, each_backend, numbers, wide

B, T, S, M, H, K, D, E = 2, 5, 7, 12, 4, 2, 6, 3
SEED = 2**32 + 11
FAR = np.array([[8190, 8191, 4000, 0, 77]] * B)
# Three of row 0 and one of row 1 are padding on the left; padded tokens stand at position 0, as transformers puts them.
LEFT = np.array([[0, 0, 0, 0, 1], [0, 0, 1, 2, 3]])
CAUSAL = spec.Causal(align="end")

Call = tuple[spec.MultiHeadAttention, dict[str, Any]]


def contract(**options: Any) -> spec.MultiHeadAttention:
    given: dict[str, Any] = {"embed_dim": M, "num_heads": H, "num_kv_heads": K, "head_dim": D, **options}
    return spec.MultiHeadAttention(**given)


CROSS = contract(value_dim=E, kdim=13, vdim=17)
ROTARY = contract(mask=spec.Causal(), positions=spec.Rotary(base=500.0))

# name: (contract, options of the call; S where it is not T)
CALLS: dict[str, Call] = {
    "self": (contract(num_kv_heads=None), {}),
    "cross": (CROSS, {"S": S}),
    "value is key": (contract(kdim=13), {"S": S, "value": None}),
    "no biases in": (contract(qkv_bias=False), {}),
    "no bias out": (contract(out_bias=False), {}),
    "dot": (contract(score=spec.Dot()), {}),
    "scale and cap": (contract(score=spec.ScaledDot(0.7), softcap=1.5), {}),
    "rotary": (ROTARY, {}),
    "rotary far": (ROTARY, {"query_positions": FAR, "key_positions": FAR}),
    "rotary left-padded": (
        ROTARY,
        {"query_positions": LEFT, "key_positions": LEFT, "mask": spec.Lengths(kv=[2, 4], padding="left")},
    ),
    "rotary interleaved": (
        contract(positions=spec.Rotary(style="interleaved")),
        {"query_positions": FAR[0], "key_positions": FAR[0]},
    ),
    "rotary partial": (
        contract(positions=spec.Rotary(rotary_dim=4), mask=CAUSAL),
        {"S": S, "query_positions": np.arange(T) + 2, "key_positions": np.arange(S)},
    ),
    "lengths": (contract(mask=CAUSAL), {"S": S, "mask": spec.Lengths(kv=[7, 3], q=[5, 0])}),
    "window and segments": (
        contract(mask=CAUSAL & spec.Window(before=2, after=0)),
        {"mask": spec.Segments(kv=[[0, 0, 1, 1, -1], [3, 3, 3, 3, 3]])},
    ),
    "prefix or chunk": (contract(mask=CAUSAL | spec.Prefix(2)), {"mask": ~spec.Chunked(size=2)}),
    "dense per head": (contract(), {"S": S, "mask": spec.DenseMask(numbers(3, B, H, T, S) > 0)}),
    "bias": (contract(), {"S": S, "bias": numbers(4, H, T, S), "mask": spec.Lengths(kv=[7, 2])}),
    "dropout": (contract(dropout_rate=0.3), {"dropout_seed": SEED}),
    "unbatched": (ROTARY, {"batch": ()}),
    "many batch axes": (CROSS, {"batch": (2, 3), "S": S, "mask": spec.Lengths(kv=[[7, 1, 0], [2, 3, 4]])}),
}
each_call = pytest.mark.parametrize("name", CALLS)


def weights_of(c: spec.MultiHeadAttention) -> spec.Weights:
    """Weights with biases that are not zero."""
    return {name: 0.4 * numbers(i, *param.shape) for i, (name, param) in enumerate(c.params.items())}


def prepared(name: str) -> tuple[spec.MultiHeadAttention, dict[str, np.ndarray], dict[str, Any]]:
    """Return the contract, the inputs by name, and the options of a call."""
    c, options = CALLS[name]
    options = dict(options)
    batch, s = options.pop("batch", (B,)), options.pop("S", None)
    inputs = {"query": numbers(50, *batch, T, M)}
    if s:
        inputs |= {n: numbers(51, *batch, s, c.inputs[n]) for n in ("key", "value")}
    if "value" in options:
        del inputs["value"], options["value"]
    return c, inputs, options


def judged(c: spec.MultiHeadAttention, xp: Any, weights: Any, inputs: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return what the oracle says."""
    options = dict(options)
    query = inputs["query"]
    key = inputs.get("key", query)
    sizes = c.sizes(query, key, inputs.get("value", key))
    given = {**inputs, **({"bias": options.pop("bias")} if "bias" in options else {})}
    return oracle(c, xp, weights, given, resolve(c, sizes, **options))


def loaded(backend: Backend, c: spec.MultiHeadAttention, weights: spec.Weights) -> Any:
    layer = backend.layer(c, dtype=str(weights["q_proj.kernel"].dtype))
    layer.load_weights(weights)
    return layer


def call(backend: Backend, layer: Any, inputs: dict[str, np.ndarray], options: dict[str, Any]) -> Any:
    return layer(**{name: backend.native(x) for name, x in (inputs | options).items()})


def run(backend: Backend, c: spec.MultiHeadAttention, inputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    """Return every intermediate and the output in float64."""
    with wide(inputs["query"]):
        layer = loaded(backend, c, weights_of(c))
        whole = nnx.jit if backend is JAX else lambda call: call
        output, intermediates = whole(
            lambda layer, given: call(backend, layer, {}, options | given | {"return_intermediates": spec.INTERMEDIATES})
        )(layer, {name: backend.array(x) for name, x in inputs.items()})
        return {name: backend.numpy(x) for name, x in {**intermediates, "output": output}.items()}


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def grads(
    backend: Backend, c: spec.MultiHeadAttention, weights: spec.Weights, inputs: dict[str, np.ndarray], **options: Any
) -> dict[str, np.ndarray]:
    """Return the gradients of `sum(cos(output))` by name: of every parameter and every input."""
    with wide(inputs["query"]):
        layer = loaded(backend, c, weights)
        native = {name: backend.array(x) for name, x in inputs.items()}
        if backend is TORCH:
            for x in native.values():
                _ = x.requires_grad_()
            call(backend, layer, {}, native | options).cos().sum().backward()
            found: dict[str, Any] = {n: to_canonical(p, gradient(parameter(layer, n))) for n, p in c.params.items()}
            found |= {name: x.grad for name, x in native.items()}
        else:

            def scalar(module: Any, given: dict[str, Any]) -> Any:
                return jnp.cos(call(backend, module, {}, given | options)).sum()

            of_layer, of_inputs = nnx.jit(nnx.grad(scalar, argnums=(0, 1)))(layer, native)
            paths = {name: name.split(".") for name in c.params}
            found = {name: of_layer[part][leaf].get_value() for name, (part, leaf) in paths.items()} | of_inputs
        return {name: backend.numpy(g) for name, g in found.items()}


class TestValues:
    @each_call
    @each_backend
    def test_float64_is_the_oracle_to_1e_13(self, backend: Backend, name: str) -> None:
        c, inputs, options = prepared(name)
        wanted = judged(c, np, weights_of(c), inputs, options)
        got = run(backend, c, inputs, **options)
        assert set(got) == {*spec.INTERMEDIATES, "output"}
        for intermediate, value in got.items():
            close(value, wanted[intermediate], 1e-13)

    @each_call
    def test_every_call_says_something_of_its_own(self, name: str) -> None:
        # What a call adds to plain attention changes the answer, so that no case passes by doing nothing.
        c, inputs, options = prepared(name)
        plain = spec.MultiHeadAttention(M, H, c.num_kv_heads, D, c.value_dim, c.kdim, c.vdim, qkv_bias=True, out_bias=True)
        weights = weights_of(plain)
        mine = judged(c, np, {n: weights[n] for n in c.params}, inputs, options)["output"]
        if name not in ("self", "cross", "value is key"):
            assert np.abs(mine - judged(plain, np, weights, inputs, {})["output"]).max() > 1e-3

    @each_backend
    def test_rotary_sees_distances_alone(self, backend: Backend) -> None:
        _, inputs, _ = prepared("rotary")
        near = run(backend, ROTARY, inputs)
        far = run(backend, ROTARY, inputs, query_positions=np.arange(T) + 8190, key_positions=np.arange(T) + 8190)
        # An angle of 8190 radians is known to 2^-41, which is what the turned heads differ by.
        close(far["output"], near["output"], 1e-11)
        apart = run(backend, ROTARY, inputs, query_positions=np.arange(T) + 8190, key_positions=np.arange(T) + 8189)
        assert np.abs(apart["output"] - near["output"]).max() > 1e-3

    @each_backend
    def test_float32_rotary_keeps_its_angles_far_out(self, backend: Backend) -> None:
        # With angles in float32, position 131,000 is off by 2e-3 radians and the output by 1e-4 or so; the rest of float32
        # gives 2e-7.
        _, inputs, _ = prepared("rotary far")
        options = {"query_positions": 16 * FAR, "key_positions": 16 * FAR}
        wanted = judged(ROTARY, np, weights_of(ROTARY), inputs, options)["output"]
        layer = loaded(backend, ROTARY, spec.cast(weights_of(ROTARY), "float32"))
        got = backend.numpy(call(backend, layer, spec.cast(inputs, "float32"), options))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    @each_backend
    def test_the_output_has_the_dtype_of_the_layer(self, backend: Backend, dtype: str) -> None:
        inputs = spec.cast({"query": numbers(50, B, T, M)}, dtype)
        layer = loaded(backend, ROTARY, spec.cast(weights_of(ROTARY), dtype))
        output, intermediates = call(backend, layer, inputs, {"return_intermediates": ("context", "weights")})
        assert [str(backend.numpy(x).dtype) for x in (output, intermediates["context"], intermediates["weights"])] == [
            dtype,
            dtype,
            "float32",
        ]

    @each_backend
    def test_intermediates_come_on_request(self, backend: Backend) -> None:
        layer, query = backend.layer(contract()), backend.array(numbers(50, B, T, M, dtype="float32"))
        output, intermediates = layer(query, return_intermediates=("logsumexp", "scores"))
        assert list(intermediates) == ["logsumexp", "scores"]
        assert intermediates["logsumexp"].shape == (B, H, T)
        assert output.shape == layer(query).shape == (B, T, M)


class TestGradients:
    @pytest.mark.parametrize("name", ["cross", "rotary left-padded", "bias", "window and segments", "dropout"])
    @each_backend
    def test_float64_gradients_are_the_oracles_to_1e_13(self, backend: Backend, name: str) -> None:
        c, inputs, options = prepared(name)
        if "bias" in options:
            inputs, options = inputs | {"bias": options["bias"]}, {k: v for k, v in options.items() if k != "bias"}
        weights = weights_of(c)
        with wide(inputs["query"]):

            def scalar(params: Any, given: Any) -> Any:
                return jnp.cos(judged(c, jnp, params, given, options)["output"]).sum()

            of_params, of_inputs = nnx.grad(scalar, argnums=(0, 1))(
                {n: jnp.asarray(w) for n, w in weights.items()}, {n: jnp.asarray(x) for n, x in inputs.items()}
            )
            wanted = {n: np.asarray(g) for n, g in {**of_params, **of_inputs}.items()}
        got = grads(backend, c, weights, inputs, **options)
        assert set(got) == set(wanted)
        largest = max(np.abs(g).max() for g in wanted.values())
        for n, g in got.items():
            assert g.shape == wanted[n].shape
            np.testing.assert_allclose(g, wanted[n], rtol=0, atol=1e-13 * largest, err_msg=n)

    @pytest.mark.parametrize("padding", ["right", "left"])
    @each_backend
    def test_what_stands_in_padding_reaches_no_gradient(self, backend: Backend, padding: str) -> None:
        lengths = np.array([3, 1])
        mask = spec.Lengths(kv=lengths, q=lengths, padding=padding)
        place = np.arange(T) if padding == "right" else np.arange(T)[::-1]
        padded = (place >= lengths[:, None])[..., None]
        clean = numbers(50, B, T, M, dtype="float32")
        poisons = np.resize(np.array([np.nan, np.inf, -np.inf], np.float32), clean.shape)
        weights = spec.cast(weights_of(ROTARY), "float32")
        got = grads(backend, ROTARY, weights, {"query": np.where(padded, poisons, clean)}, mask=mask)
        wanted = grads(backend, ROTARY, weights, {"query": clean}, mask=mask)
        for name, gradient in wanted.items():
            assert np.isfinite(gradient).all()
            np.testing.assert_array_equal(got[name], gradient)
        np.testing.assert_array_equal(np.where(padded, got["query"], 0), 0)
        output = call(backend, loaded(backend, ROTARY, weights), {"query": np.where(padded, poisons, clean)}, {"mask": mask})
        # A row that sees nothing is what the output projection makes of zero.
        rows = np.broadcast_to(weights["out_proj.bias"], (B, T, M))
        np.testing.assert_array_equal(np.where(padded, backend.numpy(output) - rows, 0), 0)


class TestDropout:
    DROPS = contract(dropout_rate=0.5)

    @each_backend
    def test_training_drops_and_evaluation_does_not(self, backend: Backend) -> None:
        layer, query = backend.layer(self.DROPS), backend.array(numbers(50, B, T, M, dtype="float32"))
        whole = backend.numpy(backend.layer(contract())(query))
        seeded = [backend.numpy(layer(query, dropout_seed=seed)) for seed in (1, 1, 2)]
        np.testing.assert_array_equal(seeded[0], seeded[1])
        assert not np.array_equal(seeded[0], seeded[2])
        assert not np.array_equal(seeded[0], whole)
        layer.eval()
        np.testing.assert_array_equal(backend.numpy(layer(query, dropout_seed=1)), backend.numpy(layer(query)))
        np.testing.assert_allclose(backend.numpy(layer(query)), whole, rtol=0, atol=1e-6)
        layer.train()
        np.testing.assert_array_equal(backend.numpy(layer(query, dropout_seed=1)), seeded[0])

    @each_backend
    def test_every_call_in_training_draws_its_own_seed(self, backend: Backend) -> None:
        query = backend.array(numbers(50, B, T, M, dtype="float32"))

        def draws() -> list[np.ndarray]:
            _ = torch.manual_seed(5)
            layer = backend.layer(self.DROPS, seed=3)
            return [backend.numpy(layer(query)) for _ in range(3)]

        first, again = draws(), draws()
        assert all(not np.array_equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
        np.testing.assert_array_equal(first, again)

    def test_torchs_generator_moves_for_dropout_alone(self) -> None:
        query = torch.zeros(B, T, M)
        state = torch.get_rng_state()
        layer = TORCH.layer(self.DROPS, seed=3)
        for built in (TORCH.layer(contract()), layer.eval()):
            _ = built(query)
        _ = layer.train()(query, dropout_seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        _ = layer(query)
        assert not torch.equal(torch.get_rng_state(), state)


class TestPeers:
    """The frameworks' own layers, loaded with our weights; both say of a mask what ours say, one of them inverted."""

    PLAIN = spec.MultiHeadAttention(embed_dim=M, num_heads=H)
    LENGTHS = np.array([7, 4])

    def test_backends_agree_with_torch_nn_multiheadattention(self) -> None:
        c = spec.MultiHeadAttention(embed_dim=M, num_heads=H, kdim=13, vdim=17)
        weights = weights_of(c)
        inputs = {n: numbers(50 + i, B, T if n == "query" else S, w) for i, (n, w) in enumerate(c.inputs.items())}
        peer = torch.nn.MultiheadAttention(M, H, kdim=13, vdim=17, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            for p in "qkv":
                matrix = weights[f"{p}_proj.kernel"].reshape(-1, M).T
                _ = getattr(peer, f"{p}_proj_weight").copy_(torch.tensor(matrix))
            biases = np.concatenate([weights[f"{p}_proj.bias"].reshape(-1) for p in "qkv"])
            _ = peer.in_proj_bias.copy_(torch.tensor(biases))
            _ = peer.out_proj.weight.copy_(torch.tensor(weights["out_proj.kernel"].reshape(M, M).T))
            _ = peer.out_proj.bias.copy_(torch.tensor(weights["out_proj.bias"]))
        seen = numbers(9, T, S) > -0.5
        seen[:, 0] = True
        output, probabilities = peer(
            *(torch.tensor(x) for x in inputs.values()),
            key_padding_mask=torch.tensor(np.arange(S) >= self.LENGTHS[:, None]),
            attn_mask=torch.tensor(~seen),
            average_attn_weights=False,
        )
        mask = spec.Lengths(kv=self.LENGTHS) & spec.DenseMask(seen)
        for backend in (TORCH, JAX):
            got = run(backend, c, inputs, mask=mask)
            close(got["output"], output.detach().numpy(), 1e-12)
            close(got["weights"], probabilities.detach().numpy(), 1e-12)

    def test_backends_agree_with_flax_nnx_multiheadattention(self) -> None:
        weights = weights_of(self.PLAIN)
        query = numbers(50, B, S, M)
        seen = (np.arange(S) < self.LENGTHS[:, None])[:, None, None, :] & np.tri(S, dtype=bool)
        names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
        with wide(query):
            peer = nnx.MultiHeadAttention(H, M, decode=False, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
            for ours, theirs in names.items():
                for leaf in ("kernel", "bias"):
                    getattr(getattr(peer, theirs), leaf).set_value(jnp.asarray(weights[f"{ours}.{leaf}"]))
            wanted = np.asarray(peer(jnp.asarray(query), mask=jnp.asarray(seen)))
        for backend in (TORCH, JAX):
            got = run(backend, self.PLAIN, {"query": query}, mask=spec.Lengths(kv=self.LENGTHS) & spec.Causal())
            # Its softmax runs in float32 whatever the inputs: jax.nn.dot_product_attention's.
            close(got["output"], wanted, 1e-6)
