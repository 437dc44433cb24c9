"""Matmul precision in PyTorch: a global switch, which a kernel can only honour or refuse."""

from __future__ import annotations

import torch

from attention.spec.kernels import PRECISIONS, Request
from attention.torch_impl.kernels.constants import constant

SETTINGS = {"medium": "default", "high": "high", "highest": "highest"}


def refuses(request: Request) -> str | None:
    """Return why torch's current setting is below the precision of a float32 request, or None."""
    if request.dtype != "float32" or request.precision is None:
        return None
    setting = _setting()
    if PRECISIONS.index(SETTINGS[setting]) >= PRECISIONS.index(request.precision):
        return None
    return f"precision {request.precision!r} is above torch.get_float32_matmul_precision() = {setting!r}"


@constant
def _setting() -> str:
    return torch.get_float32_matmul_precision()
