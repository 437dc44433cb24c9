"""Choice of a kernel: a request is checked once, the first kernel that does not refuse runs, and every refusal is kept.

choose(kernels, request) = (first that does not refuse, reasons of those before it)
order = prefer of the first rule that holds, then the table up to "reference" without those
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention import spec
from attention.spec.attend import INTERMEDIATES
from attention.spec.axes import COMPUTE, Sizes
from attention.spec.errors import KernelRefused, OptionError, ShapeError, UnknownName
from attention.spec.kernels import PRECISIONS, Kernels, Request, answer, check_precision, choose, order, recorded
from attention.spec.kernels.auto_rules import STRUCTURES, Rule, first, structure

B, T, S, H, K, D, E = 2, 3, 5, 4, 2, 6, 7
SIZES = Sizes((B,), T, S, H, K, D, E)
SQUARE = Sizes((B,), T, T, H, K, D, D)


def request(**options: Any) -> Request:
    q, k, v = np.zeros((B, T, H, D)), np.zeros((B, S, K, D)), np.zeros((B, S, K, E))
    return Request(**{"q": q, "k": k, "v": v, "sizes": SIZES, "dtype": "float64", "scale": 1.0, **options})


@dataclass
class Fake:
    """A kernel that refuses for a given reason, and remembers what it was asked."""

    name: str
    reason: str | None = None
    rounds: tuple[str, ...] = ()
    asked: list[Request] = field(default_factory=list)
    ran: int = 0

    def refuses(self, request: Request) -> str | None:
        self.asked.append(request)
        return self.reason

    def run(self, request: Request) -> dict[str, Any]:
        del request
        self.ran += 1
        return {}


@dataclass
class Writes(Fake):
    """A kernel whose intermediates are its own name."""

    intermediates: tuple[str, ...] = ()

    def __init__(self, name: str, intermediates: tuple[str, ...]) -> None:
        super().__init__(name)
        self.intermediates = intermediates

    def run(self, request: Request) -> dict[str, Any]:
        return super().run(request) | dict.fromkeys(self.intermediates, self.name)


reasons = st.lists(st.none() | st.sampled_from(["has no sinks", "is asleep"]), min_size=1, max_size=5)


class TestChoose:
    @given(reasons)
    def test_the_first_that_does_not_refuse_answers_and_every_reason_is_kept_in_order(self, given_: list[str | None]) -> None:
        fakes = {f"k{i}": Fake(f"k{i}", reason) for i, reason in enumerate(given_)}
        refusals = [(fake.name, fake.reason) for fake in fakes.values() if fake.reason]
        willing = [fake for fake in fakes.values() if fake.reason is None]
        if not willing:
            text = "; ".join(f"kernel {name!r} refuses: {reason}" for name, reason in refusals)
            with pytest.raises(KernelRefused, match=f"^{text}$", check=lambda caught: type(caught) is KernelRefused):
                _ = choose(fakes, request())
            return
        choice = choose(fakes, request())
        assert choice.kernel is willing[0]
        before = list(fakes).index(choice.kernel.name)
        assert list(choice.refusals) == refusals[:before]

    @given(reasons)
    def test_choosing_is_pure(self, given_: list[str | None]) -> None:
        fakes = {f"k{i}": Fake(f"k{i}", reason) for i, reason in enumerate([*given_, None])}
        asked = request()
        first, second = choose(fakes, asked), choose(fakes, asked)
        assert (first.kernel, first.refusals) == (second.kernel, second.refusals)
        assert not any(fake.ran for fake in fakes.values())
        # The request that is judged is the request that was made.
        assert all(seen is asked for fake in fakes.values() for seen in fake.asked)

    def test_a_kernel_asked_for_by_name_is_asked_alone(self) -> None:
        fakes = {"fast": Fake("fast"), "slow": Fake("slow")}
        choice = choose(fakes, request(), "slow")
        assert (choice.kernel, choice.refusals) == (fakes["slow"], ())
        assert not fakes["fast"].asked

    def test_a_refusal_by_name_is_an_error_and_nothing_falls_back(self) -> None:
        fakes = {"fast": Fake("fast", "has no sinks"), "slow": Fake("slow")}
        text = "^kernel 'fast' refuses: has no sinks$"
        with pytest.raises(KernelRefused, match=text, check=lambda caught: type(caught) is KernelRefused):
            _ = choose(fakes, request(), "fast")

    def test_an_unknown_name_lists_the_known(self) -> None:
        text = "^implementation 'flash' must be 'auto' or one of fast, slow$"
        with pytest.raises(UnknownName, match=text, check=lambda caught: type(caught) is UnknownName):
            _ = choose({"fast": Fake("fast"), "slow": Fake("slow")}, request(), "flash")


CAUSAL, WINDOW, LENGTHS = spec.Causal(), spec.Window(before=3, after=0), spec.Lengths([3, 1])
NAMES = ("a", "b", "reference", "y", "z")
names = st.lists(st.sampled_from([*NAMES, "unknown"]), unique=True).map(tuple)


def rule(*prefer: str, **options: Any) -> Rule:
    return Rule("a rule", prefer, "not measured: a test", **options)


class TestRules:
    @given(names, st.sets(st.sampled_from(NAMES)))
    def test_auto_asks_in_the_order_of_the_rule_and_then_of_the_table(
        self, prefer: tuple[str, ...], refusing: set[str]
    ) -> None:
        table = Kernels([Fake(name, "is asleep" if name in refusing else None) for name in NAMES], (rule(*prefer),))
        wanted = [name for name in prefer if name in NAMES]
        wanted += [name for name in NAMES[:3] if name not in wanted]
        assert order(table, table.rules[0]) == wanted
        willing = [name for name in wanted if name not in refusing]
        if not willing:
            with pytest.raises(KernelRefused, match="is asleep"):
                _ = choose(table, request())
            return
        choice = choose(table, request())
        # A rule never makes "auto" take a kernel that refuses, and every reason before the winner's turn is kept.
        assert (choice.kernel.name, choice.rule) == (willing[0], table.rules[0])
        assert [name for name, _ in choice.refusals] == wanted[: wanted.index(willing[0])]

    def test_without_a_rule_that_holds_auto_ends_at_the_reference(self) -> None:
        table = Kernels(Fake(name, "is asleep" if name != "z" else None) for name in NAMES)
        with pytest.raises(
            KernelRefused, match=r"^kernel 'a' refuses: is asleep; kernel 'b' .*; kernel 'reference' refuses"
        ) as caught:
            _ = choose(table, request())
        assert "'y'" not in str(caught.value)
        assert choose(table, request(), "z").kernel.name == "z"

    def test_a_kernel_asked_for_by_name_follows_no_rule(self) -> None:
        table = Kernels([Fake(name) for name in NAMES], (rule("z"),))
        assert (choose(table, request(), "a").rule, choose(table, request()).kernel.name) == (None, "z")

    def test_rules_may_be_given_in_place_of_the_tables(self) -> None:
        table = Kernels([Fake(name) for name in NAMES], (rule("z"),))
        assert choose(table, request(), "auto", (rule("y"),)).kernel.name == "y"
        assert choose(table, request(), "auto", ()).kernel.name == "a"
        assert choose({name: Fake(name) for name in NAMES}, request()).kernel.name == "a"

    @given(st.lists(st.booleans(), max_size=4))
    def test_the_first_rule_that_holds_decides(self, holds: list[bool]) -> None:
        rules = tuple(rule(str(i), devices=("cpu",) if held else ("tpu",)) for i, held in enumerate(holds))
        assert first(rules, request()) is next((r for r, held in zip(rules, holds, strict=True) if held), None)

    @pytest.mark.parametrize(
        ("options", "changed"),
        [
            ({"devices": ("cpu", "tpu")}, {"device": "cuda"}),
            ({"dtypes": ("float64",)}, {"dtype": "float32"}),
            ({"masks": ("none", "causal")}, {"mask": WINDOW, "sizes": SQUARE}),
            ({"queries": (3, 3)}, {"sizes": replace(SIZES, T=4)}),
            ({"queries": (3, None)}, {"sizes": replace(SIZES, T=2)}),
            ({"keys": (0, 5)}, {"sizes": replace(SIZES, S=6)}),
            ({"heads": (8, 8)}, {"sizes": replace(SIZES, H=2)}),
            ({"heads": (8, None)}, {"sizes": replace(SIZES, batch=())}),
            ({"square": False}, {"sizes": SQUARE}),
            ({"grouped": True}, {"sizes": replace(SIZES, K=H)}),
        ],
        ids=str,
    )
    def test_a_rule_is_about_what_it_says_and_nothing_else(self, options: dict[str, Any], changed: dict[str, Any]) -> None:
        one = rule("a", **options)
        assert first([one], request()) is one
        assert first([one], request(**changed)) is None

    def test_a_size_that_nobody_knows_yet_binds_no_rule(self) -> None:
        class Open:
            """A size that an exporter leaves open: to compare it would bind it."""

            def __ge__(self, other: object) -> bool:
                raise AssertionError("bound")

            __le__ = __lt__ = __gt__ = __ge__

        for options in ({"queries": (1, 8)}, {"keys": (512, None)}):
            sizes: Any = replace(SIZES, T=Open(), S=Open())
            assert not rule("a", **options).holds(replace(request(), sizes=sizes), "none")

    def test_a_gradient_is_known_where_the_framework_says_so(self) -> None:
        @dataclass
        class Leaf:
            requires_grad: bool

        def asked(*flags: bool) -> Request:
            return replace(request(), **{name: Leaf(flag) for name, flag in zip("qkv", flags, strict=True)})

        assert request().differentiated is None
        assert [asked(*flags).differentiated for flags in ((False,) * 3, (False, False, True))] == [False, True]
        assert rule(differentiated=True).holds(asked(True, False, False), "none")
        assert not any(rule(differentiated=x).holds(request(), "none") for x in (True, False))

    @pytest.mark.parametrize(
        ("mask", "named"),
        [
            (None, "none"),
            (CAUSAL, "causal"),
            (spec.Window(before=None, after=0), "causal"),
            (WINDOW, "window"),
            (spec.Chunked(2), "documents"),
            (spec.Segments([0, 0, 1]), "documents"),
            (LENGTHS, "lengths"),
            (spec.Prefix(2), "lengths"),
            (CAUSAL | spec.Prefix(2), "prefix"),
            (spec.Prefix(2) | CAUSAL, "prefix"),
            (CAUSAL & LENGTHS, "lengths"),
            (LENGTHS & CAUSAL & WINDOW, "window"),
            ((CAUSAL | spec.Prefix(2)) & spec.Segments([0, 0, 1]), "documents"),
            (CAUSAL | LENGTHS, "general"),
            (~CAUSAL, "general"),
            (spec.DenseMask([[True]]) & CAUSAL, "general"),
            (spec.PerHead((CAUSAL, WINDOW)), "general"),
        ],
        ids=repr,
    )
    def test_the_structure_of_a_mask(self, mask: Any, named: str) -> None:
        assert structure(mask) == named
        assert named in STRUCTURES

    def test_a_rule_says_what_it_is_about(self) -> None:
        told = str(
            rule("b", "a", devices=("cpu",), masks=("window",), keys=(512, None), queries=(1, 8), heads=(0, 4), square=False)
        )
        assert told == "a rule (cpu, mask window, T 1 to 8, S >= 512, B * H <= 4, not T = S): b, a"
        assert str(rule("b")) == "a rule (any call): b"


class TestAnswer:
    def made(self, *intermediates: str, name: str = "auto") -> tuple[dict[str, Any], list[str]]:
        """What is answered, by a fused kernel that writes down the context and the logsumexp, and who ran."""
        fused, reference = (Writes(n, made) for n, made in (("fused", ("context", "logsumexp")), ("reference", INTERMEDIATES)))
        answered = answer({"fused": fused, "reference": reference}, request(intermediates=intermediates), name)
        return answered, [kernel.name for kernel in (fused, reference) if kernel.ran]

    def test_what_the_kernel_writes_down_is_its_own(self) -> None:
        assert self.made() == ({"context": "fused", "logsumexp": "fused"}, ["fused"])
        assert self.made("logsumexp", "context") == self.made()

    def test_what_it_does_not_is_made_beside_it_by_the_formula(self) -> None:
        answered, ran = self.made("weights", "logsumexp")
        assert ran == ["fused", "reference"]
        assert (answered["weights"], answered["context"], answered["logsumexp"]) == ("reference", "fused", "fused")

    def test_the_formula_answers_alone(self) -> None:
        assert self.made(*INTERMEDIATES, name="reference") == (dict.fromkeys(INTERMEDIATES, "reference"), ["reference"])

    def test_recorded_kernels_are_those_chosen_inside(self) -> None:
        with recorded() as outer:
            _ = self.made("weights")
            with recorded() as inner:
                _ = self.made(name="reference")
        _ = self.made()
        assert [kernel.name for kernel in outer] == ["fused", "reference"]
        assert [kernel.name for kernel in inner] == ["reference"]


class TestRequest:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"score_mod": "alibi"}, OptionError, "score_mod 'alibi' must be a function .* -> score, or None"),
            ({"softcap": 0.0}, OptionError, r"softcap 0\.0 must be a positive finite number in float32, or None"),
            ({"dropout_rate": 1.0, "dropout_seed": 0}, OptionError, r"dropout_rate 1\.0 must be in \[0, 1\)"),
            ({"dropout_rate": 0.1}, OptionError, r"dropout_seed None must be an integer when dropout_rate is 0\.1"),
            ({"precision": "tf32"}, OptionError, "precision 'tf32' must be one of None, 'default', 'high', 'highest'"),
            (
                {"intermediates": ("weights", "probs")},
                OptionError,
                "return_intermediates 'probs' must be among scaled, capped, scores",
            ),
            (
                {"bias": np.zeros((S, T))},
                ShapeError,
                r"bias \(5, 3\) must broadcast to \(\*batch, H, T, S\) = \(2, 4, 3, 5\)",
            ),
            ({"bias": np.zeros((1, B, H, T, S))}, ShapeError, r"bias \(1, 2, 4, 3, 5\) must broadcast to"),
            ({"sinks": np.zeros(K)}, ShapeError, r"sinks \(2,\) must be \(H,\) = \(4,\)"),
            ({"sinks": np.zeros((1, H))}, ShapeError, r"sinks \(1, 4\) must be \(H,\) = \(4,\)"),
        ],
        ids=str,
    )
    def test_what_cannot_be_asked(self, options: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text, check=lambda caught: type(caught) is error):
            _ = request(**options)

    def test_what_can_be_asked(self) -> None:
        asked = request(
            softcap=2.0,
            dropout_rate=0.1,
            dropout_seed=0,
            precision="high",
            intermediates=INTERMEDIATES,
            bias=np.zeros((H, 1, S)),
        )
        assert asked.compute == "float64"
        assert [request(dtype=dtype).compute for dtype in COMPUTE] == ["float64", "float32", "float32", "float32"]
        for precision in PRECISIONS:
            check_precision(precision)

    @pytest.mark.parametrize(
        ("options", "lacks"),
        [
            ({"softcap": 2.0}, "softcap"),
            ({"sinks": np.zeros(H)}, "sinks"),
            ({"dropout_rate": 0.1, "dropout_seed": 0}, "dropout"),
            ({"bias": np.zeros(S)}, "bias"),
            ({}, "E != D"),
            ({}, "float64"),
            ({"dtype": "float16"}, "float16"),
            ({"score_mod": lambda x, *_: x}, "score_mod"),
            ({"bias": np.zeros(S, np.float32)}, "wide bias"),
        ],
        ids=["softcap", "sinks", "dropout", "bias", "E != D", "float64", "float16", "score_mod", "wide bias"],
    )
    def test_what_a_kernel_lacks_is_what_it_was_asked_for_and_has_not(self, options: dict[str, Any], lacks: str) -> None:
        features = {"softcap", "score_mod", "sinks", "dropout", "bias", "wide bias", "E != D", *COMPUTE}
        assert request(**options).lacks(*features) is None
        assert request(**options).lacks(*(features - {lacks})) == f"has no {lacks}"
        # What nobody asked for is not missed.
        plain = replace(request(**options), sizes=SQUARE, dtype="float32", softcap=None, score_mod=None, sinks=None, bias=None)
        assert replace(plain, dropout_rate=0.0).lacks("float32") is None

    def test_no_kernel_is_asked_for_intermediates(self) -> None:
        assert request(sizes=SQUARE, intermediates=INTERMEDIATES).lacks("float64") is None

    def test_all_that_is_missing_is_named(self) -> None:
        assert request(softcap=2.0, sinks=np.zeros(H)).lacks("float64") == "has no softcap, no sinks, no E != D"

    @pytest.mark.parametrize(
        ("mask", "sizes", "needed"),
        [
            (None, SIZES, False),
            (spec.Causal(), SQUARE, False),
            (spec.Causal(align="end"), SIZES, True),
            (spec.Causal() & spec.Window(before=2, after=0), SQUARE, False),
            (spec.Prefix(1), SQUARE, True),
            (~spec.Causal(), SQUARE, True),
            (spec.Causal() & spec.Lengths([2, 3]), SQUARE, True),
        ],
        ids=str,
    )
    def test_zero_masking_is_needed_where_a_row_may_be_empty(self, mask: Any, sizes: Sizes, needed: bool) -> None:
        assert request(mask=mask, sizes=sizes).needs_zero_masking == needed
