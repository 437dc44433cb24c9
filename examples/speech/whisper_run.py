"""Whisper in both backends: recorded prompts to words, when each was spoken, and that it is the model that others run.

python -m examples.speech.whisper_run        build/examples/whisper/numbers.json, alignment.png, layers.json

words           the error rate of each backend on prompts that were not chosen by ear, and whether the texts are the same
word times      on prompts joined without the silence around them, where it is known when each begins
layer by layer  each block of both backends and of transformers, of what it received, within the oracle's budget
whole           logits of both backends and of transformers in float32, beside its own in float64
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer

from attention.parity.pretrained.layerwise import layerwise
from examples.checkpoint_readers import ctranslate2
from examples.experiment import run
from examples.speech import whisper, whisper_files, whisper_jax, whisper_theirs, whisper_torch
from examples.speech.mel import SECONDS, log_mel
from examples.speech.prompts import Prompt, joined, prompts, words
from examples.speech.scoring import lateness, same_words, word_errors
from examples.speech.whisper_figure import draw
from examples.speech.word_times import Word, word_times

FOLDER = Path("build/examples/whisper")
MODULES: Mapping[str, Any] = {"torch": whisper_torch, "jax": whisper_jax}
PROMPTS, LEAST = 30, 6
"""How many prompts are heard, evenly spread by name over all that have so many words and fit into what is heard at once."""
JOINED, TOGETHER = 10, 4
"""How many joined recordings are timed, and of how many of those prompts each consists."""
STATES, RUNS = 96, 8
"""States of the sound that the encoder's budgets are computed on, which grow with their square; the decoder sees all 1500."""
SHOWN = "agent-alreadyon"
"""The prompt whose alignment is drawn."""
EPSILON = 2.0**-24
"""The rounding of float32."""


@dataclass(frozen=True)
class Transcript:
    """What a backend made of one recording."""

    text: str
    pieces: tuple[str, ...]
    """The text of each token."""
    words: tuple[Word, ...]
    heard: whisper.Heard = field(repr=False)
    looks: np.ndarray = field(repr=False)
    """`(n, T, S)`, of the alignment heads."""


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A backend's trained model, from samples to words."""

    trained: whisper_files.Trained
    listener: whisper.Listener
    tokenizer: Tokenizer

    def __call__(self, prompt: Prompt) -> Transcript:
        """Return what is said in a recording, and when."""
        heard = whisper.greedy(self.listener, log_mel(prompt.samples, prompt.rate), self.trained.rules)
        pieces = tuple(self.tokenizer.decode([token]) for token in heard.tokens if token != self.trained.rules.end)
        looks = whisper.shown(heard.weights, self.trained.alignment_heads)
        spoken = word_times(pieces, looks, prompt.seconds)
        return Transcript("".join(pieces).strip(), pieces, tuple(spoken), heard, looks)


def chosen(spoken: Sequence[Prompt], count: int = PROMPTS, least: int = LEAST) -> list[Prompt]:
    """Return prompts evenly spread over all that have enough words and are not too long."""
    long = [prompt for prompt in spoken if len(words(prompt.text)) >= least and prompt.seconds <= SECONDS]
    return [long[i * len(long) // count] for i in range(min(count, len(long)))]


def timed(hear: Recogniser, spoken: Sequence[Prompt]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return (true, found) seconds at which parts of joined recordings begin, and what even spacing would have found.

    Of those whose first word was heard right; the first part is left out, for it begins with the sound.
    """
    found, even = list[tuple[float, float]](), list[tuple[float, float]]()
    for at in range(JOINED):
        # Far apart in the list: neighbours share words, of which it would be unclear which was heard.
        parts = spoken[at :: len(spoken) // TOGETHER][:TOGETHER]
        whole, begins = joined(parts)
        said = [(word, spoken.begin) for spoken in hear(whole).words for word in words(spoken.text)]
        wanted = words(whole.text)
        place = same_words(wanted, [word for word, _ in said])
        firsts = np.cumsum([0, *(len(words(part.text)) for part in parts)])[:-1]
        for first, begin in zip(firsts.tolist()[1:], begins[1:], strict=True):
            if first in place:
                found.append((begin, said[place[first]][1]))
                even.append((begin, whole.seconds * first / len(wanted)))
    return found, even


def whole(models: Mapping[str, Any], theirs: Any, sound: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """Return how far each implementation's float32 logits are from transformers' in float64."""
    made = {name: module.logits(models[name], sound, tokens) for name, module in MODULES.items()}
    made["transformers"] = whisper_theirs.logits(theirs, sound, tokens)
    exact = whisper_theirs.logits(theirs.double(), sound, tokens)
    _ = theirs.float()
    unit = EPSILON * float(np.abs(exact).max())
    off = {name: np.abs(logits - exact) for name, logits in made.items()}
    errors = {name: {"worst": float(x.max() / unit), "rms": float(np.sqrt((x**2).mean()) / unit)} for name, x in off.items()}
    return {"unit": unit, "largest logit": float(np.abs(exact).max()), "in units of rounding": errors}


def choices(trained: whisper_files.Trained, theirs: Any, prompt: Prompt, heard: whisper.Heard) -> bool:
    """Return whether transformers' model, told what was said so far, chooses each next token as it was chosen here."""
    sound = log_mel(prompt.samples, prompt.rate)[None]
    said = [*trained.rules.begin, *heard.tokens]
    logits = whisper_theirs.logits(theirs, sound, np.array([said[:-1]]))[0, len(trained.rules.begin) - 1 :]
    return tuple(trained.rules.choose(row, first=t == 0) for t, row in enumerate(logits)) == heard.tokens


def main() -> None:
    """Run the example."""
    console, started = Console(), time.perf_counter()
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = whisper_files.find()
    trained, tokenizer = whisper_files.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    models = {name: module.build(trained) for name, module in MODULES.items()}
    hear = {name: Recogniser(trained, module.listener(models[name]), tokenizer) for name, module in MODULES.items()}
    theirs = whisper_theirs.theirs(ctranslate2.load(folder / "model.bin").variables)
    recorded = prompts()
    spoken, numbers = chosen(recorded), dict[str, Any]()

    heard = {name: [run(p) for p in track(spoken, f"{name} listens", console=console)] for name, run in hear.items()}
    pairs = list(zip(spoken, heard["torch"], strict=True))
    agreed = [choices(trained, theirs, p, t.heard) for p, t in track(pairs, "transformers listens", console=console)]
    numbers["words"] = {
        **{name: word_errors([p.text for p in spoken], [t.text for t in found]) for name, found in heard.items()},
        "prompts": len(spoken),
        "same tokens in both backends": sum(a.heard.tokens == b.heard.tokens for a, b in zip(*heard.values(), strict=True)),
        "same tokens as transformers": sum(agreed),
        "transcripts": {p.name: {"said": p.text, "heard": t.text} for p, t in pairs},
    }
    times = {name: timed(run, [p for p in recorded if 3 <= len(words(p.text)) <= 8]) for name, run in hear.items()}
    numbers["word times"] = {
        **{name: lateness(found) for name, (found, _) in times.items()},
        "evenly spaced": lateness(times["torch"][1]),
    }
    shown = next(p for p in recorded if p.name == SHOWN)
    found = {name: run(shown) for name, run in hear.items()}
    first = found["torch"]
    draw(shown, {name: t.looks for name, t in found.items()}, first.pieces, first.words, FOLDER / "alignment.png")
    tokens = np.array([[*trained.rules.begin, *first.heard.tokens]], np.int32)
    sound = log_mel(shown.samples, shown.rate)[None]
    numbers["whole"] = whole(models, theirs, sound, tokens)
    layers = whisper_theirs.seen(trained, theirs, sound, tokens, STATES)
    report = layerwise(layers, runs=RUNS, progress=lambda name: console.print(f"budget of {name}"))
    report.to_json(FOLDER / "layers.json")
    numbers["layers"] = {"rows": len(report.rows), "outside their budget": sum(not row.agrees for row in report.rows)}
    numbers["seconds"] = round(time.perf_counter() - started, 1)
    _ = (FOLDER / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    console.print_json(data={name: value for name, value in numbers.items() if name != "words"})
    console.print(str(report), soft_wrap=True)
    report.assert_ok()


if __name__ == "__main__":
    run(main)
