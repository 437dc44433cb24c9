"""Kernels: the request to a kernel, the protocol of a kernel, and the choice among kernels."""

from attention.spec.kernels.kernel import REFERENCE, Choice, Kernel, Kernels, answer, choose, order, recorded
from attention.spec.kernels.request import OPTIONAL, PRECISION, PRECISIONS, Request, check_precision, intermediate_names

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
