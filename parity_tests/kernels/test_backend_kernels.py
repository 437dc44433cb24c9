"""Refusals of each kernel, with their reasons, and the error when every kernel refuses a call.

refuses(request) = None, or what the kernel lacks        "auto" takes the first without a reason and keeps the others
A rule of a backend names kernels that are there, and puts first what its evidence shows to be the fastest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import torch

from attention import spec
from attention.cli.kernel_calls import Case
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused, MaskError, OptionError, UnknownName
from attention.spec.kernels import Kernels, Request, order
from attention.spec.kernels.auto_rules import first
from attention.spec.masks.algebra import Mask
from parity_tests.support.backends import BACKENDS, JAX, KERNELS, TORCH, Backend, Kernel, each_backend, each_kernel, numbers
from parity_tests.support.formula import PER_HEAD, B, D, E, H, K, S, T, qkv

UNSAID = ["T = 5", "S = 7", "align='start'", "align='end'", "query_positions"]
SHAPES = ((B, T, H, D), (B, S, K, D), (B, S, K, D))

ROOT = Path(__file__).parents[2]
EVIDENCE = "benchmarks/results/rules-cpu.json"
# What is called equally fast: rounds on one core differ by that much.
NOISE = 1.15
MASKED: dict[str, Mask | None] = {
    "none": None,
    "causal": spec.Causal(align="end"),
    "window": spec.Window(before=255, after=0, align="end"),
    "documents": spec.Segments([0]),
    "lengths": spec.Lengths([1]),
    "prefix": spec.Causal(align="end") | spec.Prefix(1),
    "general": ~spec.Causal(align="end"),
}

# Calls that differ in which kernel can take them, and one that all can.
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"mask": spec.Causal(align="end")},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": numbers(5, H, dtype="float32")},
    "dropout": {"dropout_rate": 0.2, "dropout_seed": 3},
    "intermediates": {"return_intermediates": ["weights", "logsumexp"]},
    "by name": {"implementation": "reference"},
}


@dataclass(frozen=True)
class Spy:
    """A kernel of the backend that notes its name when it runs."""

    inner: Any
    ran: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def ready(self, request: Request) -> None:
        """A call whose like was checked before is asked for by `run` as well, where it can be seen."""

    def run(self, request: Request) -> Any:
        self.ran.append(self.inner.name)
        return self.inner.run(request)


class TestBackends:
    @pytest.mark.parametrize("call", CALLS)
    @each_backend
    def test_what_explain_says_is_what_runs(self, backend: Backend, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[str] = []
        watched: list[Any] = [Spy(kernel, ran) for kernel in backend.module.kernels.KERNELS.values()]
        spies = Kernels(watched, backend.module.kernels.KERNELS.rules)
        monkeypatch.setattr(f"{backend.module.__name__}.attend.KERNELS", spies)
        arrays = [backend.array(numbers(i, *shape, dtype="float32")) for i, shape in enumerate(SHAPES)]
        options = {name: backend.native(x) for name, x in CALLS[call].items()}
        choice = backend.module.explain(*arrays, **options)
        assert not ran
        _ = backend.module.dot_product_attention(*arrays, **options)
        # What the kernel does not write down is made beside it, and the context is still its own.
        assert ran == [choice.kernel.name] + ["reference"] * ("return_intermediates" in options)
        if "implementation" not in options:
            names = order(spies, choice.rule)
            assert [name for name, _ in choice.refusals] == names[: names.index(choice.kernel.name)]

    @each_backend
    def test_a_table_is_named_by_its_kernels_and_auto_ends_at_the_one_that_can_all(self, backend: Backend) -> None:
        assert {name: kernel.name for name, kernel in backend.module.kernels.KERNELS.items()} == {
            n: n for n in backend.module.kernels.KERNELS
        }
        assert order(backend.module.kernels.KERNELS) == ["sdpa" if backend is TORCH else "xla", "reference"]

    @each_backend
    def test_explain_refuses_what_the_call_refuses(self, backend: Backend) -> None:
        arrays = [backend.array(numbers(i, *shape, dtype="float32")) for i, shape in enumerate(SHAPES)]
        for ask in (backend.module.explain, backend.module.dot_product_attention):
            with pytest.raises(
                UnknownName, match=f"'flash' must be 'auto' or one of {', '.join(backend.module.kernels.KERNELS)}"
            ):
                _ = ask(*arrays, implementation="flash")
            with pytest.raises(KernelRefused, match="refuses: has no softcap"):
                _ = ask(*arrays, implementation=next(iter(backend.module.kernels.KERNELS)), softcap=2.0)
            with pytest.raises(OptionError, match="softcap -1 must be"):
                _ = ask(*arrays, softcap=-1)


@dataclass(frozen=True)
class Row:
    """One call that was measured, and the milliseconds of each kernel that took it."""

    backend: Backend
    facts: dict[str, Any]

    @property
    def ms(self) -> dict[str, float]:
        return self.facts["ms"]

    @property
    def request(self) -> Request:
        """The call as a rule sees it."""
        case = Case(
            **{name: self.facts[name] for name in ("backend", "entry", "program", "dtype", "T", "S", "B", "H", "K", "D")}
        )
        leaf = SimpleNamespace(requires_grad=case.program == "gradient") if self.backend is TORCH else None
        return Request(leaf, leaf, leaf, case.sizes, case.dtype, 1.0, case.mask, device="cpu", **case.options)

    def __str__(self) -> str:
        return " ".join(str(self.facts[name]) for name in ("backend", "entry", "program", "dtype", "T", "S"))


@cache
def measured() -> list[Row]:
    content = json.loads((ROOT / EVIDENCE).read_text())
    backends = {backend.name: backend for backend in BACKENDS}
    return [Row(backends[row["backend"]], row) for row in content["rows"] if row["backend"] in backends]


class TestRules:
    @each_backend
    def test_a_rule_names_kernels_that_are_there(self, backend: Backend) -> None:
        rules = backend.module.kernels.rules
        assert {name for rule in rules.RULES for name in rule.prefer} <= set(backend.module.kernels.KERNELS)
        assert set(backend.module.kernels.KERNELS) <= set(rules.TRAITS)
        assert backend.module.kernels.KERNELS.rules is rules.RULES

    @each_backend
    def test_auto_never_asks_a_kernel_that_no_device_has_run(self, backend: Backend) -> None:
        kernels = backend.module.kernels.KERNELS
        untried = {name for name, kernel in kernels.items() if ".experimental" in type(kernel).__module__}
        assert untried
        asked = {name for rule in (None, *kernels.rules) for name in order(kernels, rule)}
        assert not untried & asked

    @each_backend
    def test_every_rule_is_reached_by_some_call(self, backend: Backend) -> None:
        rules = backend.module.kernels.rules.RULES
        for rule in rules:
            t, s = rule.queries[0] or 64, rule.keys[0] or 64
            of = Sizes((1,), s if rule.square else t, s, 8, 2 if rule.grouped else 8, 64, 64)
            device, dtype = (rule.devices or ("cpu",))[0], (rule.dtypes or ("float32",))[0]
            leaf = SimpleNamespace(requires_grad=bool(rule.differentiated)) if backend is TORCH else None
            masks = [MASKED[name] for name in rule.masks or MASKED]
            asked = [Request(leaf, leaf, leaf, of, dtype, 1.0, mask, device=device) for mask in masks]
            assert any(first(rules, request) is rule for request in asked), str(rule)

    @each_backend
    def test_evidence_that_is_cited_is_there(self, backend: Backend) -> None:
        entries = {(row.backend.name, row.facts["entry"]) for row in measured()}
        for rule in backend.module.kernels.rules.RULES:
            if not rule.measured:
                continue
            file, _, cited = rule.evidence.partition(": ")
            name, _, listed = cited.partition(" ")
            assert (file, name) == (EVIDENCE, backend.name)
            assert {(name, entry) for entry in listed.split(", ")} <= entries, str(rule)

    def test_what_auto_takes_is_as_fast_as_the_fastest_measured(self) -> None:
        slow: list[str] = []
        for row in measured():
            kernels = row.backend.module.kernels.KERNELS
            asked = [name for name in order(kernels, first(kernels.rules, row.request)) if name in row.ms]
            best = min(row.ms, key=row.ms.__getitem__)
            if row.ms[asked[0]] > NOISE * row.ms[best]:
                slow.append(f"{row}: {asked[0]} {row.ms[asked[0]]} ms, {best} {row.ms[best]} ms")
        assert not slow, "\n".join(slow)


class TestKernels:
    # What each kernel cannot do on a CPU. A kernel that is not listed here refuses nothing.
    CANNOT: ClassVar[dict[str, set[str]]] = {
        "torch-sdpa": {"softcap", "score_mod", "sinks", "dropout"},
        "torch-decode": {"score_mod", "dropout"},
        "torch-blockwise": {"score_mod"},
        "torch-flex": {"sinks", "dropout"},
        "jax-decode": {"score_mod", "dropout"},
        "jax-xla": {"softcap", "score_mod", "sinks", "dropout", "E != D", "float64", "float16"},
    }
    FEATURES: ClassVar[dict[str, dict[str, Any]]] = {
        "softcap": {"softcap": 1.0},
        "score_mod": {"score_mod": lambda x, *_: x * 2},
        "sinks": {"sinks": np.zeros(H, np.float32)},
        "dropout": {"dropout_rate": 0.5, "dropout_seed": 0},
        "intermediates": {"return_intermediates": spec.INTERMEDIATES},
        "bias": {"bias": np.zeros((T, S), np.float32)},
        "mask": {"mask": PER_HEAD},
        "highest": {"precision": "highest"},
        "E != D": {},
        "float64": {},
        "bfloat16": {},
        "float16": {},
    }

    @each_kernel
    def test_a_kernel_refuses_what_it_cannot_do_and_no_more(self, kernel: Kernel) -> None:
        refused = set[str]()
        for feature, options in self.FEATURES.items():
            kind = feature if "float" in feature else "float32"
            with jax.enable_x64(kind == "float64"):
                given = [kernel.backend.array(spec.cast({"x": x}, kind)["x"]) for x in qkv(E=E if "E" in feature else D)]
                if kernel.chosen(*given, **{n: kernel.backend.native(x) for n, x in options.items()}) == "auto":
                    refused.add(feature)
        assert refused == self.CANNOT.get(str(kernel), set())

    @each_backend
    def test_auto_takes_the_first_that_does_not_refuse_and_keeps_every_reason(self, backend: Backend) -> None:
        given = [backend.array(x) for x in qkv(dtype="float32")]
        first, *_ = backend.module.kernels.KERNELS
        choice = backend.module.explain(*given)
        assert (choice.kernel.name, choice.refusals) == (first, ())
        choice = backend.module.explain(*given, softcap=1.0, return_intermediates=("weights",))
        assert (choice.kernel.name, choice.refusals) == ("reference", ((first, "has no softcap"),))

    @pytest.mark.parametrize("precision", ["default", "high", "highest"])
    @pytest.mark.parametrize("kernel", [k for k in KERNELS if k.backend is JAX], ids=str)
    def test_every_product_in_jax_has_the_precision_asked_for(self, kernel: Kernel, precision: str) -> None:
        def scalar(*inputs: Any) -> Any:
            return JAX.module.dot_product_attention(*inputs, precision=precision, implementation=kernel.name).sum()

        given = [JAX.array(x) for x in qkv(dtype="float32")]
        if kernel.chosen(*given, precision=precision) == "auto":
            return
        with jax.default_matmul_precision("highest" if precision == "default" else "default"):
            traced = str(jax.make_jaxpr(jax.grad(scalar, (0, 1, 2)))(*given))
        products = re.findall(r"dot_general\[", traced)
        # Two products ahead, and two back for each; in tiles there are as many for each kind of tile, and some once more.
        assert len(products) == 6 if kernel.name in ("xla", "reference") else len(products) >= 4
        wanted = f"(Precision.{precision.upper()}, Precision.{precision.upper()})"
        assert re.findall(r" precision=(.*)", traced) == [wanted] * len(products)


class TestRefusals:
    MASKS = (spec.Causal(), spec.Window(before=3, after=0), spec.Chunked(size=2), spec.Causal() & spec.Prefix(1))

    @pytest.mark.parametrize("mask", MASKS, ids=repr)
    @each_kernel
    def test_a_diagonal_with_t_unlike_s_must_be_aligned(self, kernel: Kernel, mask: Mask) -> None:
        given = [kernel.backend.array(x) for x in qkv(dtype="float32")]
        with pytest.raises(MaskError) as caught:
            _ = kernel.backend.module.dot_product_attention(*given, mask=mask, implementation=kernel.name)
        assert type(caught.value) is MaskError
        assert [word for word in UNSAID if word not in str(caught.value)] == []

    @pytest.mark.parametrize(("setting", "least"), [("high", "highest"), ("medium", "high")])
    @pytest.mark.parametrize("kernel", [k for k in KERNELS if k.backend is TORCH], ids=str)
    def test_torch_below_the_precision_asked_for_is_refused(self, kernel: Kernel, setting: str, least: str) -> None:
        given, usual = qkv(dtype="float32"), torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision(setting)
            for name in (kernel.name, "auto"):
                with pytest.raises(KernelRefused, match=f"precision '{least}' is above .* = '{setting}'"):
                    _ = TORCH.module.dot_product_attention(*map(TORCH.array, given), precision=least, implementation=name)
            assert kernel.attend(*given).shape == given[0].shape
            assert kernel.attend(*(x.astype(np.float64) for x in given), precision=least).shape == given[0].shape
        finally:
            torch.set_float32_matmul_precision(usual)
        assert kernel.attend(*given, precision=least).shape == given[0].shape
