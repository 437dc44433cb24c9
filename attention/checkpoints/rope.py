"""Rotary positions from a transformers `config.json`: `rope_parameters`, or the older `rope_theta` and `rope_scaling`.

    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, ...}}        since transformers 5
    {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", "factor": 8.0, ...}}                before

Features are paired as halves; Meta's code pairs neighbours, and converted checkpoints have their rows permuted.

References:
    transformers.modeling_rope_utils, version 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attention.checkpoints.config import Config, any_number, count, get, inner, number, number_or, numbers, switch, word
from attention.spec.errors import OptionError
from attention.spec.positions import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rotary,
    Scaling,
    YarnScaling,
)


def rotary(config: Config, head_dim: int, style: str = "half", base: float = 10_000.0) -> Rotary:
    """Return the rotary positions of a config.

    Args:
        config: the parsed file.
        head_dim: D; a `partial_rotary_factor` rotates the first part.
        style: which features form a pair.
        base: the family's, where the config gives none.

    Raises:
        OptionError: a kind of scaling that is not known here, or one that lacks a number.
    """
    given = parameters(config)
    part = any_number(given, "partial_rotary_factor") or any_number(config, "partial_rotary_factor") or 1.0
    if not 0 < part <= 1:
        raise OptionError(f"config partial_rotary_factor {part} must be above 0 and at most 1")
    width = int(head_dim * part)
    theta = any_number(given, "rope_theta") or any_number(config, "rope_theta") or base
    return Rotary(theta, style, None if width == head_dim else width, SCALINGS[kind_of(config)](given, config))


def parameters(config: Config) -> Config:
    """Return the rotary parameters of the config by their present names; empty if there are none.

    Raises:
        OptionError: the parameters are by layer type, as in Gemma 3, or not a mapping.
    """
    given = inner(config, "rope_parameters") or inner(config, "rope_scaling")
    for name, value in given.items():
        if isinstance(value, Mapping):
            raise OptionError(f"rope_parameters {name} must be a number or a word: those of one layer type are read here")
    return given


def kind_of(config: Config) -> str:
    """Return the kind of scaling, "default" for none.

    Raises:
        OptionError: a kind that is not known here.
    """
    given = parameters(config)
    kind = next((given[name] for name in ("rope_type", "type") if get(given, name) is not None), "default")
    return word({"rope_type": kind}, "rope_type", tuple(SCALINGS))


def _factor(given: Config, config: Config) -> float:
    if get(given, "factor") is not None:
        return number(given, "factor")
    return count(config, "max_position_embeddings") / _original(given, config)


def _original(given: Config, config: Config) -> int:
    """Return the training length before scaling."""
    name = "original_max_position_embeddings"
    for place in (given, config):
        if get(place, name) is not None:
            return count(place, name)
    return count(config, "max_position_embeddings")


def _linear(given: Config, config: Config) -> LinearScaling:
    del config
    return LinearScaling(number(given, "factor"))


def _dynamic(given: Config, config: Config) -> DynamicNTKScaling:
    return DynamicNTKScaling(number(given, "factor"), count(config, "max_position_embeddings"))


def _yarn(given: Config, config: Config) -> YarnScaling:
    return YarnScaling(
        _factor(given, config),
        _original(given, config),
        beta_fast=number_or(given, "beta_fast", 0) or 32.0,
        beta_slow=number_or(given, "beta_slow", 0) or 1.0,
        attention_factor=any_number(given, "attention_factor"),
        # 0 means None for these two.
        mscale=any_number(given, "mscale") or None,
        mscale_all_dim=any_number(given, "mscale_all_dim") or None,
        truncate=switch(given, "truncate", absent=True),
    )


def _llama3(given: Config, config: Config) -> Llama3Scaling:
    low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
    return Llama3Scaling(number(given, "factor"), low, high, _original(given, config))


def _longrope(given: Config, config: Config) -> LongRopeScaling:
    return LongRopeScaling(
        numbers(given, "short_factor"),
        numbers(given, "long_factor"),
        _original(given, config),
        factor=_factor(given, config),
        attention_factor=any_number(given, "attention_factor"),
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
