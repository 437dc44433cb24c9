"""What is measured and what is shown, by name: a module of this folder for each subject."""

from __future__ import annotations

from tools.results import (
    conformance,
    examples,
    floors,
    matrix,
    mistakes,
    parity,
    proof,
    speed,
    summary,
    trained,
    transcripts,
)

_SUBJECTS = (parity, conformance, examples, trained, speed, mistakes, transcripts, matrix, proof, summary, floors)

MEASUREMENTS = {each.name: each for subject in _SUBJECTS for each in subject.MEASUREMENTS}
FIGURES = {each.name: each for subject in _SUBJECTS for each in subject.FIGURES}
