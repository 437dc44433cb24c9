"""Contracts of layers, one file each."""
