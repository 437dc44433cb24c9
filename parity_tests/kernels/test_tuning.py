"""Tuning: a tile is kept for the machine and versions that measured it, and never changes a result.

tile_for(key, default) = what was kept for the key, else the default
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

from attention.spec.errors import FileError, OptionError
from attention.spec.kernels import tuning
from attention.spec.kernels.tuning import Key, Tile, keep, tile_for, tuned, versions

DEFAULT = (512, 512)
KEY = Key("jax.blockwise", "cpu", "float32", 64, "causal")
TIMES = {(256, 256): 3.0, (512, 1024): 2.0, (1024, 1024): inf}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of tiles that this process reads, and nobody else's."""
    file = tmp_path / "cache" / "tiles.json"
    monkeypatch.setenv("ATTENTION_TUNING", str(file))
    tuning.forget()
    return file


def asked(key: Key = KEY) -> Tile:
    return tile_for(key.kernel, key.device, key.dtype, key.width, key.mask, DEFAULT)


def measure(times: dict[Tile, float], calls: list[Tile]) -> Callable[[Tile], float]:
    def seconds(tile: Tile) -> float:
        calls.append(tile)
        return times[tile]

    return seconds


class TestLaws:
    def test_what_nobody_measured_is_the_default(self, path: Path) -> None:
        assert asked() == DEFAULT
        assert not path.exists()

    def test_the_fastest_is_kept_and_not_measured_again(self, path: Path) -> None:
        calls: list[Tile] = []
        assert tuned(KEY, TIMES, measure(TIMES, calls)) == (512, 1024)
        assert calls == list(TIMES)
        assert tuned(KEY, TIMES, measure(TIMES, calls)) == (512, 1024)
        assert calls == list(TIMES)
        assert asked() == (512, 1024)
        # As a new process reads it.
        tuning.forget()
        assert asked() == (512, 1024)
        assert [file.name for file in path.parent.iterdir()] == ["tiles.json"]

    @pytest.mark.parametrize(
        "other",
        [
            Key("torch.blockwise", "cpu", "float32", 64, "causal"),
            Key("jax.blockwise", "NVIDIA H200", "float32", 64, "causal"),
            Key("jax.blockwise", "cpu", "bfloat16", 64, "causal"),
            Key("jax.blockwise", "cpu", "float32", 128, "causal"),
            Key("jax.blockwise", "cpu", "float32", 64, "window"),
        ],
        ids=str,
    )
    def test_a_tile_counts_for_its_own_key_alone(self, other: Key, path: Path) -> None:
        del path
        _ = tuned(KEY, [(64, 128)], lambda _: 1.0)
        assert (asked(), asked(other)) == ((64, 128), DEFAULT)
        _ = tuned(other, [(32, 32)], lambda _: 1.0)
        assert (asked(), asked(other)) == ((64, 128), (32, 32))

    @pytest.mark.parametrize("package", ["attention", "jax"])
    def test_another_version_finds_nothing(self, package: str, path: Path) -> None:
        _ = tuned(KEY, [(64, 128)], lambda _: 1.0)
        content = json.loads(path.read_text())
        (entry,) = content["entries"].values()
        assert entry["versions"] == versions("jax.blockwise")
        entry["versions"][package] = "0.0.0"
        _ = path.write_text(json.dumps(content))
        tuning.forget()
        assert asked() == DEFAULT

    def test_off_reads_and_writes_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _ = tuned(KEY, [(64, 128)], lambda _: 1.0)
        monkeypatch.setenv("ATTENTION_TUNING", "off")
        assert asked() == DEFAULT
        assert tuned(KEY, [(32, 32)], lambda _: 1.0) == (32, 32)
        monkeypatch.setenv("ATTENTION_TUNING", str(path))
        assert asked() == (64, 128)

    def test_the_file_of_a_user_lies_in_the_cache_folder(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        del path
        monkeypatch.setenv("XDG_CACHE_HOME", "/of/mine")
        assert tuning.place("") == tuning.place(None) == Path("/of/mine/attention/tiles.json")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/me")
        for platform, folder in (("linux", "/home/me/.cache"), ("darwin", "/home/me/Library/Caches")):
            monkeypatch.setattr("sys.platform", platform)
            assert tuning.place("") == Path(folder) / "attention" / "tiles.json"
        assert (tuning.place("OFF"), tuning.place("mine.json")) == (None, Path("mine.json"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "is no readable JSON"),
            ("[]", "has no header"),
            ('{"format": "attention tiles", "version": 2, "entries": {}}', "has no header"),
            ('{"format": "attention tiles", "version": 1}', "holds entries without a tile"),
            *(
                (json.dumps({**tuning.FORMAT, "entries": {"k": entry}}), "holds entries without a tile of two counts")
                for entry in ([], {"tile": [64, 64]}, *({"tile": t, "versions": {}} for t in ([64], [0, 64], [64, 1.5], "ab")))
            ),
        ],
    )
    def test_a_file_that_is_not_ours_is_passed_over_with_a_note(self, text: str, reason: str, path: Path) -> None:
        path.parent.mkdir()
        _ = path.write_text(text)
        with pytest.warns(UserWarning, match=f"tile sizes in .* are ignored, for the file {reason}"):
            assert asked() == DEFAULT
        # Once in a process.
        assert asked() == DEFAULT

    def test_a_file_that_is_not_ours_is_written_anew(self, path: Path) -> None:
        path.parent.mkdir()
        _ = path.write_text("{")
        with pytest.warns(UserWarning, match="no readable JSON"):
            assert tuned(KEY, TIMES, lambda tile: TIMES[tile]) == (512, 1024)
        assert asked() == (512, 1024)

    def test_no_candidate_that_runs_is_an_error(self, path: Path) -> None:
        text = r"candidates \[\(8, 8\)\] must hold a tile with which jax.blockwise, .* D 64, mask causal runs"
        with pytest.raises(OptionError, match=text):
            _ = tuned(KEY, [(8, 8)], lambda _: inf)
        assert not path.exists()

    def test_a_path_that_cannot_be_written_is_an_error_and_leaves_no_part(self, tmp_path: Path, path: Path) -> None:
        del path
        (tmp_path / "tiles.json").mkdir()
        kept: Any = tmp_path / "tiles.json"
        with pytest.raises(FileError, match=r"tiles.json' must be writable"), pytest.warns(UserWarning, match="ignored"):
            keep(kept, KEY, (8, 8), 1.0)
        assert [file.name for file in tmp_path.iterdir()] == ["tiles.json"]
