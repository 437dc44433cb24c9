"""Summarisation: a package's long description to its one line, by a model that may copy words."""
