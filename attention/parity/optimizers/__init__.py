"""Optimizers: one step of an optimiser against the reference code of its rule."""
