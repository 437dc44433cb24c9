"""The wording of an edit: text for operations, operands and lines."""

# What an edit makes of arrays are small functions whose types strict mode cannot know.
# pyright: standard

from __future__ import annotations

from attention.parity.diagnosis.edits.trial import Trials
from attention.parity.diagnosis.rules.activations import which
from attention.parity.tracing.trace import Event, Recording

OPS = {
    "add": "the sum", "sub": "the difference", "mul": "the product", "div": "the quotient", "dot_general": "the matrix product",
    "max": "the maximum", "min": "the minimum", "reduce_sum": "the sum over an axis", "reduce_max": "the maximum over an axis",
    "select_n": "the choice by a mask", "concatenate": "the concatenation", "conv_general_dilated": "the convolution",
    "gather": "the rows that are taken", "logistic": "sigmoid", "integer_pow": "power", "pow": "power", "neg": "the sign",
    "cumsum": "the cumulative sum", "rev": "the reversed order", "sin": "sine", "cos": "cosine",
}  # fmt: skip
"""What primitives of JAX are called."""
MOST = 60


def op(event: Event) -> str:
    """Return what the operation that made an array is called."""
    return OPS.get(event.op, event.op.replace("_", " "))


def code(event: Event) -> str:
    """Return the line of code that made an array, shortened; "" where there is none."""
    text = event.text
    return f"`{text if len(text) <= MOST else text[: MOST - 3] + '...'}`" if text else ""


def called(trials: Trials, e: int) -> str:
    """Return how an array of JAX is called: the name of what was given, or the line that made it."""
    return called_of(trials.jax, e)


def called_of(side: Recording, e: int) -> str:
    """Return how an array of either side is called."""
    event = side.events[e]
    if event.is_given:
        if event.name:
            return event.name
        return f"{float(event.value):.6g}" if event.value.size == 1 and event.value.dtype.kind in "fiu" else "a constant"
    if event.op in ("embedding", "index_select", "gather", "index", "take") and event.inputs:
        return f"the rows of {called_of(side, event.inputs[0])}"
    if event.is_move and event.inputs:
        return called_of(side, event.inputs[0])
    return f"{op(event)} of {event.place}" if event.line else f"{op(event)} {event.shape}"


def made_by(trials: Trials, e: int) -> str:
    """Return what an array is made by: the operation and its operands."""
    event = trials.events[e]
    operands = [n for n in event.inputs if trials.events[n].role or trials.value(n).size > 1]
    return f"{op(event)} of {' and '.join(called(trials, n) for n in operands[:2])}" if operands else op(event)


def chain(trials: Trials, x: int, e: int) -> str:
    """Return what the function from one array to another is called; "" if it has no name."""
    if x == e or trials.value(x).dtype.kind != "f" or trials.value(e).dtype.kind != "f":
        return ""
    if name := which(trials.value(e), trials.value(x)):
        return name
    event = trials.events[e]
    if event.inputs and all(n == x or trials.value(n).size == 1 for n in event.inputs):
        numbers = [trials.value(n).item() for n in event.inputs if n != x and trials.value(n).dtype.kind in "fiu"]
        return f"{op(event)}{f' with {numbers[0]:.6g}' if numbers else ''}"
    if len(event.inputs) == 2 and x in event.inputs:
        [other] = [n for n in event.inputs if n != x] or [x]
        names = {"add": "the addend:", "sub": "what is subtracted:", "mul": "the factor:", "div": "the divisor:"}
        return f"{names.get(event.op, op(event))} {called(trials, other)}"
    return ""
