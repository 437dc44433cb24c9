"""A small valid file of every format that this package reads, and its reader, for `hostile_files`."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import attention
from attention import spec
from attention.checkpoints import llama, weight_map
from attention.cli.loading import load_inputs
from attention.parity import exported_cases
from attention.parity.compare import recorded_contracts, recorded_model, recording_file, replayed_program
from attention.parity.exported_cases.file_format import FORMAT, INDEX, VERSION, Entry, Index
from attention.parity.param_mapping.block_moves import Block, Move
from attention.parity.param_mapping.param_map import ParamMap
from attention.spec import files
from attention.spec.kernels import tuning
from examples.checkpoint_readers import ctranslate2, gguf, marian
from examples.checkpoint_readers.ctranslate2 import Model
from parity_tests.support import marian_files
from parity_tests.support.hostile_files import Format

PLAIN = spec.MultiHeadAttention(
    4, 2, mask=spec.Causal() & ~spec.Window(2, 0) | spec.Prefix(1), positions=spec.Rotary(scaling=spec.YarnScaling(2.0, 8))
)
LONG = spec.MultiHeadAttention(8, 2, positions=spec.Rotary(scaling=spec.LongRopeScaling((1.0, 1.0), (2.0, 4.0), 8, factor=2.0)))
BIASED = spec.MultiHeadAttention(4, 2, positions=spec.RelativeBias(8, 16), qk_norm=spec.RMSNorm(), sinks=True)
STACK = spec.Encoder(spec.EncoderBlock(spec.MultiHeadAttention(4, 2), spec.FeedForward(4, 6)), 2, spec.LayerNorm())
CONTRACTS: dict[str, spec.MultiHeadAttention | spec.Encoder | spec.LatentAttention | spec.AlignmentAttention] = {
    "plain": PLAIN,
    "longrope": LONG,
    "biased": BIASED,
    "encoder": STACK,
    "latent": spec.LatentAttention(6, 2, 4, 3, 2, 5),
    "alignment": spec.AlignmentAttention(3, 5, score=spec.Additive(4)),
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}


def header_text(data: bytes) -> str:
    """Return the JSON of a safetensors header."""
    return data[8 : 8 + int.from_bytes(data[:8], "little")].decode()


def with_header(data: bytes, text: str) -> bytes:
    """Return a safetensors file with another header."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data[8 + int.from_bytes(data[:8], "little") :]


def metadata(name: str) -> tuple[Callable[[bytes], str], Callable[[bytes, str], bytes]]:
    """Return how to take a text out of a header's metadata, and how to put another in."""

    def put(data: bytes, text: str) -> bytes:
        head = json.loads(header_text(data))
        head["__metadata__"][name] = text
        return with_header(data, json.dumps(head))

    return lambda data: json.loads(header_text(data))["__metadata__"][name], put


HEADER = (header_text, with_header)
WHOLE = (bytes.decode, lambda _, text: text.encode("utf-8", "surrogatepass"))


def tensors(name: str, whole: bytes, read: Callable[[Path], object], texts: tuple[Any, ...]) -> Format:
    """Return the format of a safetensors file."""
    return Format(name, whole, read, head=8 + len(header_text(whole)), texts=texts, place="file.safetensors")


def saved(folder: Path) -> list[Format]:
    """Layers that `attention.save` wrote."""
    made: list[Format] = []
    for name, contract in CONTRACTS.items():
        attention.save(folder / name, contract, contract.init(0))
        texts = (HEADER, metadata("contract"), metadata("contract"))
        made.append(tensors(f"layer, {name}", (folder / name).read_bytes(), attention.load, texts))
    return made


def recorded(folder: Path) -> list[Format]:
    """Recordings of a program and of a contract."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = replayed_program.record(lambda x, y, scale: x * scale + y["y"][0], "numpy", {"x": x, "y": {"y": [x]}, "scale": 2.0})
    recording_file.write(folder / "program", found)
    whole = recorded_contracts.record(["dot"], "numpy")
    first, texts = whole.facts["calls"][0], (HEADER, metadata("recording"), metadata("recording"))
    at = f"{first['case']}/{first['probe']}/{first['dtype']}/"
    kept = {name: array for name, array in whole.arrays.items() if name.startswith(at)}
    recording_file.write(folder / "contract", recording_file.Recording("contracts", {**whole.facts, "calls": [first]}, kept))

    def program(path: Path) -> object:
        return replayed_program.replayed(recording_file.read(path))

    def contract(path: Path) -> object:
        return list(recorded_contracts.checked_calls(recording_file.read(path)))

    blocks = {"blocks": [{"path": "a", "calls": 1}], "decoding": [{"split": 1, "padding": [0, 1], "failure": ""}]}
    facts = {"side": "torch", "name": "odd", "call": found.facts["call"], "takes_padding": True, "single": False, **blocks}
    groups = {
        **found.arrays,
        "received/0/x": x,
        "returned/0/output": x,
        "decoding/tokens": x[:, :2].astype(int),
        "decoding/0": x[:, :2],
    }
    recording_file.write(folder / "model", recording_file.Recording("model", facts, groups))

    def model(path: Path) -> object:
        read = recorded_model.recorded_model(path)
        return [read.logits, read.note, [x.sum() for x in read.recording.arrays.values()]]

    return [
        tensors("recording, model", (folder / "model").read_bytes(), model, texts),
        tensors("recording, program", (folder / "program").read_bytes(), program, texts),
        tensors("recording, contract", (folder / "contract").read_bytes(), contract, texts),
    ]


def exported(folder: Path) -> list[Format]:
    """An exported case: its index; and its two files, with the checksums that they have."""
    entry, contract = Entry("mine", "few keys", "float32"), spec.MultiHeadAttention(4, 2)
    x = np.ones((2, 3, 4), np.float32)
    arrays = {"inputs.query": x, **{f"weights.{name}": w for name, w in contract.init(0).items()}}
    arrays |= {"masks.attention": np.ones((2, 2, 3, 3), bool), "oracle.output": x.astype(float), "sigma.output": x / 2.0**20}
    arrays["sigma.output"] = arrays["sigma.output"].astype(float)
    files.write(folder / "arrays", arrays, {})
    facts = {"format": FORMAT, "version": VERSION, "case": entry.case, "probe": entry.probe, "dtype": entry.dtype}
    facts |= {"contract": files.encode(contract), "training": False, "results": ["output"], "notes": ["few"]}
    kept = {entry.files[0]: json.dumps(facts).encode(), entry.files[1]: (folder / "arrays").read_bytes()}

    def index(content: Mapping[str, bytes]) -> bytes:
        sums = {name.rpartition(".")[2]: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        about = {"mine": {"about": "", "source": "", "contract": files.encode(contract)}}
        return Index((Entry("mine", "few keys", "float32", sums),), about, {"numpy": "2"}).to_json().encode()

    def port(given: exported_cases.CaseCall) -> dict[str, np.ndarray]:
        return {"output": given.inputs["query"]}

    def check(root: Path) -> object:
        return exported_cases.check(root, port)

    def of_file(path: Path) -> object:
        root = path.parent.parent
        _ = (root / INDEX).write_bytes(index({name: (root / name).read_bytes() for name in kept}))
        return check(root)

    whole, (facts_at, arrays_at) = index(kept), entry.files
    return [
        Format("exported index", whole, lambda path: check(path.parent), len(whole), (WHOLE,), INDEX, kept),
        Format("exported facts", kept[facts_at], of_file, len(kept[facts_at]), (WHOLE,), facts_at, kept),
        Format("exported arrays", kept[arrays_at], of_file, len(header_text(kept[arrays_at])) + 8, (HEADER,), arrays_at, kept),
    ]


def maps(folder: Path) -> list[Format]:
    """A parameter map with a fused array, a tied one and two left over; and a file of tile sizes."""
    fused = [Block("qkv", (6, 4), (6, 4), ((at, at + 2), (0, 4))) for at in (0, 2, 4)]
    moves = [Move(block, Block.all_of(name, (4, 2)), (2, 4), (1, 0), "names") for block, name in zip(fused, "qkv", strict=True)]
    embed, table = Block.all_of("embed", (5, 4)), Block.all_of("table", (5, 4))
    tied = Move(embed, Block.all_of("head", (5, 4)), (5, 4), (0, 1), "values")
    found = ParamMap((*moves, Move(embed, table, (20,), (0,))), (tied,), (("old",), ("new",)), ("a tie",))
    found.to_json(folder / "map")
    key, path = tuning.Key("torch.blockwise", "cpu", "float32", 64, "causal"), folder / "tiles"

    def tiles(place: Path) -> object:
        # A file that cannot be used is named in a warning and passed over: a guess is as good.
        tuning.forget()
        import warnings  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            tile = tuning.tuned(key, [(8, 8)], lambda _: 1.0, place)
        assert all(0 < n < 2**31 for n in tile)
        return tile

    tuning.keep(path, key, (16, 32), 0.5)
    kept = {"map": ParamMap.from_json, "tiles": tiles}
    return [
        Format(name, whole, read, len(whole), (WHOLE,))
        for name, read in kept.items()
        for whole in [(folder / name).read_bytes()]
    ]


def gguf_text(text: str) -> bytes:
    """Return a text as GGUF stores it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], kinds: Mapping[str, int]) -> bytes:
    """Return a GGUF file of version 3.

    Args:
        options: texts, ints, floats, and lists of texts.
        arrays: float32, or float16; of other kinds the rows of bytes.
        kinds: of the arrays that are neither.
    """

    def value(x: Any) -> bytes:
        if isinstance(x, str):
            return struct.pack("<I", 8) + gguf_text(x)
        if isinstance(x, list):
            return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(gguf_text, x))
        return struct.pack("<Ii", 5, x) if isinstance(x, int) else struct.pack("<If", 6, x)

    head, data = b"GGUF" + struct.pack("<IQQ", 3, len(arrays), len(options)), b""
    head += b"".join(gguf_text(name) + value(x) for name, x in options.items())
    for name, array in arrays.items():
        kind = kinds.get(name, 1 if array.dtype == np.float16 else 0)
        # Q8_0: 34 bytes hold 32 elements.
        shape = (*array.shape[:-1], array.shape[-1] // 34 * 32) if kind == 8 else array.shape
        head += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += array.tobytes() + bytes(-array.nbytes % 32)
    return head + bytes(-len(head) % 32) + data


def gguf_options(config: Mapping[str, Any] = CONFIG, **more: Any) -> dict[str, Any]:
    """Return the options of a file with a config."""
    named = {f"llama.{gguf.NAMES[name]}": value for name, value in config.items() if name in gguf.NAMES}
    options = {"general.architecture": "llama", "general.alignment": 32, "tokenizer.ggml.tokens": ["a", "bc"], **named}
    return {**options, "llama.attention.layer_norm_rms_epsilon": 1e-5, **more}


def gguf_arrays(config: Mapping[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    """Return the arrays of a file with a config, in float32."""
    contract = llama.decoder(config)
    table = gguf.decoder_weight_map(contract.depth)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(param.shape).astype(np.float32) for name, param in contract.params.items()}
    return weight_map.write(weights, table, contract)


def gguf_read(path: Path) -> object:
    """Read a GGUF file to its canonical weights."""
    config, arrays = gguf.read(path)
    contract = gguf.decoder(config)
    return contract, weight_map.read(arrays, gguf.decoder_weight_map(contract.depth), contract)


def converted() -> list[Format]:
    """Files of other programs: GGUF, Marian, CTranslate2."""
    arrays = gguf_arrays()
    halves = {name: x.astype(np.float16) if x.ndim == 2 else x for name, x in arrays.items()}
    eighths = {name: np.zeros((len(x), x.shape[1] // 32 * 34), np.uint8) for name, x in arrays.items() if "attn_q." in name}
    made = [
        ("GGUF, float32", gguf_bytes(gguf_options(), arrays, {})),
        ("GGUF, Q8_0 and float16", gguf_bytes(gguf_options(), {**halves, **eighths}, dict.fromkeys(eighths, 8))),
    ]
    gguf_head = len(made[0][1]) - sum(x.nbytes for x in arrays.values())

    def of_marian(path: Path) -> object:
        found = marian.load(path)
        contract = marian.encoder(found.settings)
        rows = (row for i in range(contract.depth) for row in _renamed(i))
        table = weight_map.WeightMap("Marian encoder", tuple(rows))
        kept = {name: x for name, x in found.tensors.items() if name.startswith("encoder_")}
        return weight_map.read(kept, table, contract)

    def _renamed(i: int) -> tuple[weight_map.Row, ...]:
        return weight_map.under(f"layers.{i}.", f"encoder_l{i + 1}_", marian.ENCODER_LAYER.rows)

    table = ctranslate2.stack(STACK)
    stored = ctranslate2.variables(STACK.init(0), table, STACK, at="encoder/")
    stored["encoder/num_heads"] = np.array(2, np.int16)
    ours = ctranslate2.write(Model("TinySpec", 2, stored, {"tied": "encoder/layer_norm/gamma"}))

    def of_ctranslate2(path: Path) -> object:
        found = ctranslate2.load(path)
        kept = {name: x for name, x in found.variables.items() if name != "encoder/num_heads"}
        return ctranslate2.weights(kept, table, STACK, at="encoder/")

    theirs = marian_files.content(marian_files.tiny())
    return [
        *(Format(name, whole, gguf_read, gguf_head) for name, whole in made),
        Format("Marian", theirs, of_marian, head=6000),
        Format("CTranslate2", ours, of_ctranslate2, len(ours)),
    ]


def inputs(folder: Path) -> list[Format]:
    """Arrays that a command takes, in NumPy's formats."""
    arrays = {"x": np.ones((2, 3), np.float32), "ids": np.arange(3)}
    np.savez(folder / "plain.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    np.save(folder / "array.npy", arrays["x"])
    made = [(name, (folder / name).read_bytes()) for name in ("plain.npz", "packed.npz", "array.npy")]
    return [Format(name, whole, lambda path: load_inputs(str(path)), len(whole), place=name) for name, whole in made]


def formats(folder: Path) -> list[Format]:
    """Return every format; `folder` is where files are made."""
    return [*saved(folder), *recorded(folder), *exported(folder), *maps(folder), *converted(), *inputs(folder)]
