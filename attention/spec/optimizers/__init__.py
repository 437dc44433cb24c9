"""Optimizers: one step of each, and schedules of the learning rate."""
