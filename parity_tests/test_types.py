"""Types of calls: pyright infers what `layer(x)` and `dot_product_attention` return, with intermediates, caches and states.

reveal_type(call) = wanted        by pyright on a program of one line for each call
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parity_tests.support.absent import needs

pytestmark = needs("torch", "jax")

HEADER = """
from typing import Any
import jax
import torch
from attention import jax_impl, spec, torch_impl
def calls(x: {array}, names: tuple[str, ...], cache: {backend}.StaticCache, any_mask: Any) -> None:
    layer = {backend}.MultiHeadAttention(spec.MultiHeadAttention(8, 2))
    latent = {backend}.LatentAttention(spec.LatentAttention(8, 2, 4, 2, 2, 2))
    aligned = {backend}.AlignmentAttention(spec.AlignmentAttention(8))
    differential = {backend}.DifferentialAttention(spec.DifferentialAttention(8, 1, 1))
    linear = {backend}.LinearAttention(spec.LinearAttention(8, 2))
    mlp = {backend}.FeedForward(spec.FeedForward(8, 4))
    block = {backend}.EncoderBlock(spec.EncoderBlock(spec.MultiHeadAttention(8, 2), spec.FeedForward(8, 4)))
    attend = {backend}.dot_product_attention
    fast = {backend}.compiled(layer)
"""

CALLS = {
    "attend(x, x, x)": "{A}",
    "attend(x, x, x, mask=any_mask, scale=1.0)": "{A}",
    'attend(x, x, x, return_intermediates=("weights",))': "tuple[{A}, dict[str, {A}]]",
    "attend(x, x, x, return_intermediates=names)": "{A} | tuple[{A}, dict[str, {A}]]",
    "layer(x)": "{A}",
    "layer(x, x, x, mask=spec.Causal())": "{A}",
    'layer(x, return_intermediates=("weights",))': "tuple[{A}, dict[str, {A}]]",
    "layer(x, cache=cache)": "tuple[{A}, StaticCache]",
    'layer(x, cache=cache, return_intermediates=("weights", "scores"))': "tuple[{A}, dict[str, {A}], StaticCache]",
    "latent(x)": "{A}",
    "latent(x, cache=cache)": "tuple[{A}, StaticCache]",
    "aligned(x, x)": "tuple[{A}, {A}]",
    'aligned(x, x, return_intermediates=("scores",))': "tuple[{A}, {A}, dict[str, {A}]]",
    "differential(x)": "{A}",
    'differential(x, return_intermediates=("weights",))': "tuple[{A}, dict[str, {A}]]",
    "linear(x)": "{A}",
    "linear(x, return_state=True)": "tuple[{A}, {A}]",
    "linear(x, state=x)": "tuple[{A}, {A}]",
    "mlp(x)": "{A}",
    "block(x, mask=spec.Causal())": "{A}",
    "fast(x, mask=spec.Causal())": "{A}",
    'fast(x, return_intermediates=("weights",))': "tuple[{A}, dict[str, {A}]]",
}
"""The type of each call; {A} is the array type of the backend."""

WRONG = ("layer(x, return_stages=())", "attend(x, x, x, masks=None)", "linear(x, cache=cache)", "fast(x, masks=None)")
"""Calls with an argument that does not exist."""


def checked(folder: Path, backend: str, array: str) -> tuple[list[str], set[int]]:
    """Return the revealed type of each call, in order, and the lines with an error, counted from the first wrong call."""
    lines = [f"    reveal_type({call})" for call in CALLS] + [f"    {call}" for call in WRONG]
    header = HEADER.format(array=array, backend=backend)
    path = folder / "program.py"
    _ = path.write_text(header + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", str(path)]
    root = Path(__file__).parents[1]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False, cwd=root).stdout)
    said = found["generalDiagnostics"]
    revealed = [each["message"].split(' is "')[1].rstrip('"') for each in said if each["severity"] == "information"]
    first = header.count("\n") + len(CALLS)
    return revealed, {each["range"]["start"]["line"] - first for each in said if each["severity"] == "error"}


@pytest.mark.parametrize(
    ("backend", "array", "shown"), [("torch_impl", "torch.Tensor", "Tensor"), ("jax_impl", "jax.Array", "Array")]
)
def test_the_type_of_every_call_is_known(backend: str, array: str, shown: str, tmp_path: Path) -> None:
    _ = pytest.importorskip("pyright", reason="the types are checked by pyright: pip install '.[dev]'")
    revealed, errors = checked(tmp_path, backend, array)
    assert dict(zip(CALLS, revealed, strict=True)) == {call: wanted.format(A=shown) for call, wanted in CALLS.items()}
    assert errors == set(range(len(WRONG)))
