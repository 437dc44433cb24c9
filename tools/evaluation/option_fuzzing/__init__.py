"""Option fuzzing: the formula and the layers of both backends, compared on random combinations of all options of all contracts.

    for each draw:  formula = torch layer = JAX layer        values and gradients, in float64

A draw is a contract with any combination of its options, and a call of it: composed masks of every kind, empty rows, padding
on either side, T != S, hidden tokens that hold NaN and inf. A failing draw is shrunk and printed as code.
"""

from tools.evaluation.option_fuzzing.check import Disagreement, check_draw
from tools.evaluation.option_fuzzing.draws import Draw, drawn
from tools.evaluation.option_fuzzing.run import Failure, Tally, random_options
from tools.evaluation.option_fuzzing.shrink import code, shrunk

__all__ = ["Disagreement", "Draw", "Failure", "Tally", "check_draw", "code", "drawn", "random_options", "shrunk"]
