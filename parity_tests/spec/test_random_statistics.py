"""Statistics of the random bits: bounds that a fair coin passes and biased generators fail.

    p-value = the chance that independent fair bits are as uneven        a generator fails below 1e-6, a mutant far below

Keys and counters are fixed, so nothing here fails by bad luck; each bound is a quantile of the null distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy import stats

from attention.spec import random
from attention.spec.layers.tokens import seed_at

N = 2**15
"""Words that a test looks at: a bias of one part in a hundred of one bit would be seen."""
WORST = 1e-6
COUNTER = np.arange(N, dtype=np.uint32)

Bits = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""32 bits of each high word and low word of a key, and counter."""


def threefry(
    high: np.ndarray,
    low: np.ndarray,
    counter: np.ndarray,
    blocks: int = 5,
    rotations: tuple[tuple[int, ...], ...] = random.ROTATIONS,
    injects: bool = True,
) -> np.ndarray:
    """The generator once more, so that it can be made worse."""
    words = (high, low, high ^ low ^ np.uint32(random.PARITY))
    x0, x1 = counter * np.uint32(0) + words[0], counter + words[1]
    for i in range(blocks):
        for r in rotations[i % 2]:
            x0 = x0 + x1
            x1 = ((x1 << np.uint32(r)) | (x1 >> np.uint32(-r % 32))) ^ x0
        if injects:
            x0, x1 = x0 + words[(i + 1) % 3], x1 + words[(i + 2) % 3] + np.uint32(i + 1)
    return x0 ^ x1


MUTANTS: dict[str, Bits] = {
    "4 rounds": partial(threefry, blocks=1),
    "8 rounds": partial(threefry, blocks=2),
    "no rotation": partial(threefry, rotations=((0,) * 4,) * 2),
    "rotations by 1": partial(threefry, rotations=((1,) * 4,) * 2),
    "the counter itself": lambda _, low, counter: counter * np.uint32(2654435761) + low,
}


def word(number: int) -> np.ndarray:
    return np.asarray([number], np.uint32)


def evenness(words: np.ndarray) -> float:
    """The p-value of how often each of the 32 bits is set: chi-square of 32 degrees."""
    set_bits = ((words[:, None] >> np.arange(32, dtype=np.uint32)) & 1).sum(0, dtype=np.int64)
    return float(stats.chi2.sf((((2 * set_bits - len(words)) ** 2) / len(words)).sum(), 32))


def monobit(words: np.ndarray) -> float:
    """The p-value of how many bits are set in all: normal."""
    total = 32 * len(words)
    return float(2 * stats.norm.sf(abs(2 * int(np.bitwise_count(words).sum(dtype=np.int64)) - total) / total**0.5))


def bytes_even(words: np.ndarray) -> float:
    """The least p-value of the four bytes' histograms: chi-square of 255 degrees."""
    expected = len(words) / 256
    histograms = (np.bincount(words.view(np.uint8)[place::4], minlength=256) for place in range(4))
    return min(float(stats.chi2.sf((((found - expected) ** 2) / expected).sum(), 255)) for found in histograms)


def serial(words: np.ndarray, lag: int) -> float:
    """The p-value of the correlation of numbers so far apart: normal."""
    x = words.astype(np.float64) / 2**32 - 0.5
    return float(2 * stats.norm.sf(abs(12 * (x[lag:] * x[:-lag]).sum()) / (len(x) - lag) ** 0.5))


def avalanche(bits: Bits) -> float:
    """The p-value of how often each output bit turns when one bit of the counter or of the key's low word is turned."""
    n = 2048
    base = np.arange(n, dtype=np.uint32) * np.uint32(977)
    key, counter = base[::-1].copy(), base
    whole, total = bits(word(0), key, counter), 0.0
    for turned in (np.uint32(1 << i) for i in range(32)):
        for changed in (bits(word(0), key, counter ^ turned), bits(word(0), key ^ turned, counter)):
            flips = (((whole ^ changed)[:, None] >> np.arange(32, dtype=np.uint32)) & 1).sum(0, dtype=np.int64)
            total += float((((2 * flips - n) ** 2) / n).sum())
    return float(stats.chi2.sf(total, 2 * 32 * 32))


def p_values(bits: Bits) -> dict[str, float]:
    """Every p-value of a generator, by the name of the test."""
    words = bits(word(0), word(7), COUNTER)
    by_seed = bits(word(0), COUNTER, word(5))
    # The steps of a training: the seed of a place inside a layer, at each step's seed.
    steps = bits(word(0), bits(word(0), COUNTER, word(random.label("ffn"))), word(0))
    found = {"avalanche": avalanche(bits)}
    for name, drawn in {"indices": words, "seeds": by_seed, "steps": steps}.items():
        found |= {f"{name}: monobit": monobit(drawn), f"{name}: each bit": evenness(drawn), f"{name}: bytes": bytes_even(drawn)}
        found[f"{name}: each bit of neighbours"] = evenness(drawn[1:] ^ drawn[:-1])
        found |= {f"{name}: correlation at {lag}": serial(drawn, lag) for lag in (1, 2, 64, 512)}
    return found


class TestLaws:
    def test_the_generator_is_that_of_the_spec(self) -> None:
        for seed in (7, 2**32 + 5):
            high, low = random.key(seed)
            wanted = random.bits((high, low), COUNTER[:100].astype(np.int64))
            np.testing.assert_array_equal(threefry(word(int(high)), word(int(low)), COUNTER[:100]), wanted)
        steps = [random.bits(random.key(seed_at(step, "ffn") or 0), 0) for step in range(9)]
        drawn = threefry(word(0), threefry(word(0), COUNTER[:9], word(random.label("ffn"))), word(0))
        assert drawn.tolist() == steps

    def test_bits_are_as_even_as_chance_has_it(self) -> None:
        found = p_values(threefry)
        assert len(found) == 25
        assert min(found.values()) > WORST, min(found, key=lambda name: found[name])
        # Numbers that are too even are no chance either: of 25 p-values, half are above 1/2, give or take 5 standard errors.
        assert 0 < sum(p > 0.5 for p in found.values()) < 25

    @pytest.mark.parametrize("name", MUTANTS)
    def test_a_worse_generator_fails(self, name: str) -> None:
        assert min(p_values(MUTANTS[name]).values()) < 1e-12

    @pytest.mark.parametrize(("rotations", "blocks"), [(((12, 15, 26, 6), (17, 29, 16, 24)), 5), (random.ROTATIONS, 4)])
    def test_one_wrong_rotation_or_a_missing_block_is_caught_by_its_bits(
        self, rotations: tuple[tuple[int, ...], ...], blocks: int
    ) -> None:
        # Chance cannot tell it: Salmon et al. find 13 rounds enough. The known answers of test_random.py can.
        wrong = threefry(word(0), word(0), word(0), blocks, rotations)
        assert wrong.tolist() != [0x6B200159 ^ 0x99BA4EFE]
        assert threefry(word(0), word(0), word(0)).tolist() == [0x6B200159 ^ 0x99BA4EFE]


class TestDropout:
    @pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
    def test_the_share_that_is_kept_is_the_rate(self, rate: float) -> None:
        chance, n = random.keep_threshold(rate) * 2.0**-23, 0
        for seed in range(4):
            n += int(random.keep(seed, rate, (4, 64, 128)).sum())
        total = 4 * 4 * 64 * 128
        within = stats.norm.isf(WORST / 2) * (total * chance * (1 - chance)) ** 0.5
        assert abs(n - total * chance) < within

    def test_every_query_and_every_key_keeps_its_share(self) -> None:
        kept = random.keep(3, 0.3, (4, 64, 128)).astype(np.float64)
        variance = 0.3 * 0.7
        for axis, n in ((1, 64), (2, 128)):
            z = (kept.sum(axis) - 0.7 * n) ** 2 / (n * variance)
            assert stats.chi2.sf(z.sum(), z.size) > WORST

    def test_masks_of_two_seeds_are_independent(self) -> None:
        one, other = (random.keep(seed, 0.5, (4, 64, 128)) for seed in (11, 12))
        n = one.size
        assert abs(int((one == other).sum()) - n / 2) < stats.norm.isf(WORST / 2) * n**0.5 / 2
