"""Writes Marian files: the inverse of the reader, and a tiny model with every name of a real one.

q = round(w * multiplier)    multiplier = 127 / max |w|        int8, transposed but for Wemb
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FLOAT32, INT8, TEXT = 0x404, 0x4101, 0x101
M, H, A, V, ENCODER, DECODER = 10, 2, 14, 23, 3, 2
SETTINGS = {
    "type": "transformer",
    "dim-emb": M,
    "enc-depth": ENCODER,
    "dec-depth": DECODER,
    "dec-cell": "ssru",
    "dec-cell-base-depth": 2,
    "tied-embeddings-all": "true",
    "transformer-decoder-autoreg": "rnn",
    "transformer-dim-ffn": A,
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2,
    "transformer-heads": H,
    "transformer-postprocess": "dan",
    "transformer-preprocess": '""',
    "transformer-train-position-embeddings": "false",
}


def tiny(seed: int = 0) -> dict[str, np.ndarray]:
    """Return random float32 tensors of every name that a model of the tiny sizes has."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return (0.8 * rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    made = {"Wemb": drawn(V, M), "decoder_ff_logit_out_b": drawn(1, V)}

    def norm(at: str) -> None:
        made[f"{at}_ln_scale"], made[f"{at}_ln_bias"] = 1 + drawn(1, M) / 4, drawn(1, M) / 4

    def attention(at: str) -> None:
        for name in "qkvo":
            made[f"{at}_W{name}"], made[f"{at}_b{name}"] = drawn(M, M), drawn(1, M)
        norm(f"{at}_Wo")

    def fed(at: str) -> None:
        made[f"{at}_W1"], made[f"{at}_b1"] = drawn(M, A), drawn(1, A)
        made[f"{at}_W2"], made[f"{at}_b2"] = drawn(A, M), drawn(1, M)
        norm(f"{at}_ffn")

    for i in range(1, ENCODER + 1):
        attention(f"encoder_l{i}_self")
        fed(f"encoder_l{i}_ffn")
    for i in range(1, DECODER + 1):
        at = f"decoder_l{i}"
        made[f"{at}_rnn_W"], made[f"{at}_rnn_Wf"], made[f"{at}_rnn_bf"] = drawn(M, M), drawn(M, M), drawn(1, M)
        norm(f"{at}_rnn_ffn")
        attention(f"{at}_context")
        fed(f"{at}_ffn")
    return made


def content(tensors: Mapping[str, np.ndarray], settings: Mapping[str, object] = SETTINGS, *, version: int = 1) -> bytes:
    """Return the bytes of a file: int8 for what is a matrix, float32 for the rest, the settings last, each to 256 bytes."""
    entries = [(name, *_stored(name, x)) for name, x in tensors.items()]
    lines = "".join(f"{name}: {word}\n" for name, word in settings.items()) + "dim-vocabs:\n  - 32000\n  - 32000\n"
    text = lines.encode() + b"\0"
    entries.append(("special:model.yml", TEXT, (len(text),), text))
    entries = [(name, kind, shape, _filled(data)) for name, kind, shape, data in entries]
    names = [name.encode() + b"\0" for name, *_ in entries]
    head = struct.pack("<2Q", version, len(entries))
    head += b"".join(struct.pack("<4Q", len(n), e[1], len(e[2]), len(e[3])) for n, e in zip(names, entries, strict=True))
    head += b"".join(names) + b"".join(struct.pack(f"<{len(e[2])}i", *e[2]) for e in entries)
    pad = -(len(head) + 8) % 256
    return head + struct.pack("<Q", pad) + bytes(pad) + b"".join(e[3] for e in entries)


def write(path: Path, tensors: Mapping[str, np.ndarray], settings: Mapping[str, object] = SETTINGS) -> dict[str, np.ndarray]:
    """Write a file, and return the tensors as they are in it: what was rounded to int8 is rounded."""
    _ = path.write_bytes(content(tensors, settings))
    return {name: quantised(x)[0] / quantised(x)[1] if _is_matrix(x) else x for name, x in tensors.items()}


def quantised(x: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return the int8 levels of a matrix, and the multiplier that makes levels of it."""
    multiplier = np.float32(127 / np.abs(x).max())
    return np.rint(x * multiplier).astype(np.int8), multiplier


def _is_matrix(x: np.ndarray) -> bool:
    return x.shape[0] > 1


def _stored(name: str, x: np.ndarray) -> tuple[int, tuple[int, ...], bytes]:
    if not _is_matrix(x):
        return FLOAT32, x.shape, x.tobytes()
    levels, multiplier = quantised(x)
    laid = levels if name == "Wemb" else levels.T
    return INT8, x.shape, laid.tobytes() + multiplier.tobytes()


def _filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % 256)
