"""Comparisons of language models: logits position by position, and decoding with a cache against the full forward pass."""

from attention.parity.language_models.cached_model import CachedModel
from attention.parity.language_models.decoding import compare_decoding
from attention.parity.language_models.decoding_result import Decoding
from attention.parity.language_models.logits import compare_logits
from attention.parity.language_models.logits_result import LogitsComparison

__all__ = ["CachedModel", "Decoding", "LogitsComparison", "compare_decoding", "compare_logits"]
