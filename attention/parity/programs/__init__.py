"""Programs: a user's own model, whatever it is written in, as a function of named parameters and inputs."""

from attention.parity.programs.program import Arrays, Call, Made, Program  # noqa: I001 - the submodule `program` comes first,
from attention.parity.programs.factory import program  # and the function of the same name takes its place here

__all__ = ["Arrays", "Call", "Made", "Program", "program"]
