"""Adapters: a user's own model in any framework, as a function of named parameters and inputs."""

from attention.parity.adapters.program import Arrays, Call, Made, Program
from attention.parity.adapters.wrap import program  # and the function of the same name takes its place here

__all__ = ["Arrays", "Call", "Made", "Program", "program"]
