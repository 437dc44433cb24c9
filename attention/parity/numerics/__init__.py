"""Numerics: error budgets, the jaxpr interpreter, stochastic rounding, the comparison of arrays."""
