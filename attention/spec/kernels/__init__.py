"""Kernels: the request to a kernel, the protocol of a kernel, and the choice among kernels."""

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
