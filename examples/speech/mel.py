"""Log mel: what a recogniser is given of a sound, 100 frames a second of 80 bands each.

    power[t] = |FFT(hann * samples[160 t - 200 : 160 t + 200])|^2        25 ms of 16 kHz every 10 ms, mirrored at both ends
    mel[t, a] = sum over f of bank[f, a] power[t, f]                     triangles of equal area, equally far apart in mel
    log mel = (max(log10 mel, its maximum - 8) + 4) / 4                  so that a loud sound and a soft one look alike

References:
    Slaney, Auditory Toolbox (1998): mel is linear below 1 kHz and logarithmic above; Radford et al., arXiv:2212.04356.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.signal import resample_poly

RATE = 16_000
"""Samples per second."""
FRAME, HOP = 400, 160
"""Samples that a frame sees, and from one frame to the next."""
BANDS = 80
SECONDS = 30
"""What the model hears at once; a shorter sound is followed by silence."""


def log_mel(samples: np.ndarray, rate: int = RATE, frames: int = SECONDS * RATE // HOP, bands: int = BANDS) -> np.ndarray:
    """Return the log mel spectrogram of a sound.

    Args:
        samples: `(n,)`, between -1 and 1.
        rate: samples per second; another than 16,000 is resampled.
        frames: how many, 100 a second; what is longer is cut off.
        bands: A, from 0 to 8 kHz.

    Returns:
        `(frames, A)` float32.
    """
    n = frames * HOP
    sound = resampled(samples, rate).astype(np.float64)[:n]
    mirrored = np.pad(np.pad(sound, (0, n - len(sound))), FRAME // 2, mode="reflect")
    seen = np.lib.stride_tricks.sliding_window_view(mirrored, FRAME)[::HOP][:frames]
    # Periodic, as a window of a discrete spectrum has to be: the last sample would repeat the first.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(seen * hann)) ** 2
    loud = np.log10(np.maximum(power @ bank(bands), 1e-10))
    return ((np.maximum(loud, loud.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return a sound at 16,000 samples per second, by the polyphase filter of scipy."""
    common = math.gcd(rate, RATE)
    return samples if rate == RATE else resample_poly(samples, RATE // common, rate // common)


@cache
def bank(bands: int = BANDS) -> np.ndarray:
    """Return how much each band takes of each frequency: triangles `(201, bands)`, each over its two neighbours' centres."""
    hertz = np.linspace(0.0, RATE / 2, FRAME // 2 + 1)
    corners = _to_hertz(np.linspace(0.0, _to_mel(RATE / 2), bands + 2))
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rise = (hertz[:, None] - low) / (centre - low)
    fall = (high - hertz[:, None]) / (high - centre)
    return np.maximum(0.0, np.minimum(rise, fall)) * 2.0 / (high - low)


_LINEAR, _KNEE, _STEP = 200.0 / 3.0, 1000.0, math.log(6.4) / 27.0
"""Hertz per mel below the knee; where it is, in hertz; the growth per mel above."""


def _to_mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _KNEE else _KNEE / _LINEAR + math.log(hertz / _KNEE) / _STEP


def _to_hertz(mel: np.ndarray) -> np.ndarray:
    knee = _KNEE / _LINEAR
    return np.where(mel < knee, mel * _LINEAR, _KNEE * np.exp((np.maximum(mel, knee) - knee) * _STEP))
