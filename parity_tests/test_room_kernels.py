"""What each kernel refuses, with its reason, and what it must not: a call that no kernel may take on is refused by all.

refuses(request) = None, or what the kernel lacks        "auto" takes the first without a reason and keeps the others
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import torch

from attention import spec
from attention.spec import Request
from attention.spec.algebra import Mask
from attention.spec.errors import KernelRefused, MaskError, OptionError, UnknownName
from parity_tests.formula import PER_HEAD, B, D, E, H, K, S, T, qkv
from parity_tests.rooms import JAX, KERNELS, TORCH, Kernel, Room, each_kernel, each_room, numbers

UNSAID = ["T = 5", "S = 7", "align='start'", "align='end'", "query_positions"]
SHAPES = ((B, T, H, D), (B, S, K, D), (B, S, K, D))

# Calls that differ in which kernel can take them, and one that all can.
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"mask": spec.Causal(align="end")},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": numbers(5, H, dtype="float32")},
    "dropout": {"dropout_rate": 0.2, "dropout_seed": 3},
    "stages": {"return_stages": ["weights", "logsumexp"]},
    "by name": {"implementation": "reference"},
}


@dataclass(frozen=True)
class Spy:
    """A kernel of the room that notes its name when it runs."""

    inner: Any
    ran: list[str]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, request: Request) -> Any:
        self.ran.append(self.inner.name)
        return self.inner.run(request)


class TestRooms:
    @pytest.mark.parametrize("call", CALLS)
    @each_room
    def test_what_explain_says_is_what_runs(self, room: Room, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[str] = []
        spies = {name: Spy(kernel, ran) for name, kernel in room.module.KERNELS.items()}
        monkeypatch.setattr(f"{room.module.__name__}.attend.KERNELS", spies)
        arrays = [room.array(numbers(i, *shape, dtype="float32")) for i, shape in enumerate(SHAPES)]
        options = {name: room.native(x) for name, x in CALLS[call].items()}
        choice = room.module.explain(*arrays, **options)
        assert not ran
        _ = room.module.dot_product_attention(*arrays, **options)
        # What the kernel does not write down is made beside it, and the context is still its own.
        assert ran == [choice.kernel.name] + ["reference"] * ("return_stages" in options)
        if "implementation" not in options:
            names = list(spies)
            assert [name for name, _ in choice.refusals] == names[: names.index(choice.kernel.name)]

    @each_room
    def test_a_table_is_named_by_its_kernels_and_auto_ends_at_the_one_that_can_all(self, room: Room) -> None:
        assert {name: kernel.name for name, kernel in room.module.KERNELS.items()} == {n: n for n in room.module.KERNELS}
        names = list(room.module.KERNELS)
        last = names.index("reference")
        assert (last, names[last + 1 :]) == (1, ["flex"] if room.name == "torch" else [])

    @each_room
    def test_explain_refuses_what_the_call_refuses(self, room: Room) -> None:
        arrays = [room.array(numbers(i, *shape, dtype="float32")) for i, shape in enumerate(SHAPES)]
        for ask in (room.module.explain, room.module.dot_product_attention):
            with pytest.raises(UnknownName, match=f"'flash' must be 'auto' or one of {', '.join(room.module.KERNELS)}"):
                _ = ask(*arrays, implementation="flash")
            with pytest.raises(KernelRefused, match="refuses: has no softcap"):
                _ = ask(*arrays, implementation=next(iter(room.module.KERNELS)), softcap=2.0)
            with pytest.raises(OptionError, match="softcap -1 must be"):
                _ = ask(*arrays, softcap=-1)


class TestKernels:
    # What each kernel cannot do on a CPU. A kernel that is not listed here refuses nothing.
    CANNOT: ClassVar[dict[str, set[str]]] = {
        "torch-sdpa": {"softcap", "score_mod", "sinks", "dropout"},
        "torch-flex": {"sinks", "dropout"},
        "jax-xla": {"softcap", "score_mod", "sinks", "dropout", "E != D", "float64", "float16"},
    }
    FEATURES: ClassVar[dict[str, dict[str, Any]]] = {
        "softcap": {"softcap": 1.0},
        "score_mod": {"score_mod": lambda x, *_: x * 2},
        "sinks": {"sinks": np.zeros(H, np.float32)},
        "dropout": {"dropout_rate": 0.5, "dropout_seed": 0},
        "stages": {"return_stages": spec.STAGES},
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
                given = [kernel.room.array(spec.cast({"x": x}, kind)["x"]) for x in qkv(E=E if "E" in feature else D)]
                if kernel.chosen(*given, **{n: kernel.room.native(x) for n, x in options.items()}) == "auto":
                    refused.add(feature)
        assert refused == self.CANNOT.get(str(kernel), set())

    @each_room
    def test_auto_takes_the_first_that_does_not_refuse_and_keeps_every_reason(self, room: Room) -> None:
        given = [room.array(x) for x in qkv(dtype="float32")]
        first, *_ = room.module.KERNELS
        choice = room.module.explain(*given)
        assert (choice.kernel.name, choice.refusals) == (first, ())
        choice = room.module.explain(*given, softcap=1.0, return_stages=("weights",))
        assert (choice.kernel.name, choice.refusals) == ("reference", ((first, "has no softcap"),))

    @pytest.mark.parametrize("precision", ["default", "high", "highest"])
    @pytest.mark.parametrize("kernel", [k for k in KERNELS if k.room is JAX], ids=str)
    def test_every_product_in_jax_has_the_precision_asked_for(self, kernel: Kernel, precision: str) -> None:
        def scalar(*inputs: Any) -> Any:
            return JAX.module.dot_product_attention(*inputs, precision=precision, implementation=kernel.name).sum()

        with jax.default_matmul_precision("highest" if precision == "default" else "default"):
            traced = str(jax.make_jaxpr(jax.grad(scalar, (0, 1, 2)))(*qkv(dtype="float32")))
        # Two products ahead, and two back for each.
        assert re.findall(r"dot_general\[", traced) == ["dot_general["] * 6
        assert re.findall(r" precision=(.*)", traced) == [f"(Precision.{precision.upper()}, Precision.{precision.upper()})"] * 6


class TestRefusals:
    MASKS = (spec.Causal(), spec.Window(before=3, after=0), spec.Chunked(size=2), spec.Causal() & spec.Prefix(1))

    @pytest.mark.parametrize("mask", MASKS, ids=repr)
    @each_kernel
    def test_a_diagonal_with_t_unlike_s_must_be_aligned(self, kernel: Kernel, mask: Mask) -> None:
        given = [kernel.room.array(x) for x in qkv(dtype="float32")]
        with pytest.raises(MaskError) as caught:
            _ = kernel.room.module.dot_product_attention(*given, mask=mask, implementation=kernel.name)
        assert type(caught.value) is MaskError
        assert [word for word in UNSAID if word not in str(caught.value)] == []

    @pytest.mark.parametrize(("setting", "least"), [("high", "highest"), ("medium", "high")])
    @pytest.mark.parametrize("kernel", [k for k in KERNELS if k.room is TORCH], ids=str)
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
