"""Multi-head attention: configuration, head-level steps, formula, cache checks and contract, in order of dependency."""

from attention.spec.layers.multi_head.configuration import BIASES, GATES, SOFTMAX
from attention.spec.layers.multi_head.contract import MultiHeadAttention

__all__ = ["BIASES", "GATES", "SOFTMAX", "MultiHeadAttention"]
