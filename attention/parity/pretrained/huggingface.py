"""Run a trained model in Hugging Face transformers: the whole forward pass, and one attention module alone.

    hidden[l]  the input of the attention of layer l in a forward pass of the whole model
    output     the output projection of that module, before the residual sum and the norm
    gradients  of sum(output * cotangent), by torch autograd through their code

Nothing here reads a canonical weight: names and layouts are theirs, so that the two programs are independent.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import masking_utils
from transformers.utils import logging

from attention.spec.errors import FileError


@dataclass(frozen=True, eq=False)
class Run:
    """The results of `ForeignLayer.run`, in their names and layout."""

    output: np.ndarray
    d_hidden: np.ndarray
    d_tensors: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ForeignLayer:
    """One attention layer of a `transformers` model, with what it received when the whole model ran."""

    module: nn.Module
    config: Any
    hidden: np.ndarray
    """`(B, S, M)` float32."""
    lengths: np.ndarray
    """`(B,)`, tokens of each row that are real; the rest is padding."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the parameters as `transformers` read them."""
        return {name: tensor.detach().numpy() for name, tensor in self.module.named_parameters()}

    def run(self, cotangent: np.ndarray, output: str, dtype: str, implementation: str) -> Run:
        """Return the output and the gradients of `sum(output * cotangent)`.

        Args:
            cotangent: `(B, S, M)`.
            output: where in the module its output projection is: `"output.dense"`.
            dtype: `"float32"` or `"float64"`, in which everything is computed.
            implementation: `"eager"` or `"sdpa"`, which of their kernels.
        """
        number = getattr(torch, dtype)
        # One deepcopy of both keeps them tied, and leaves the model as loaded for the next call.
        module, config = copy.deepcopy((self.module, self.config))
        _ = module.to(number)
        # The one switch that transformers' modules and masks both read.
        config._attn_implementation = implementation  # noqa: SLF001
        hidden = torch.tensor(self.hidden, dtype=number, requires_grad=True)
        caught = _projected(module, output, hidden, _mask(config, hidden, self.lengths))
        names, params = zip(*module.named_parameters(), strict=True)
        loss = (caught * torch.tensor(cotangent, dtype=number)).sum()
        # The norm after the projection does not run: its gradients are zeros.
        grads = torch.autograd.grad(loss, (hidden, *params), materialize_grads=True)
        d_hidden, *d_params = (grad.numpy() for grad in grads)
        return Run(caught.detach().numpy(), d_hidden, dict(zip(names, d_params, strict=True)))


def _projected(module: nn.Module, output: str, hidden: Tensor, mask: Tensor | None) -> Tensor:
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _args: object, projected: Tensor) -> None:
        caught.append(projected)

    # Never removed, for the module is a copy that is dropped after this one call.
    _ = module.get_submodule(output).register_forward_hook(catch)
    _ = module(hidden, attention_mask=mask)
    return caught[0]


def forward(folder: Path, architecture: str, scopes: Sequence[str], ids: np.ndarray, lengths: np.ndarray) -> list[ForeignLayer]:
    """Return the attention layers with what each received, in one forward pass of the whole model on `ids`.

    Args:
        folder: where the model's `config.json` and weights are.
        architecture: the class of `transformers` that loads it.
        scopes: where each layer's attention module is; layers that share one name it again.
        ids: `(B, S)` token numbers.
        lengths: `(B,)` real tokens of each row.

    Raises:
        FileError: the file lacks weights that the architecture wants.
    """
    model = _load(folder, architecture)
    modules = [model.get_submodule(scope) for scope in scopes]
    caught: list[np.ndarray] = []
    with contextlib.ExitStack() as stack, torch.no_grad():
        for module in dict.fromkeys(modules):
            hook = module.register_forward_pre_hook(lambda _module, args: caught.append(args[0].numpy().copy()))
            _ = stack.callback(hook.remove)
        _ = model(input_ids=torch.tensor(ids), attention_mask=_real(lengths, ids.shape[1]))
    return [ForeignLayer(m, model.config, hidden, lengths) for m, hidden in zip(modules, caught, strict=True)]


def _load(folder: Path, architecture: str) -> nn.Module:
    with _quiet():
        model, info = getattr(transformers, architecture).from_pretrained(
            folder, local_files_only=True, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
    # transformers fills a missing weight with random numbers and only logs it.
    if info["missing_keys"] or info["mismatched_keys"]:
        faults = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
        raise FileError(f"{folder} must hold every weight of {architecture}; missing or misshapen: {', '.join(faults)}")
    return model.eval()


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    # Its progress bars and load report would mix with our output; the checks of the report run after loading.
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _real(lengths: np.ndarray, width: int) -> Tensor:
    return torch.tensor(np.arange(width) < lengths[:, None], dtype=torch.int64)


def _mask(config: Any, hidden: Tensor, lengths: np.ndarray) -> Tensor | None:
    real = _real(lengths, hidden.shape[1])
    # transformers types this function only in part.
    create = cast("Callable[..., Tensor | None]", masking_utils.create_bidirectional_mask)  # pyright: ignore[reportUnknownMemberType]
    return create(config=config, inputs_embeds=hidden, attention_mask=real)
