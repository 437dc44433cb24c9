"""Contracts: their probes, the backends that run them, and the check of a backend against the oracle."""
