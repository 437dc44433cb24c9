"""Matching: which parameters of one program are which of another's, as a map that can be printed, saved and taken back.

found = match(torch_program, jax_program, call)
found.forward(torch_program.params)        the same numbers by JAX's names, in JAX's layout
"""

from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.match import match
from attention.parity.param_mapping.param_map import ParamMap

__all__ = ["Block", "Move", "ParamMap", "match"]
