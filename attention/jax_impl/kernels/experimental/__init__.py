"""Kernels that no device of their kind has run yet: never chosen by "auto", only by name."""
