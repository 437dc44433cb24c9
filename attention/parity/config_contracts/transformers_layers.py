"""The attention layers of a transformers model, each with the contract that the model's config gives.

    found, notes = layers(LlamaForCausalLM(config))        found[0].path == "model.layers.0.self_attn"

A layer is recognised by its parameters: those of the family's table, and no others. transformers is not imported.
"""

# Modules come from users, with types that strict mode cannot know.
# pyright: standard

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attention.checkpoints.families import FAMILIES
from attention.checkpoints.weight_map import WeightMap
from attention.spec.errors import AttentionError
from attention.spec.layers.multi_head import MultiHeadAttention

PACKAGE = "transformers."


@dataclass(frozen=True, eq=False)
class Layer:
    """One attention of a transformers model.

    Attributes:
        path: of its module.
        kind: the "model_type" of its config.
        contract: of the config.
        weight_map: the table of its parameters.
    """

    path: str
    kind: str
    contract: MultiHeadAttention
    weight_map: WeightMap

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of its parameters, within its module."""
        return tuple(self.weight_map.tensors(self.contract.params))

    @property
    def output(self) -> str:
        """The submodule that returns its output, if a norm follows in the module; "" if the module itself returns it."""
        return self.weight_map.output if any("norm" in name.lower() for name in self.weight_map.ignored) else ""


def inside(path: str, name: str) -> bool:
    """Return whether a module or a parameter lies within the module of a path, "" for the model itself."""
    return name.startswith(f"{path}.") if path else bool(name)


def is_theirs(model: object) -> bool:
    """Return whether modules of transformers are within a torch module."""
    modules = getattr(model, "modules", None)
    if not hasattr(model, "named_parameters") or not callable(modules):
        return False
    return any(type(module).__module__.startswith(PACKAGE) for module in modules())  # type: ignore[union-attr]


def layers(model: Any) -> tuple[list[Layer], list[str]]:
    """Return the attention layers whose contract a config gives, and a line for each unsupported family.

    Args:
        model: an `nn.Module`.
    """
    found: list[Layer] = []
    refused: dict[str, None] = {}
    configs = {path: config for path, module in model.named_modules() if (config := _config(module)) is not None}
    for path, module in model.named_modules():
        if not type(module).__module__.startswith(PACKAGE) or any(inside(layer.path, path) for layer in found):
            continue
        config = _nearest(configs, path)
        family = FAMILIES.get(str(config.get("model_type"))) if config is not None else None
        names = {name for name, _ in module.named_parameters()}
        if config is None or family is None or f"{family.weight_map.output}.weight" not in names:
            continue
        try:
            contract = family.contract(config, _number(module, path))
        except AttentionError as error:
            refused[f"the config of {config['model_type']} gives no contract: {error}"] = None
            continue
        if names - family.weight_map.ignored == set(family.weight_map.tensors(contract.params)):
            found.append(Layer(path, str(config["model_type"]), contract, family.weight_map))
    return found, list(refused)


def _config(module: Any) -> Mapping[str, Any] | None:
    """Return the config that a module holds, as data."""
    config: Any = getattr(module, "config", None)
    if not type(config).__module__.startswith(PACKAGE) or not hasattr(config, "to_dict"):
        return None
    return config.to_dict()


def _nearest(configs: Mapping[str, Mapping[str, Any]], path: str) -> Mapping[str, Any] | None:
    """Return the config of a module, or of the innermost module around it that has one."""
    while path not in configs:
        if not path:
            return None
        path = path.rpartition(".")[0]
    return configs[path]


def _number(module: Any, path: str) -> int:
    """Return the number of a layer in its model: the module's own, else the last number of its path."""
    own = getattr(module, "layer_idx", None)
    if isinstance(own, int):
        return own
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", f".{path}.")
    return int(numbers[-1]) if numbers else 0
