"""The same model as transformers runs it: what ours is held beside.

    seen[l] = (what block l received, what it made of it)        by hooks, in one run of the whole model

transformers reads the file by code of its own, permutes the rows of q and k back, and turns halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from attention.parity.pretrained.layerwise import RecordedLayer
from attention.spec.params import Weights, inner
from examples.language_model.model import LanguageModel


def load(path: Path) -> tuple[Any, Any]:
    """Return transformers' model and tokenizer of a GGUF file."""
    given = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name, "local_files_only": True}
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32, attn_implementation="eager")
    return model.eval(), AutoTokenizer.from_pretrained(**given)


@torch.no_grad()
def logits(theirs: Any, tokens: np.ndarray) -> np.ndarray:
    """Return the logits `(B, T, V)` of what follows each of `tokens` `(B, T)`."""
    return theirs(torch.from_numpy(tokens)).logits.numpy()


@torch.no_grad()
def greedy(theirs: Any, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the `count` likeliest tokens after a prompt, one after another, by their own loop and their own cache."""
    given = torch.tensor([list(prompt)])
    made = theirs.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=False,
        max_new_tokens=count,
        # A number that no token has: nothing ends the text, and no token is kept from being said.
        eos_token_id=theirs.config.vocab_size,
        pad_token_id=0,
    )
    return tuple(made[0, len(prompt) :].tolist())


def seen(theirs: Any, architecture: LanguageModel, weights: Weights, tokens: np.ndarray) -> Iterator[RecordedLayer]:
    """Yield every block with what it received when theirs read `tokens` `(B, T)`, and then all of them as one.

    Args:
        theirs: their model.
        architecture: ours.
        weights: ours.
        tokens: what is read.
    """
    states = _states(theirs, tokens)
    decoder, own = architecture.decoder, inner("decoder", weights)
    for i, (name, block) in enumerate(decoder.parts.items()):
        yield RecordedLayer(name, block, inner(name, own), {"x": states[i]}, theirs={"output": states[i + 1]})
    yield RecordedLayer("decoder", decoder, own, {"x": states[0]}, theirs={"output": states[-1]})


@torch.no_grad()
def _states(theirs: Any, tokens: np.ndarray) -> list[np.ndarray]:
    """Return what enters the first block, what leaves each, and what leaves the last norm."""
    caught: list[np.ndarray] = []
    body = theirs.model
    hooks = [body.embed_tokens.register_forward_hook(lambda _m, _a, out: caught.append(out.numpy().copy()))]
    hooks += [m.register_forward_hook(lambda _m, _a, out: caught.append(_first(out))) for m in (*body.layers, body.norm)]
    try:
        _ = theirs(torch.from_numpy(tokens))
    finally:
        for hook in hooks:
            hook.remove()
    return caught


def _first(out: Any) -> np.ndarray:
    """Return what a block made, which some releases return in a tuple."""
    return (out[0] if isinstance(out, tuple) else out).numpy().copy()
