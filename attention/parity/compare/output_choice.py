"""Which outputs of two programs are compared: what the caller picks, or what both of them have.

outputs="logits"        outputs=("logits", "hidden_states[*]")        outputs={"logits": "output"}
"""

# What a caller gives is of types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention.spec.errors import OptionError, shown

Patterns = tuple[str, ...]
MAIN = ("output.logits", "output.last_hidden_state")
"""What a model of transformers returns beside states, losses and pooled outputs, the first that it has."""


def asked(outputs: Any) -> tuple[Patterns, Patterns]:
    """Return the patterns of the first and of the second program; empty for all.

    Raises:
        OptionError: it is no name, no names and no mapping of names.
    """
    if outputs is None:
        return (), ()
    names = [outputs] if isinstance(outputs, str) else list(outputs) if isinstance(outputs, (tuple, list, set)) else []
    pairs = [*outputs.items()] if isinstance(outputs, Mapping) else [(name, name) for name in names]
    if not pairs or not all(isinstance(one, str) and one and isinstance(other, str) and other for one, other in pairs):
        raise OptionError(f"outputs {shown(outputs)} must be a name, several names, or a mapping of names to names")
    return tuple(one for one, _ in pairs), tuple(other for _, other in pairs)


def alike(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> tuple[tuple[Patterns, Patterns], list[str]]:
    """Return the names to which two results have to be cut to be as many, empty where nothing has to be, and a note of it.

    A lone output is the logits, or else the last hidden state, of a program that returns more by name; of two results with
    names, those that both have are compared.
    """
    if first.keys() == second.keys() or len(first) == len(second):
        return ((), ()), []
    both = [name for name in first if name in second]
    main = [next((name for name in MAIN if name in made), "") for made in (first, second)]
    if both and len(both) == min(len(first), len(second)):
        picks = (tuple(both), tuple(both))
    elif len(second) == 1 and main[0]:
        picks = ((main[0],), tuple(second))
    elif len(first) == 1 and main[1]:
        picks = (tuple(first), (main[1],))
    else:
        return ((), ()), []
    gone = sorted({*first, *second} - {*picks[0], *picks[1]})
    told = f"{', '.join(picks[0])} is compared, and not {', '.join(gone)}, which one program alone returns: see outputs="
    return picks, [told[:480]]
