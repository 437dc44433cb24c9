"""Models of other libraries, each a side by itself: transformers, Keras on JAX, Equinox, Haiku, Linen.

A library that is not installed is skipped; all but Linen and transformers are optional.
"""

# The libraries leave many of their types unknown, which strict mode reports at every use.
# pyright: basic

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from attention.parity import compare
from attention.parity.adapters import Call, program
from attention.parity.compare.module_tree import parts
from attention.spec.errors import ParamError

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def noted(report: Any, text: str) -> bool:
    return any(text in note for note in report.notes)


class Net(nn.Module):
    """A linear layer, a batch norm with statistics of its own, and another linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5, eps=1e-3), nn.Linear(5, 3)
        self.bn.running_mean = torch.arange(5.0) / 7
        self.bn.running_var = 1 + torch.arange(5.0)

    def forward(self, x: Any) -> Any:
        return self.last(torch.relu(self.bn(self.first(x))))


class TestTransformers:
    def test_a_causal_model_is_compared_by_its_logits_whatever_else_it_returns(self) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(
            vocab_size=13, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=16,
        )  # fmt: skip
        torch.manual_seed(0)
        one = transformers.LlamaForCausalLM(config).eval()
        ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
        made = program(one).run(Call.of({"input_ids": ids}))
        assert list(made.outputs) == ["output.logits"]
        torch.manual_seed(1)
        report = compare(one, transformers.LlamaForCausalLM(config).eval(), {"input_ids": ids}, load="first", gradients=False)
        report.assert_ok()
        assert noted(report, "left out of torch (first): output.past_key_values, a cache")


class TestKeras:
    def test_a_model_is_a_side_with_its_statistics(self) -> None:
        keras = pytest.importorskip("keras")
        if keras.backend.backend() != "jax":
            pytest.skip("Keras stands on another backend")
        layers = keras.layers
        names = {"first": layers.Dense(5, name="first"), "bn": layers.BatchNormalization(name="bn", epsilon=1e-3)}
        model = keras.Sequential([names["first"], names["bn"], layers.Activation("relu"), layers.Dense(3, name="last")])
        with pytest.raises(ParamError, match="must be built"):
            _ = program(model)
        model.build((3, 4))
        names["first"].trainable = False
        before = [np.asarray(x.value) for x in model.weights]
        report = compare(Net().eval(), model, X, load="first")
        report.assert_ok()
        assert len(report.rows[0].verdicts) == 8
        for one, other in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(one, np.asarray(other.value))
        assert not compare(Net().eval(), model, X).ok


class TestHaiku:
    @pytest.mark.parametrize("keyed", [True, False])
    def test_transformed_functions_are_sides(self, keyed: bool) -> None:
        hk = pytest.importorskip("haiku")
        made = hk.transform(lambda x: hk.Linear(3, name="last")(jax.nn.relu(hk.Linear(5, name="first")(x))))
        made = made if keyed else hk.without_apply_rng(made)
        params = made.init(jax.random.PRNGKey(0), X)
        first, last = nn.Linear(4, 5), nn.Linear(5, 3)
        compare(nn.Sequential(first, nn.ReLU(), last), (made, params), X, load="first").assert_ok()

    def test_state_is_loaded_and_its_update_compared(self) -> None:
        hk = pytest.importorskip("haiku")

        def net(x: Any) -> Any:
            total = hk.get_state("total", (4,), init=jnp.zeros)
            hk.set_state("total", total + x.sum(0))
            return x + total

        made = hk.transform_with_state(net)
        params, state = made.init(jax.random.PRNGKey(0), X)
        subject = program((made, params, state))
        assert list(subject.state) == ["~.total"]
        ran = subject.watching({"~.total": "total after the call"}).run(Call.of(X))
        np.testing.assert_allclose(ran.outputs["total after the call"], X.sum(0), rtol=1e-6)


class TestEquinox:
    def test_a_module_with_a_key_is_a_side(self) -> None:
        eqx = pytest.importorskip("equinox")
        model = eqx.nn.MLP(4, 3, width_size=5, depth=1, key=jax.random.key(0))

        class Port(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 3)])

            def forward(self, x: Any, key: Any = None) -> Any:
                del key
                return self.layers[1](torch.relu(self.layers[0](x)))

        compare(Port(), model, {"x": X[0], "key": jax.random.key(1)}, load="first").assert_ok()


class Twice(linen.Module):
    """A module that calls one layer twice."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        norm = linen.LayerNorm(name="norm")
        return norm(norm(x))


class TestLinen:
    def test_a_module_that_is_called_twice_is_counted_once(self) -> None:
        module = Twice()
        side = program((module, module.init(jax.random.key(0), X)))
        assert [part.path for part in parts(side, Call.of(X)) if part.norm] == ["norm"]

    def test_one_layer_called_twice_beside_one_of_torch_has_no_warning_of_counts(self) -> None:
        class Port(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(4, eps=1e-6)

            def forward(self, x: Any) -> Any:
                return self.norm(self.norm(x))

        module = Twice()
        report = compare(Port(), (module, module.init(jax.random.key(0), X)), X)
        report.assert_ok()
        assert not noted(report, "norm layers")


class TestNnx:
    def test_a_recurrent_module_with_keys_is_a_side(self) -> None:
        side = program(nnx.RNN(nnx.GRUCell(4, 3, rngs=nnx.Rngs(0))))
        assert side.run(Call.of(X[None])).outputs["output"].shape == (1, 3, 3)
