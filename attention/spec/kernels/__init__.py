"""Kernels: the request that a kernel answers, the choice among kernels, and what "auto" decides by."""

from attention.spec.kernels.kernel import (
    OPTIONAL,
    PRECISION,
    PRECISIONS,
    REFERENCE,
    Choice,
    Kernel,
    Kernels,
    Request,
    answer,
    check_precision,
    choose,
    intermediate_names,
    order,
    recorded,
)

__all__ = [
    "OPTIONAL",
    "PRECISION",
    "PRECISIONS",
    "REFERENCE",
    "Choice",
    "Kernel",
    "Kernels",
    "Request",
    "answer",
    "check_precision",
    "choose",
    "intermediate_names",
    "order",
    "recorded",
]
