"""Scores of a recogniser: how many words are wrong, and how late or early each is said to begin.

word error rate = (substituted + deleted + inserted) / words of the transcript        by the fewest edits
late            = |begin found - true begin|        of words heard right, where it is known when they were spoken
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import jiwer

from examples.speech.prompts import words


def word_errors(wanted: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Return the word error rate of texts, and what it consists of; spelling that is not heard does not count."""
    made = jiwer.process_words([" ".join(words(text)) for text in wanted], [" ".join(words(text)) for text in found])
    counted = {"substituted": made.substitutions, "deleted": made.deletions, "inserted": made.insertions}
    return {"word error rate": made.wer, "words": sum(map(len, made.references)), **counted}


def same_words(wanted: Sequence[str], found: Sequence[str]) -> dict[int, int]:
    """Return which word of `wanted` is which of `found`, by the fewest edits; those heard wrong are left out.

    >>> same_words(["press", "one", "now"], ["press", "now"])
    {0: 0, 2: 1}
    """
    made = jiwer.process_words(" ".join(wanted), " ".join(found))
    chunks = [chunk for chunk in made.alignments[0] if chunk.type == "equal"]
    return {
        at: at - chunk.ref_start_idx + chunk.hyp_start_idx
        for chunk in chunks
        for at in range(chunk.ref_start_idx, chunk.ref_end_idx)
    }


def lateness(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return how far found times are from true ones, in seconds, of (true, found)."""
    off = sorted(abs(found - true) for true, found in pairs)
    within = sum(x <= 0.1 for x in off) / len(off)
    return {"median seconds": median(off), "worst seconds": off[-1], "within 0.1 s": within, "words": len(off)}
