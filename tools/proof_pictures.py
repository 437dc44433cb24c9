"""The pictures and numbers of docs/proof.md: a right and a wrong program within a budget, and two trainings in their envelope.

python -m tools.proof_pictures        writes build/proof/budget.png, envelope.png and numbers.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from matplotlib.figure import Figure

from attention import parity, spec
from attention.parity.numerics.comparison import MOST_MAX

FOLDER = Path(__file__).parents[1] / "build" / "proof"
RIGHT, OTHER, WRONG, SHADE = "#1b4965", "#62929e", "#d1495b", "#cfe3ee"
B, T, H, D = 2, 64, 4, 32
STEPS, SHOWN = 60, "q_proj.kernel"


def attention(q: Any, k: Any, v: Any, extra: float = 0.0) -> Any:
    """Return causal attention whose scale is 1 / sqrt(D + extra)."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(D + extra)
    scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf)
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v)


def outputs() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the float64 output, its sigma, and what three programs make in float32."""
    q, k, v = np.random.default_rng(0).normal(size=(3, B, T, H, D)).astype(np.float32)
    close = parity.tolerances(attention, (q, k, v), gradients=False)["output"]
    first, second, third = (torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(first, second, third, is_causal=True).transpose(1, 2)
    made = {
        "JAX": jax.jit(attention)(q, k, v),
        "torch SDPA": theirs,
        "JAX, scale 1 / sqrt(D + 0.001)": jax.jit(attention)(q, k, v, 1e-3),
    }
    return close.value, close.sigma, {name: np.asarray(x, np.float64) for name, x in made.items()}


def budget() -> list[dict[str, Any]]:
    """Draw how far three programs are off, in units of the budget, and return the numbers."""
    exact, sigma, made = outputs()
    figure = Figure(figsize=(7.2, 3.2), layout="constrained", dpi=150)
    axes = figure.subplots()
    told: list[dict[str, Any]] = []
    for (name, x), color in zip(made.items(), (RIGHT, OTHER, WRONG), strict=True):
        z = np.abs(x - exact) / sigma
        _ = axes.hist(
            np.maximum(z, 1e-3).ravel(), bins=np.geomspace(1e-3, 1e4, 90).tolist(), color=color, alpha=0.6, label=name
        )
        close = bool(np.allclose(x, exact, rtol=1e-3, atol=1e-5))
        told.append({"program": name, "rms": float(np.sqrt(np.mean(z**2))), "max": float(z.max()), "allclose": close})
    _ = axes.axvline(MOST_MAX, color="#3c3c3c", linestyle="--", linewidth=1.0, label="the largest z that agrees")
    axes.set_xscale("log")
    _ = axes.set_xlabel("z = |error| / sigma")
    _ = axes.set_ylabel("elements")
    _ = axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(FOLDER / "budget.png")
    return told


def envelope() -> list[dict[str, Any]]:
    """Draw a right and a wrong training in their envelopes, and return the numbers."""
    contract, step = spec.MultiHeadAttention(16, 2), spec.optimizers.Adam(1e-3)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained", dpi=150)
    told: list[dict[str, Any]] = []
    for axes, (name, brought) in zip(
        figure.subplots(1, 2, sharey=True),
        {"the same Adam": {}, "eps 1e-6 in torch": {"torch": spec.optimizers.Adam(1e-3, eps=1e-6)}}.items(),
        strict=True,
    ):
        training = parity.train(parity.recipe_for(contract, optimizer=step, steps=STEPS, optimizers=brought))
        steps = training.watched + 1
        _ = axes.fill_between(steps, 1e-9, training.envelope[SHOWN], color=SHADE, label="envelope")
        _ = axes.plot(steps, training.apart[SHOWN], color=RIGHT if training.ok else WRONG, label="|torch - JAX|")
        axes.set_yscale("log")
        axes.set_title(f"{name}: {SHOWN}", fontsize=9, loc="left")
        axes.set_xlabel("step")
        _ = axes.legend(fontsize=8, frameon=False, loc="lower right")
        first = training.outside[0] if training.outside else None
        told.append({"run": name, "ok": training.ok, "nearest": training.worst[0].ratio, "first": first and first.step})
    figure.savefig(FOLDER / "envelope.png")
    return told


def main() -> None:
    """Draw both pictures and write the numbers."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = {"budget": budget(), "envelope": envelope()}
    _ = (FOLDER / "numbers.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
