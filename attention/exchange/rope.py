"""Rotary positions as a `config.json` of transformers describes them, the present form and the older one.

    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, ...}}        since transformers 5
    {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0, ...}}                before

Features are paired as halves, whatever Meta's own code did: converted checkpoints have their rows permuted for it.

References:
    transformers.modeling_rope_utils, version 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attention.spec.errors import OptionError
from attention.spec.positions import DynamicNTK, Linear, Llama3, LongRope, Rotary, Scaling, Yarn

Config = Mapping[str, Any]


def need(config: Config, name: str) -> Any:
    """Return what the config says, which has no default.

    Raises:
        OptionError: it says nothing.
    """
    if config.get(name) is None:
        raise OptionError(f"config {name} None must be given")
    return config[name]


def rotary(config: Config, head_dim: int, style: str = "half", base: float = 10_000.0) -> Rotary:
    """Return the rotary positions of a config.

    Args:
        config: the parsed file.
        head_dim: D, of which a `partial_rotary_factor` turns the first part.
        style: which features form a pair.
        base: the family's, where the config gives none.

    Raises:
        OptionError: a kind of scaling that is not known here, or one that lacks a number.
    """
    given = parameters(config)
    part = given.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    width = int(head_dim * part)
    kind = kind_of(config)
    if kind not in SCALINGS:
        raise OptionError(f"rope_type {kind!r} must be one of {', '.join(map(repr, SCALINGS))}")
    theta = given.get("rope_theta") or config.get("rope_theta") or base
    return Rotary(float(theta), style, None if width == head_dim else width, SCALINGS[kind](given, config))


def parameters(config: Config) -> Config:
    """Return what the config says of its rotary positions, by the present names; empty where nothing."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def kind_of(config: Config) -> str:
    """Return the kind of scaling, "default" for none."""
    given = parameters(config)
    return given.get("rope_type") or given.get("type") or "default"


def _factor(given: Config, config: Config) -> float:
    if given.get("factor") is not None:
        return float(given["factor"])
    return need(config, "max_position_embeddings") / _original(given, config)


def _original(given: Config, config: Config) -> int:
    """Return the length that the model was trained for before it was scaled."""
    own = given.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return own or need(config, "max_position_embeddings")


def _linear(given: Config, config: Config) -> Linear:
    del config
    return Linear(float(need(given, "factor")))


def _dynamic(given: Config, config: Config) -> DynamicNTK:
    return DynamicNTK(float(need(given, "factor")), need(config, "max_position_embeddings"))


def _yarn(given: Config, config: Config) -> Yarn:
    return Yarn(
        _factor(given, config),
        _original(given, config),
        beta_fast=float(given.get("beta_fast") or 32),
        beta_slow=float(given.get("beta_slow") or 1),
        attention_factor=given.get("attention_factor"),
        # A 0 is how these two say None.
        mscale=given.get("mscale") or None,
        mscale_all_dim=given.get("mscale_all_dim") or None,
        truncate=given.get("truncate", True),
    )


def _llama3(given: Config, config: Config) -> Llama3:
    low, high = need(given, "low_freq_factor"), need(given, "high_freq_factor")
    return Llama3(float(need(given, "factor")), float(low), float(high), _original(given, config))


def _longrope(given: Config, config: Config) -> LongRope:
    return LongRope(
        need(given, "short_factor"),
        need(given, "long_factor"),
        _original(given, config),
        factor=_factor(given, config),
        attention_factor=given.get("attention_factor"),
    )


def _unscaled(given: Config, config: Config) -> None:
    del given, config


SCALINGS: dict[str, Callable[[Config, Config], Scaling | None]] = {
    "default": _unscaled,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}
"""The scaling of each `rope_type`."""
