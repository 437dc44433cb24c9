"""Casts to a coarser dtype inside a program, such as a block in bfloat16 of a model in float32.

    narrow(question) = {"bfloat16"}

Their roundings count in a budget only where both programs make them: one that computes its softmax in bfloat16 alone differs.
"""

# The frameworks leave many of their types unknown, which strict mode reports at every use.
# pyright: standard

from __future__ import annotations

import re
from typing import Any

import jax

from attention.parity.adapters.jax_program import JaxProgram, width
from attention.parity.compare.oracle import Question

SHORT = {"bf16": "bfloat16", "f16": "float16"}


def narrow(question: Question) -> set[str]:
    """Return the dtypes coarser than its own that a program computes in; none where it cannot be seen."""
    try:
        found = _of_jax(question) if isinstance(question.program, JaxProgram) else _of_torch(question)
    except Exception:  # noqa: BLE001 - a user's program may raise anything; the comparison has said what
        return set()
    return found - {question.dtype}


def _of_jax(question: Question) -> set[str]:
    program: Any = question.program
    arguments = program.arguments(question.call, question.params, question.dtype)
    with width(question.dtype):
        text = str(jax.make_jaxpr(program.results)(*arguments))
    return {SHORT[name] for name in re.findall(r"\b(bf16|f16)\[", text)}


def _of_torch(question: Question) -> set[str]:
    if not hasattr(question.program, "bind"):
        return set()
    import torch  # noqa: PLC0415 - a program of torch is there, so torch is too
    from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC0415 - as above
    from torch.utils._pytree import tree_leaves  # noqa: PLC0415 - as above

    found: set[str] = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            found.update(str(x.dtype).removeprefix("torch.") for x in tree_leaves(made) if isinstance(x, torch.Tensor))
            return made

    program: Any = question.program
    with Seen():
        _ = program.run(question.call, params=question.params, dtype=question.dtype)
    return found & {*SHORT.values()}
