"""Trained models on real text: the weights of each attention layer, and the hidden states that it receives.

    weights[l] = the checkpoint's tensors, through one table of `checkpoints`          (our reading of the file)
    hidden[l]  = the input of layer l in a forward pass of the whole trained model     (theirs, on real text)

The files come in Python packages that are located but never imported. Each file is pinned by its SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]

from attention._extras import require
from attention.checkpoints import bert
from attention.checkpoints.trained_packages import PACKAGES, TrainedPackage
from attention.parity.pretrained import texts
from attention.parity.pretrained.package_files import pinned
from attention.spec.errors import ParamError, UnknownName
from attention.spec.layers.multi_head import MultiHeadAttention
from attention.spec.masks import Lengths
from attention.spec.params import Weights

if TYPE_CHECKING:
    from attention.parity.pretrained.huggingface import ForeignLayer


@dataclass(frozen=True)
class RealModel(TrainedPackage):
    """The location of a trained model, its SHA-256, and its tables of names."""

    weights: str
    architecture: str
    """The class of `transformers` that is this model, whose module names are those of the file."""
    weight_map: bert.WeightMap
    scope: str
    """The path of the attention of layer `{layer}`; without a `{layer}`, all layers share it."""
    text: Callable[[Path], texts.Batch]


REAL: Mapping[str, RealModel] = {
    "rxnmapper": RealModel(
        **vars(PACKAGES["rxnmapper"]),
        weights="pytorch_model.bin",
        architecture="AlbertForMaskedLM",
        weight_map=bert.ALBERT,
        scope="albert.encoder.albert_layer_groups.0.albert_layers.0.attention",
        text=texts.reactions,
    ),
    "minilm": RealModel(
        **vars(PACKAGES["minilm"]),
        weights="model.safetensors",
        architecture="BertModel",
        weight_map=bert.BERT,
        scope="encoder.layer.{layer}.attention",
        text=texts.sentences,
    ),
}
"""The trained models, by the name that `attention verify --real` takes."""


@dataclass(frozen=True, eq=False)
class RealLayer:
    """One attention layer of a trained model, with what it saw."""

    model: str
    layer: int
    contract: MultiHeadAttention
    weights: Weights = field(repr=False)
    """Canonical, float32."""
    hidden: np.ndarray = field(repr=False)
    """`(B, S, M)` float32; query, key and value at once."""
    lengths: np.ndarray
    """`(B,)`, tokens of each row that are real; the rest is padding."""
    tokens: tuple[tuple[str, ...], ...] = field(repr=False)
    """The real tokens, row by row: those at the index of a worst element."""
    theirs: ForeignLayer = field(repr=False)

    @property
    def mask(self) -> Lengths:
        """The padding, as the layer's call takes it."""
        return Lengths(kv=self.lengths)

    @property
    def padding(self) -> int:
        """The number of padded positions of the batch."""
        return self.hidden.shape[0] * self.hidden.shape[1] - int(self.lengths.sum())

    def foreign(self, cotangent: np.ndarray, dtype: str = "float64", implementation: str = "eager") -> Weights:
        """Return the outputs of this layer's attention module in `transformers`, under canonical names.

        Args:
            cotangent: `(B, S, M)`; the gradients are those of `sum(output * cotangent)`.
            dtype: `"float32"` or `"float64"`.
            implementation: `"eager"` or `"sdpa"`, which of their kernels.

        Returns:
            `"output"`, `"d query"` (the gradient in `hidden` as query, key and value at once), and for each parameter
            `"d q_proj.kernel"` and so on, in the canonical layout; all in `dtype`.
        """
        weight_map = REAL[self.model].weight_map
        run = self.theirs.run(cotangent, weight_map.output, dtype, implementation)
        grads = bert.read(run.d_tensors, weight_map, self.contract)
        return {"output": run.output, "d query": run.d_hidden, **{f"d {name}": grad for name, grad in grads.items()}}


def layers(name: str) -> list[RealLayer]:
    """Return every attention layer of the real model called `name`, in order.

    Raises:
        UnknownName: there is no such model.
        MissingExtra: its package, or `transformers`, is not installed.
        FileError: a file is not the pinned one.
        ParamError: our reading of the weights and that of `transformers` differ.
    """
    model, folder, config = _configured(name)
    # It takes seconds to import transformers, and a listing of REAL needs none of it.
    from attention.parity.pretrained import huggingface  # noqa: PLC0415

    contract, batch = bert.contract(config), model.text(folder)
    scopes = [model.scope.format(layer=layer) for layer in range(config["num_hidden_layers"])]
    tensors = checkpoint(folder / model.weights)
    theirs = huggingface.forward(folder, model.architecture, scopes, batch.ids, batch.lengths)
    found: list[RealLayer] = []
    for number, (scope, foreign) in enumerate(zip(scopes, theirs, strict=True)):
        weights = bert.read(tensors, model.weight_map, contract, at=f"{scope}.")
        _agree(scope, weights, bert.read(foreign.tensors(), model.weight_map, contract))
        found.append(RealLayer(name, number, contract, weights, foreign.hidden, batch.lengths, batch.tokens, foreign))
    return found


def check_installed(name: str) -> None:
    """Check that the real model called `name` could be loaded, without loading it.

    Raises:
        UnknownName: there is no such model.
        MissingExtra: its package, or `transformers`, is not installed.
        FileError: a file is not the pinned one.
    """
    _ = _configured(name)


def _configured(name: str) -> tuple[RealModel, Path, dict[str, Any]]:
    """Return a real model, its folder and its configuration, having checked that all is there to load it."""
    if name not in REAL:
        raise UnknownName.among("real model", name, REAL)
    model = REAL[name]
    folder = find(model)
    for framework, extra in (("transformers", "real"), ("torch", "torch")):
        require(framework, extra=extra, wanted_by=f"real model {name!r}")
    return model, folder, json.loads((folder / "config.json").read_text(encoding="utf-8"))


def find(model: RealModel) -> Path:
    """Return the folder of `model`, after all its files are verified. The package is not imported.

    Raises:
        MissingExtra: the package is not installed.
        FileError: a file is absent, or its sha256 is another.
    """
    return pinned(f"real model {model.name!r}", model.folder, model.digests, model.install)


def checkpoint(file: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a `.safetensors` file, or of a torch `.bin`, by name."""
    if file.suffix == ".safetensors":
        return load_file(file)
    # Only the old format needs torch.
    import torch  # noqa: PLC0415

    # rxnmapper was saved from a GPU; weights_only keeps the pickle from running code.
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _agree(scope: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    # Compared as bytes, for 0.0 == -0.0 and NaN != NaN.
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    if different:
        raise ParamError(f"{scope}: our reading of {', '.join(different)} must be that of transformers, bit for bit")
