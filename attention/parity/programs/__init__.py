"""Programs: a user's own model, whatever it is written in, as a function of named parameters and inputs."""

from attention.parity.programs.program import Arrays, Call, Made, Program

__all__ = ["Arrays", "Call", "Made", "Program"]
