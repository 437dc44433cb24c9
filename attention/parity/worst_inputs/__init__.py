"""A seeded, bounded search for the input on which two programs differ most."""

from attention.parity.worst_inputs.search import WorstInput, worst_input

__all__ = ["WorstInput", "worst_input"]
