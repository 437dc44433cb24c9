"""Maps of strangers' pairs: norms with statistics, lists without names, fused and stacked arrays, and what stays open."""

# torch and JAX leave many of their types unknown.
# pyright: standard

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention import parity
from attention.parity.adapters import program
from attention.parity.param_mapping import ParamMap, match

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def told(found: ParamMap) -> dict[str, str]:
    return {move.first.name: f"{move.second.name} {move.second.where}".rstrip() for move in found.moves}


def drawn(tree: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape).astype(np.float32)), tree)


class TwoNorms(torch.nn.Module):
    """A sum of two branches, each with a batch norm in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Linear(8, 8, bias=False)
        self.bn2: Any = torch.nn.BatchNorm1d(8)
        norm: Any = torch.nn.BatchNorm1d(8)
        self.downsample = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), norm)
        for x in (self.bn2, norm):
            torch.nn.init.uniform_(x.weight, 0.5, 1.5)
            x.running_mean.normal_()
            x.running_var.uniform_(0.3, 2.0)
        _ = self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.downsample(x)) + self.bn2(self.conv(x))


class TwoNormsInFlax(nnx.Module):
    def __init__(self, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.main = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
        self.norm_b = nnx.BatchNorm(8, use_running_average=True, epsilon=epsilon, rngs=rngs)
        self.projection = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
        self.norm_p = nnx.BatchNorm(8, use_running_average=True, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.norm_p(self.projection(x))) + self.norm_b(self.main(x))


class TestState:
    def test_statistics_that_are_not_loaded_yet_do_not_hide_the_map(self) -> None:
        found = match(TwoNorms(), TwoNormsInFlax(), X)
        assert found.open == ()
        assert told(found)["bn2.weight"] == "norm_b.scale"
        assert parity.compare(TwoNorms(), TwoNormsInFlax(), X, load="first").verdict == "agrees"

    def test_the_order_of_use_tells_norms_apart_where_outputs_differ(self) -> None:
        found = match(TwoNorms(), TwoNormsInFlax(0.3), X)
        assert found.open == ()
        assert (told(found)["bn2.weight"], told(found)["downsample.1.bias"]) == ("norm_b.scale", "norm_p.bias")
        assert parity.compare(TwoNorms(), TwoNormsInFlax(0.3), X, load="first").verdict == "differs"

    def test_locate_loads_state_as_compare_does(self) -> None:
        assert not parity.locate(TwoNorms(), TwoNormsInFlax(), X, load="first").found

    def test_a_buffer_may_be_a_leaf_of_a_tree_of_parameters(self) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(1)
                self.fc = torch.nn.Linear(8, 8)
                # Statistics that no output depends on are nobody's counterpart.
                self.unused = torch.nn.BatchNorm1d(8)
                self.register_buffer("seen_mean", torch.randn(8))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fc(x) * self.unused.weight + self.unused.bias - self.seen_mean

        class Theirs(linen.Module):
            @linen.compact
            def __call__(self, x: jax.Array) -> jax.Array:
                mean = self.variable("stats", "mean", jnp.zeros, (8,))
                x = linen.Dense(8)(x)
                scale, bias = (self.param(name, linen.initializers.ones, (8,)) for name in ("scale", "bias"))
                return x * scale + bias - mean.value

        variables = Theirs().init(jax.random.key(0), X)
        side = (lambda v, x: Theirs().apply(v, x)), variables
        found = match(Ours(), side, X)
        assert found.state == (("seen_mean", "stats.mean"),)
        assert parity.compare(Ours(), side, X, load="first").verdict == "agrees"
        assert found.inverse.state == (("stats.mean", "seen_mean"),)
        turned = parity.compare(Ours(), side, X, load="second")
        assert turned.verdict == "agrees"

    def test_a_map_with_state_is_saved(self, tmp_path: Any) -> None:
        found = ParamMap(left_over=((), ("stats.mean",)), state=(("seen_mean", "stats.mean"),))
        found.to_json(tmp_path / "map.json")
        assert ParamMap.from_json(tmp_path / "map.json") == found


class TestUnnamed:
    def test_a_list_of_tuples_is_matched_by_the_order_of_use(self) -> None:
        torch.manual_seed(0)
        net = torch.nn.Sequential(*(layer for _ in range(4) for layer in (torch.nn.Linear(8, 8), torch.nn.Tanh())))

        def theirs(params: Any, x: jax.Array) -> jax.Array:
            (first, bias), rest = params
            x = jnp.tanh(x @ first + bias)
            for w, b in rest:
                x = jnp.tanh(x @ w + b)
            return x

        leaf = (jnp.zeros((8, 8)), jnp.zeros(8))
        found = match(net, (theirs, drawn([leaf, [leaf] * 3])), X)
        assert told(found) == {
            "0.weight": "[0][0]",
            "0.bias": "[0][1]",
            **{f"{2 * i + 2}.weight": f"[1][{i}][0]" for i in range(3)},
            **{f"{2 * i + 2}.bias": f"[1][{i}][1]" for i in range(3)},
        }
        assert found.open == ()

    def test_a_kernel_is_one_of_as_many_inputs(self) -> None:
        """`gate (12, 8)` is stored as `w2 (12, 8)` is, which is `down`; the other two are joined, whatever they are called."""

        class Gated(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.gate_proj, self.up_proj = (torch.nn.Linear(8, 12, bias=False) for _ in range(2))
                self.down_proj = torch.nn.Linear(12, 8, bias=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))

        def theirs(params: Any, x: jax.Array) -> jax.Array:
            gate, up = jnp.split(x @ params["w13"]["kernel"], 2, axis=-1)
            return (jax.nn.sigmoid(gate) * up) @ params["w2"]["kernel"]

        tree = {"w13": {"kernel": jnp.zeros((8, 24))}, "w2": {"kernel": jnp.zeros((12, 8))}}
        found = match(Gated(), (theirs, drawn(tree)), X)
        assert told(found) == {
            "gate_proj.weight": "w13.kernel columns 0:12",
            "up_proj.weight": "w13.kernel columns 12:24",
            "down_proj.weight": "w2.kernel",
        }
        # Gate before up is the documented order, whatever the outputs say.
        found = match(Gated(), (lambda p, x: jnp.sin(theirs(p, x)), drawn(tree)), X)
        assert (found.open, told(found)["up_proj.weight"]) == ((), "w13.kernel columns 12:24")

    def test_four_parts_that_no_word_names_stand_in_any_order(self) -> None:
        class Heads(torch.nn.Module):
            SIZES = (5, 3, 4, 2)

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                for name, size in zip("abcd", self.SIZES, strict=True):
                    setattr(self, f"head_{name}", torch.nn.Linear(8, size))

            def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                return [(at + 1) * getattr(self, f"head_{name}")(x) for at, name in enumerate("abcd")]

        def theirs(params: Any, x: jax.Array) -> list[jax.Array]:
            c, a, d, b = jnp.split(x @ params["generator"]["w"] + params["generator"]["b"], (4, 9, 11), axis=-1)
            return [a, 2 * b, 3 * c, 4 * d]

        found = match(Heads(), (theirs, drawn({"generator": {"w": jnp.zeros((8, 14)), "b": jnp.zeros(14)}})), X)
        assert told(found)["head_c.weight"] == "generator.w columns 0:4"
        assert told(found)["head_d.bias"] == "generator.b rows 9:11"

        def wrong(params: Any, x: jax.Array) -> list[jax.Array]:
            return [jnp.sin(each) for each in theirs(params, x)]

        found = match(Heads(), (wrong, drawn({"generator": {"w": jnp.zeros((8, 14)), "b": jnp.zeros(14)}})), X)
        assert found.open


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer: Any = torch.nn.ModuleList(
            torch.nn.ModuleDict({n: torch.nn.Linear(8, 8) for n in ("query", "key", "value", "out")}) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for each in self.layer:
            q, k, v = (each[name](x) for name in ("query", "key", "value"))
            x = x + each["out"](torch.softmax(q @ k.T, -1) @ v)
        return x


def scanned(params: Any, x: jax.Array, scale: float = 1.0) -> jax.Array:
    def body(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
        q, k, v = jnp.split(x @ p["wqkv"] + p["bqkv"], 3, axis=-1)
        return x + jax.nn.softmax(scale * q @ k.T, axis=-1) @ v @ p["mix"] + p["shift"], None

    return jax.lax.scan(body, x, params["stack"])[0]


SHAPES = {"wqkv": (3, 8, 24), "bqkv": (3, 24), "mix": (3, 8, 8), "shift": (3, 8)}


class TestRows:
    @pytest.mark.parametrize("scale", [1.0, 0.5])
    def test_what_is_stacked_and_fused_at_once_is_matched_row_by_row(self, scale: float) -> None:
        tree = drawn({"stack": {name: jnp.zeros(shape) for name, shape in SHAPES.items()}})
        found = match(Layers(), (lambda p, x: scanned(p, x, scale), tree), X)
        assert (found.left_over, found.open) == (((), ()), ())
        assert told(found)["layer.1.value.weight"] == "stack.wqkv [1:2, :, 16:24]"
        assert told(found)["layer.2.out.bias"] == "stack.shift rows 2:3"

    def test_a_table_of_as_many_rows_is_no_stack(self) -> None:
        tree = {"stack": {name: jnp.zeros(shape) for name, shape in SHAPES.items()}, "kinds": jnp.zeros((3, 8))}

        class Kinds(Layers):
            def __init__(self) -> None:
                super().__init__()
                self.kinds = torch.nn.Embedding(3, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x + self.kinds(torch.arange(3)))

        found = match(Kinds(), (lambda p, x: scanned(p, x + p["kinds"]), drawn(tree)), X)
        assert told(found)["kinds.weight"] == "kinds"
        assert found.left_over == ((), ())


class TestBeside:
    def test_a_bias_tells_a_norm_from_a_scale_that_one_program_forgets(self) -> None:
        class Scaled(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.fc = torch.nn.Linear(8, 8)
                self.gamma = torch.nn.Parameter(torch.rand(8) + 0.5)
                self.reduce = torch.nn.LayerNorm(8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.reduce(self.gamma * self.fc(x))

        def theirs(params: Any, x: jax.Array) -> jax.Array:
            x = x @ params["dense"]["w"] + params["dense"]["b"]
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
            return x * params["ln"]["scale"] + params["ln"]["offset"]

        tree = {
            "dense": {"w": jnp.zeros((8, 8)), "b": jnp.zeros(8)},
            "layer_scale": jnp.zeros(8),
            "ln": {"scale": jnp.zeros(8), "offset": jnp.zeros(8)},
        }
        found = match(Scaled(), (theirs, drawn(tree)), X)
        assert (told(found)["reduce.weight"], found.open) == ("ln.scale", ())


class TestRecurrent:
    @pytest.mark.parametrize("load", ["first", "second"])
    def test_an_lstm_with_two_biases_beside_one_with_one(self, load: str) -> None:
        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.cell = torch.nn.LSTMCell(8, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.cell(x)[1]

        class Theirs(nnx.Module):
            def __init__(self) -> None:
                self.cell = nnx.LSTMCell(8, 3, rngs=nnx.Rngs(0))

            def __call__(self, x: jax.Array) -> jax.Array:
                return self.cell((jnp.zeros((len(x), 3)), jnp.zeros((len(x), 3))), x)[0][0]

        report = parity.compare(Ours(), Theirs(), X, load=load)
        assert report.verdict == "agrees"
        assert not any("left over" in note for note in report.notes)

    def test_a_sum_that_is_there_already_needs_no_loading(self, tmp_path: Any) -> None:
        cell = torch.nn.LSTMCell(8, 3)
        tensors = {name: x.detach().numpy() for name, x in cell.named_parameters()}

        def theirs(p: Any, x: jax.Array) -> jax.Array:
            i, _, g, o = jnp.split(x @ p["wx"] + jnp.zeros((len(x), 3)) @ p["wh"] + p["b"], 4, axis=-1)
            return jax.nn.sigmoid(o) * jnp.tanh(jax.nn.sigmoid(i) * jnp.tanh(g))

        class Ours(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = cell

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.cell(x)[0]

        tree = {
            "wx": jnp.asarray(tensors["weight_ih"].T),
            "wh": jnp.asarray(tensors["weight_hh"].T),
            "b": jnp.asarray(tensors["bias_ih"] + tensors["bias_hh"]),
        }
        assert parity.compare(Ours(), (theirs, tree), X).verdict == "agrees"
        found = match(Ours(), (theirs, tree), X)
        found.to_json(tmp_path / "map.json")
        assert ParamMap.from_json(tmp_path / "map.json") == found
        assert parity.compare(Ours(), (theirs, tree), X, params=found.inverse.inverse, load="second").verdict == "agrees"


class TestLikeliest:
    def test_the_place_is_shown_under_a_map_that_is_not_established(self) -> None:
        """No evidence says which half of a fused kernel is which; one place explains all that differs."""

        class Moments(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.fc_mu, self.fc_logvar = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                mu, logvar = self.fc_mu(x), self.fc_logvar(x)
                return (mu**2 + torch.exp(logvar) - logvar - 1.0).sum(-1)

        def theirs(params: Any, x: jax.Array) -> jax.Array:
            w, b = params["moments"]
            mu, logvar = jnp.split(jnp.tanh(x) @ w + b, 2, axis=-1)
            return jnp.sum(mu**2 + jnp.exp(logvar) - logvar - 1.0, axis=-1)

        tree = drawn({"moments": (jnp.zeros((8, 8)), jnp.zeros(8))})
        found = parity.full_comparison(Moments(), (theirs, tree), X, load="first")
        assert found.verdict == "cannot tell"
        assert found.divergence is not None
        assert found.divergence.found
        assert "likeliest parameter map" in found.divergence.notes[0]
        assert "likeliest parameter map" in str(found)

    def test_nothing_is_located_where_the_likeliest_map_explains_nothing(self) -> None:
        def ours(p: Any, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(x @ p["one"]) + torch.relu(x @ p["two"])

        def theirs(p: Any, x: jax.Array) -> jax.Array:
            return jnp.cos(x @ p["alpha"]) * jnp.exp(x @ p["omega"]) + 1.0

        torch.manual_seed(0)
        first = {name: torch.randn(8, 8) for name in ("one", "two")}
        second = drawn({"alpha": jnp.zeros((8, 8)), "omega": jnp.zeros((8, 8))}, 5)
        found = parity.full_comparison((ours, first), (theirs, second), X, load="first")
        assert (found.verdict, found.divergence, found.findings) == ("cannot tell", None, ())


class Upsampler(nn.Module):
    """A transposed convolution between two others, in one or two axes of space."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        conv: Any = nn.Conv1d if axes == 1 else nn.Conv2d
        transposed: Any = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
        self.inner = conv(2, 5, 3, padding=1)
        self.up = transposed(5, 4, (2, 3)[-axes:], stride=(2, 3)[-axes:])
        self.outer = conv(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.relu(self.up(torch.relu(self.inner(x)))))


class FlaxUpsampler(nnx.Module):
    """The same in NNX, whose transposed convolution reads its kernel from the start unless `transpose_kernel` is set."""

    def __init__(self, axes: int, *, transpose_kernel: bool, activation: Any = nnx.relu) -> None:
        rngs, window = nnx.Rngs(0), (2, 3)[-axes:]
        self.inner = nnx.Conv(2, 5, (3,) * axes, padding=1, rngs=rngs)
        self.up = nnx.ConvTranspose(5, 4, window, strides=window, padding="VALID", transpose_kernel=transpose_kernel, rngs=rngs)
        self.outer, self.activation = nnx.Conv(4, 3, (1,) * axes, rngs=rngs), activation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.up(nnx.relu(self.inner(jnp.moveaxis(x, 1, -1)))))
        return jnp.moveaxis(self.outer(x), -1, 1)


class TestTransposedConvolutions:
    @pytest.mark.parametrize("axes", [1, 2])
    @pytest.mark.parametrize("transpose_kernel", [False, True])
    def test_windows_are_reversed_where_one_program_alone_reads_them_from_the_end(
        self, axes: int, *, transpose_kernel: bool
    ) -> None:
        torch.manual_seed(0)
        x = np.random.default_rng(0).standard_normal((2, 2, 6, 5)[: axes + 2]).astype(np.float32)
        first, second = Upsampler(axes), FlaxUpsampler(axes, transpose_kernel=transpose_kernel)
        parity.compare(first, second, x, load="first").assert_ok()
        found = parity.match(first, second, x)
        assert ("window reversed" in str(found)) is not transpose_kernel
        values = program(first).params
        back = found.backward(found.forward(dict(values)))
        assert all(np.array_equal(back[name], values[name]) for name in values)

    def test_a_kernel_that_is_kept_in_the_layout_of_torch(self) -> None:
        def theirs(p: Any, x: jax.Array) -> jax.Array:
            numbers = ("NCH", "IOH", "NCH")
            return jax.lax.conv_transpose(x, p["w"], (2,), "VALID", dimension_numbers=numbers) + p["b"][:, None]

        torch.manual_seed(0)
        first = nn.ConvTranspose1d(3, 4, 3, stride=2)
        tree = drawn({"w": jnp.zeros((3, 4, 3)), "b": jnp.zeros(4)})
        x = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
        parity.compare(first, (theirs, tree), x, load="first").assert_ok()
        given = {"weight": "w", "bias": "b"}
        parity.compare(first, (theirs, tree), x, load="first", params=given).assert_ok()
        # Values that were copied as they are make another program.
        copied = {given[name]: jnp.asarray(value.numpy()) for name, value in first.state_dict().items()}
        assert parity.compare(first, (theirs, copied), x).verdict == "differs"

    def test_a_mistake_elsewhere_does_not_open_the_map(self) -> None:
        x = np.random.default_rng(0).standard_normal((2, 2, 6, 5)).astype(np.float32)
        wrong = FlaxUpsampler(2, transpose_kernel=False, activation=nnx.gelu)
        assert parity.compare(Upsampler(2), wrong, x, load="first").verdict == "differs"
        assert "window reversed" in str(parity.match(Upsampler(2), wrong, x))

    def test_a_saved_map_keeps_its_reversed_windows(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).standard_normal((2, 2, 6, 5)).astype(np.float32)
        found = parity.match(Upsampler(2), FlaxUpsampler(2, transpose_kernel=False), x)
        found.to_json(tmp_path / "map.json")
        assert type(found).from_json(tmp_path / "map.json") == found


class TestStatisticsAmongParameters:
    def test_a_variance_among_the_leaves_is_the_running_var(self) -> None:
        class Norm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.bn = nn.Linear(8, 5), nn.BatchNorm1d(5)
                for name, x in self.bn.state_dict().items():
                    if x.is_floating_point():
                        _ = x.copy_(torch.rand(5) + (0.5 if "var" in name or name == "weight" else -0.3))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.bn(self.inner(x))

        def theirs(p: Any, x: jax.Array) -> jax.Array:
            y = x @ p["dense"]["w"] + p["dense"]["b"]
            return (y - p["mean"]) / jnp.sqrt(p["variance"] + 1e-5) * p["scale"] + p["offset"]

        torch.manual_seed(0)
        norm = {name: jnp.zeros(5) for name in ("mean", "variance", "scale", "offset")}
        tree = drawn({"dense": {"w": jnp.zeros((8, 5)), "b": jnp.zeros(5)}, **norm})
        report = parity.compare(Norm().eval(), (theirs, tree), X, load="first")
        report.assert_ok()
        assert any("running_var of torch is variance of jax" in note for note in report.notes)
