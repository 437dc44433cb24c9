"""The calls that `attention kernels measure` and `tune` time: one call of a backend on any of its kernels.

forward: context = attend(q, k, v)        gradient: that, and the gradients of sum(context * along) by q, k and v
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from attention.cli.kernel_masks import parse
from attention.spec.axes import Sizes
from attention.spec.errors import KernelRefused
from attention.spec.kernels import Request, order
from attention.spec.kernels.tuning import Tile, device_name
from attention.spec.masks.algebra import Mask

Program = Callable[[], Any]

MASKS: dict[str, str | None] = {
    "none": None,
    "causal": "causal",
    "window": "window:256",
    "documents": "documents:8",
    "lengths": "lengths:ragged",
    "prefix": "causal | prefix:quarter",
    "general": "dense:0.5",
    "softcap": "causal",
    "decode": None,
    "cache": "lengths:half",
    "few": None,
}
"""A call of each structure of mask. "softcap" is a call that few kernels take, "decode" is one query against many keys, "cache"
the same half filled, and "few" has as many queries as a kernel for decoding takes."""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        backend: "torch" or "jax".
        entry: a name of `MASKS`.
        program: "forward" or "gradient".
        dtype: of q, k and v.
    """

    backend: str
    entry: str
    program: str
    dtype: str
    T: int
    S: int
    B: int = 1
    H: int = 8
    K: int = 8
    D: int = 64

    @property
    def sizes(self) -> Sizes:
        return Sizes((self.B,), self.T, self.S, self.H, self.K, self.D, self.D)

    @cached_property
    def mask(self) -> Mask | None:
        text = MASKS[self.entry]
        return None if text is None else parse(text, self.sizes)

    @property
    def options(self) -> dict[str, Any]:
        """The options besides a mask."""
        return {"softcap": 30.0} if self.entry == "softcap" else {}

    def drawn(self) -> list[np.ndarray]:
        """Return q, k, v and what the context is multiplied by, in float32."""
        rng = np.random.default_rng(0)
        shapes = (
            (self.B, n, heads, self.D) for n, heads in ((self.T, self.H), (self.S, self.K), (self.S, self.K), (self.T, self.H))
        )
        return [rng.standard_normal(shape, np.float32) for shape in shapes]


class TorchCall:
    """A case in torch."""

    def __init__(self, case: Case) -> None:
        self.torch: Any = import_module("torch")
        self.module: Any = import_module("attention.torch_impl")
        self.case = case
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        kind = getattr(self.torch, case.dtype)
        *inputs, self.along = (self.torch.from_numpy(x).to(self.device, kind) for x in case.drawn())
        self.inputs = [x.requires_grad_(case.program == "gradient") for x in inputs]
        self.mask = self.module.masks.native(case.mask, self.inputs[0].device)

    @property
    def request(self) -> Request:
        return self.module.attend.make_request(*self.inputs, self.mask, **self.case.options)

    def program(self, run: Callable[..., Any]) -> Program:
        """Return a call that has ended when it returns; `run(q, k, v, mask)` gives the context."""
        wait: Callable[[], Any] = self.torch.cuda.synchronize if self.device == "cuda" else lambda: None

        def forward() -> None:
            with self.torch.no_grad():
                _ = run(*self.inputs, self.mask)
            _ = wait()

        def gradient() -> None:
            _ = self.torch.autograd.grad(run(*self.inputs, self.mask), self.inputs, self.along)
            _ = wait()

        return gradient if self.case.program == "gradient" else forward


class JaxCall:
    """A case in JAX, compiled; its mask is an argument, as lengths and documents are in training."""

    def __init__(self, case: Case) -> None:
        self.jax: Any = import_module("jax")
        self.module: Any = import_module("attention.jax_impl")
        self.case = case
        self.device = self.jax.default_backend()
        *self.inputs, self.along = (self.jax.numpy.asarray(x, case.dtype) for x in case.drawn())
        self.mask = self.module.masks.native(case.mask)

    @property
    def request(self) -> Request:
        return self.module.attend.make_request(*self.inputs, self.mask, **self.case.options)

    def program(self, run: Callable[..., Any]) -> Program:
        """Return a call that has ended when it returns; `run(q, k, v, mask)` gives the context."""

        def gradient(q: Any, k: Any, v: Any, mask: Any, along: Any) -> Any:
            context, back = self.jax.vjp(lambda *inputs: run(*inputs, mask), q, k, v)
            return context, back(along)

        made = gradient if self.case.program == "gradient" else lambda q, k, v, mask, _: run(q, k, v, mask)
        compiled = self.jax.jit(made)
        return lambda: self.jax.block_until_ready(compiled(*self.inputs, self.mask, self.along))


CALLS: dict[str, Callable[[Case], Any]] = {"torch": TorchCall, "jax": JaxCall}


def programs(case: Case, skip: set[str]) -> tuple[dict[str, Program], dict[str, str]]:
    """Return a program for each kernel that "auto" may ask on this device and that takes the call, and why others do not.

    Args:
        case: the call.
        skip: kernels that are not asked.
    """
    call = CALLS[case.backend](case)
    kernels, request = call.module.kernels.KERNELS, call.request
    preferred = (name for rule in kernels.rules if call.device in rule.devices for name in rule.prefer if name in kernels)
    ready, refusals = dict[str, Program](), dict[str, str]()
    for name in dict.fromkeys([*order(kernels), *preferred]):
        reason = None if name in skip else kernels[name].refuses(request)
        if reason is not None:
            refusals[name] = reason
        elif name not in skip:
            ready[name] = call.program(_named(call, name))
    return ready, refusals


def tiled(case: Case, name: str, tile: Tile) -> Program:
    """Return the case on a kernel of other tiles.

    Raises:
        KernelRefused: it cannot.
    """
    call = CALLS[case.backend](case)
    given = call.module.kernels.KERNELS[name]
    # A tile is of two sizes, or of one where queries and keys share it.
    kernel = replace(given, tile=tile if case.backend == "jax" else tile[0])
    request: Request = call.request
    reason = kernel.refuses(request)
    if reason is not None:
        raise KernelRefused(f"kernel {name!r} refuses: {reason}")

    def run(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return kernel.run(replace(request, q=q, k=k, v=v, mask=mask))["context"]

    return call.program(run)


def _named(call: Any, name: str) -> Callable[..., Any]:
    return lambda q, k, v, mask: call.module.dot_product_attention(q, k, v, mask=mask, implementation=name, **call.case.options)


def accelerator(backend: str) -> str:
    """Return the name of the device on which a backend places its arrays."""
    if backend == "torch":
        torch: Any = import_module("torch")
        return torch.cuda.get_device_name() if torch.cuda.is_available() else device_name("cpu")
    device: Any = import_module("jax").devices()[0]
    return device_name("cpu") if device.platform == "cpu" else device.device_kind
