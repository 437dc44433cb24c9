"""The pytest plugin: what it gives a test, and which planted mistakes it says that a test would let pass."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree as ET

import jax
import numpy as np
import pytest
import torch

from attention import spec
from attention.parity.contracts.probes import Probe, probes
from attention.parity.mutation_testing import fixture
from attention.parity.mutation_testing.fixture import ParityFixture, moved, mutated, revealing, select
from attention.parity.mutation_testing.summary import lines
from attention.parity.mutations.cases import CASE_MUTATIONS
from attention.parity.mutations.mutation import Mutation
from attention.spec.errors import DTypeError, OptionError, UnknownName

pytest_plugins = ("pytester",)

CONTRACT = spec.MultiHeadAttention(embed_dim=6, num_heads=2, head_dim=4, num_kv_heads=1, mask=spec.Causal(align="end"))
# The plugin itself is installed with the package, and so it is there.
PLUGIN = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")

OPENING = """
import numpy as np
import pytest
from attention import spec

CONTRACT = spec.MultiHeadAttention(embed_dim=6, num_heads=2, head_dim=4, num_kv_heads=1, mask=spec.Causal(align="end"))

def mine(weights, query):
    weights = {name: value.astype(float) for name, value in weights.items()}
    return CONTRACT.formula(np, weights, {"query": query}, CONTRACT.resolve({"query": query}))["output"]

"""
NAIVE = """
def test_naive(parity):
    layer = parity.layer(CONTRACT, CONTRACT.init(0))
    x = np.random.default_rng(0).normal(size=(2, 4, 6))
    np.testing.assert_allclose(layer(x), mine(layer.weights, x), rtol=1e-3, atol=1e-3)
"""
GOOD = """
from attention.parity.contracts.backends import NumpyBackend

@pytest.mark.parity_probes(CONTRACT)
def test_good(parity, parity_probe):
    expected = parity.expect(parity_probe)
    got = NumpyBackend().run(parity_probe, "auto").results["output"]
    assert parity.judge("output", got, expected.value["output"], expected.sigma["output"]).agrees
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run pytest, in this process, on a file with this body."""

    def runs(body: str, *options: str) -> pytest.RunResult:
        _ = pytester.makepyfile(test_port=OPENING + dedent(body))
        return pytester.runpytest_inprocess(*PLUGIN, *options)

    return runs


@pytest.fixture
def one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a check of a contract run on the first of its probes alone, which is enough to see that it is run."""
    monkeypatch.setattr(fixture, "probes", lambda *asked: probes(*asked)[:1])


def like(*words: str) -> list[str]:
    return [f"--parity-mutations-like={word}" for word in words]


def mutation(name: str) -> Mutation:
    return next(each for each in CASE_MUTATIONS if each.name == name)


class TestLaws:
    def test_a_naive_test_is_told_what_it_lets_pass(self, run: Run) -> None:
        result = run(NAIVE, *like("scale wrong", "scale forgotten", "corner start for end", "rotary base"))
        text = result.stdout.str()
        assert result.ret == 0
        assert "test_port.py::test_naive: mutation score 1 of 3; add " in text
        assert "scale wrong by 0.003 %: outputs moved by" in text
        assert "causal corner start for end: the test's data do not show it; add " in text
        assert "1 more do not apply: no call of this contract would show them" in text
        assert "1 passed, 1 killed, 1 not applicable, 2 survived" in _sorted(text)

    def test_a_test_on_our_probes_kills_what_a_naive_one_does_not(self, run: Run) -> None:
        result = run(GOOD, *like("scale wrong", "corner start for end"), "-k", "plain or queries")
        assert result.ret == 0
        assert "test_port.py::test_good: mutation score 2 of 2\n" in result.stdout.str() + "\n"

    def test_without_the_option_a_test_runs_once_and_nothing_is_planted(self, run: Run) -> None:
        run(NAIVE).assert_outcomes(passed=1)

    def test_a_check_of_a_contract_against_a_wrong_oracle_fails(self, one_probe: None) -> None:
        for planted, agrees in ((None, True), (mutation("scale forgotten"), False)):
            assert ParityFixture(planted).check(CONTRACT, backends=["numpy"]).ok is agrees

    def test_a_mistake_of_another_layer_keeps_out(self) -> None:
        assert revealing(mutation("scale wrong by 0.003 %"), CONTRACT) == "plain"
        # Without a contract's own rotary, "rotary turns backwards" would be a change of nothing, or of something else.
        assert revealing(mutation("rotary turns backwards"), CONTRACT) == ""
        assert revealing(mutation("latent norms with another eps"), CONTRACT) == ""

    def test_several_tests_are_counted_together(self) -> None:
        said = [_said("a", "m", "killed"), _said("a", "n", "tolerated"), _said("b", "m", "hidden"), _said("b", "n", "killed")]
        assert list(lines(said))[-1] == "together: 2 of 2"


def _said(test: str, name: str, outcome: str) -> tuple[dict[str, str], str]:
    told = {
        "test": test,
        "mutation": name,
        "outcome": outcome,
        "feature": "T != S" if outcome == "hidden" else "",
        "moved": "0.1",
    }
    return {f"parity.{key}": value for key, value in told.items()}, "passed"


def _sorted(text: str) -> str:
    """Return the last line of pytest with its counts in an order of our own."""
    counts = text.splitlines()[-1].strip("= ").split(" in ")[0].split(", ")
    return ", ".join(sorted(counts, key=lambda count: (not count.endswith("passed"), count)))


class TestValues:
    def test_the_numpy_layer_is_the_formula(self) -> None:
        layer = ParityFixture().layer(CONTRACT)
        x = np.random.default_rng(0).normal(size=(2, 4, 6))
        weights = {name: value.astype(float) for name, value in layer.weights.items()}
        wanted = CONTRACT.formula(np, weights, {"query": x}, CONTRACT.resolve({"query": x}))["output"]
        np.testing.assert_array_equal(layer(x), wanted)
        assert any(np.any(value) for name, value in layer.weights.items() if name.endswith("bias"))

    def test_one_probe_is_one_run_with_its_name(self, run: Run) -> None:
        body = """
        @pytest.mark.parity_probes(CONTRACT, "float64")
        def test_probe(parity_probe):
            assert parity_probe.dtype == "float64" and parity_probe.contract.embed_dim == 6
        """
        result = run(body, "-v")
        result.assert_outcomes(passed=len(probes(CONTRACT)))
        assert "test_probe[few queries] PASSED" in result.stdout.str()

    def test_junit_shows_z_and_the_outcome_of_each_mutation(self, run: Run, pytester: pytest.Pytester, one_probe: None) -> None:
        body = """
        def test_report(parity):
            assert parity.check(CONTRACT, backends=["numpy"]).ok
        """
        assert run(body, "--junitxml=out.xml", *like("scale forgotten")).ret == 0
        cases = ET.parse(pytester.path / "out.xml").getroot().iter("testcase")  # noqa: S314 - written above
        said = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
        assert said["test_report[unharmed]"]["parity.verdict"] == "agrees"
        assert float(said["test_report[unharmed]"]["parity.z.max"] or "inf") < 30
        assert said["test_report[scale forgotten]"]["parity.outcome"] == "killed"

    def test_a_failing_test_shows_its_reports(self, run: Run, one_probe: None) -> None:
        body = """
        def test_fails(parity):
            parity.check(CONTRACT, backends=["numpy"])
            assert False
        """
        assert "arrays compared with the float64 oracle" in run(body).stdout.str()

    def test_an_error_under_a_mutation_is_told_apart_from_an_assertion(self, run: Run) -> None:
        body = """
        def test_breaks(parity):
            layer = parity.layer(CONTRACT)
            x = np.ones((1, 3, 6)) * np.arange(6)
            if not np.allclose(layer(x), mine(layer.weights, x)):
                raise RuntimeError
        """
        text = run(body, *like("scale forgotten", "keys and values exchanged")).stdout.str()
        assert "1 killed by an error and not by an assertion" in text or "2 killed by an error" in text

    def test_moved_is_the_change_in_units_of_the_output(self) -> None:
        right = probes(CONTRACT)[0]
        assert moved(right, right) == 0
        assert 1e-6 < moved(right, mutated(mutation("scale wrong by 0.003 %"), right)) < 1e-3
        poisoned = Probe("", CONTRACT, "float32", {**right.weights, "out_proj.bias": np.full(6, np.nan)}, right.arrays, {})
        assert moved(right, poisoned) == np.inf

    def test_a_mistake_in_float32_shows_in_the_callers_float64(self) -> None:
        x = np.random.default_rng(0).normal(size=(1, 3, 6))
        right = ParityFixture().layer(CONTRACT)
        fixture = ParityFixture(mutation("queries rounded to TF32"))
        error = np.abs(fixture.layer(CONTRACT, right.weights)(x) - right(x)).max()
        assert 1e-6 < error < 1e-2
        assert fixture.outcome == "tolerated"


class TestGradients:
    @pytest.mark.parametrize("name", [None, "scale forgotten", "queries rounded to TF32"])
    def test_gradients_flow_through_the_callers_own_arrays(self, name: str | None) -> None:
        fixture = ParityFixture(mutation(name) if name else None)
        x = np.random.default_rng(0).normal(size=(1, 3, 6)).astype(np.float32)
        tensor = torch.from_numpy(x).requires_grad_()
        fixture.layer(CONTRACT, backend="torch")(tensor).square().sum().backward()
        layer = fixture.layer(CONTRACT, backend="jax")
        if name == "queries rounded to TF32":
            # Under a trace the inputs have no numbers to round.
            gradient = jax.vjp(layer, jax.numpy.asarray(x))[1](2 * layer(jax.numpy.asarray(x)))[0]
        else:
            gradient = jax.grad(lambda x: (layer(x) ** 2).sum())(jax.numpy.asarray(x))
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, rtol=2e-2 if name else 1e-4, atol=2e-3 if name else 1e-5)


class TestRefusals:
    def test_a_test_that_always_fails_is_told_so(self, run: Run) -> None:
        body = """
        def test_fails(parity):
            parity.layer(CONTRACT)
            raise AssertionError
        """
        result = run(body, *like("scale"))
        assert result.ret == 1
        assert "test_port.py::test_fails fails without a mutation" in result.stdout.str()
        assert "killed" not in result.stdout.str()

    def test_a_test_that_asks_for_no_reference_is_told_so(self, run: Run) -> None:
        result = run("def test_alone(parity):\n    assert parity.Report", *like("scale forgotten"))
        assert "test_port.py::test_alone uses no layer, expect or check of 'parity'" in result.stdout.str()

    def test_words_of_no_mutation_are_one_line(self, run: Run) -> None:
        result = run(NAIVE, *like("nonsense"))
        assert result.ret != 0
        assert (
            "mutations 'nonsense' must be part of one of: scale wrong by 0.003 %" in result.stdout.str() + result.stderr.str()
        )
        with pytest.raises(UnknownName, match="must be part of one of"):
            _ = select(["nonsense"])

    def test_a_probe_needs_its_marker(self, run: Run) -> None:
        result = run("def test_probe(parity_probe):\n    pass")
        assert "needs @pytest.mark.parity_probes(contract)" in result.stdout.str()

    def test_a_marker_needs_a_contract(self, run: Run) -> None:
        result = run("@pytest.mark.parity_probes(3)\ndef test_probe(parity_probe):\n    pass")
        assert "contract 3 must be a layer's contract" in result.stdout.str() + result.stderr.str()

    def test_a_layer_refuses_what_its_contract_does_not_take(self) -> None:
        layer, x = ParityFixture().layer(CONTRACT), np.ones((1, 3, 6))
        with pytest.raises(OptionError, match="argument 'scale' must be one of"):
            layer(x, scale=2.0)
        with pytest.raises(OptionError, match="positional arguments 4 must be at most 3"):
            layer(x, x, x, x)
        with pytest.raises(DTypeError, match="argument 'query' int64 must be a float array"):
            layer(np.ones((1, 3, 6), np.int64))
        with pytest.raises(UnknownName, match="backend 'mlx' must be one of"):
            _ = ParityFixture().layer(CONTRACT, backend="mlx")
        with pytest.raises(OptionError, match="contract None must be"):
            _ = ParityFixture().layer(None)  # type: ignore[arg-type]


class TestLoading:
    def test_loading_imports_no_framework(self, tmp_path: Path) -> None:
        code = "import sys, attention.pytest_plugin; assert not {'numpy', 'torch', 'jax'} & set(sys.modules), 'imported'"
        for text, fails in ((code, False), (f"import numpy; {code}", True)):
            done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)
            assert (done.returncode != 0) is fails, done.stderr

    def test_an_installed_plugin_loads_by_its_name_and_can_be_switched_off(self, tmp_path: Path) -> None:
        known = {}
        for off in ((), ("-p", "no:attention")):
            words = [sys.executable, "-m", "pytest", "--help", "-p", "no:hypothesispytest", *off]
            done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
            known[off] = "--parity-mutations" in done.stdout
        assert list(known.values()) == [True, False]
