"""Contracts: probes, the two backends, and the check that judges them."""
