"""Torch hooks for recording: decomposed operations, source lines, and detach calls made by the user.

softmax(x)    ->    amax, sub, exp, sum, div
"""

# torch leaves many of its types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from attention.parity.tracing.source_location import Frame, Place, library, places

# Fused operations that JAX writes in parts. What is not here is one operation on both sides, or has parts already.
FUSED = frozenset(
    """
    _fused_rms_norm _fused_rms_norm_backward _log_softmax _log_softmax_backward_data _native_batch_norm_legit
    _native_batch_norm_legit_no_training _safe_softmax _scaled_dot_product_flash_attention_for_cpu _softmax
    _softmax_backward_data addbmm addcdiv addcmul addmm addmv baddbmm celu elu gelu gelu_backward glu glu_backward
    hardsigmoid hardsigmoid_backward hardswish hardswish_backward huber_loss leaky_relu lerp log_sigmoid_forward logsumexp
    mish mse_loss native_batch_norm native_batch_norm_backward native_group_norm native_group_norm_backward
    native_layer_norm native_layer_norm_backward rsub sigmoid_backward silu silu_backward smooth_l1_loss softplus
    softplus_backward std std_mean tanh_backward threshold_backward var var_mean
    """.split()  # noqa: SIM905 a table of names is read at a glance, a column of sixty quoted lines is not
)
_TRACEBACK = re.compile(r'File "(.+)", line (\d+), in (.+)')
_OURS = __file__.rpartition("tracing")[0]
# The modes stand between the program and what it calls.
_BETWEEN = (__file__, __file__.replace("torch_instrumentation", "torch_tracer"))


class DetachObserver(TorchFunctionMode):
    """Records whether the current call is a `detach` by the program itself; autograd also detaches internally."""

    detaches = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.detaches = func in (Tensor.detach, torch.detach)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.detaches = False


def stack() -> tuple[Place, ...]:
    """Return the user's frames, innermost first: in the backward pass, of the forward operation."""
    found = list(frames())
    node = torch._C._current_autograd_node()  # noqa: SLF001 there is no public name
    if node is not None and not places(found):
        lines = node.metadata.get("traceback_", []) if isinstance(node.metadata, dict) else []
        matches = [_TRACEBACK.search(line) for line in reversed(lines)]
        found = list(_until_ours((m[1], int(m[2]), m[3]) for m in matches if m))
    return places(found) or library(found)


def frames() -> Iterator[Frame]:
    """Yield the frames of the program, innermost first: those outside our own are of who called us."""
    frame: Any = sys._getframe(1)  # noqa: SLF001 the fast way to the stack, which `inspect` reads too
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS) and file not in _BETWEEN:
            return
        if file not in _BETWEEN:
            yield file, frame.f_lineno, frame.f_code.co_qualname
        frame = frame.f_back


def _until_ours(frames: Iterator[Frame]) -> Iterator[Frame]:
    for frame in frames:
        if frame[0].startswith(_OURS):
            # The frames before are the program's own, those after its caller's.
            if frame[0] not in _BETWEEN:
                return
        else:
            yield frame


@contextmanager
def decomposed() -> Iterator[None]:
    """Run attention as matrix products, and modules without their fast paths."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def default_dtype(dtype: str | None) -> Iterator[None]:
    """Set the default dtype of torch to that of the run, for tensors that the program creates."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == "float64" else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
