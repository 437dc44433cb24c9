"""Print a parameter map block by block, and as the mapping of names that `match` and `compare` take.

layers.{0..11}    12 blocks
  attn.q.weight (8, 8)    ->    blocks_{i}.query.kernel (8, 8)    transposed    by values
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention.parity.param_mapping.block_moves import Move
    from attention.parity.param_mapping.param_map import ParamMap

_NUMBER = re.compile(r"\d+")


def table(found: ParamMap) -> str:
    """Return a table of a map: what was matched how, with what is alike in several layers on one line."""
    blocks: dict[str, dict[tuple[str, str, str, str], list[Move]]] = {}
    for move in found.every:
        block, name = _block(move.first.name)
        key = (name, _numberless(move.second.name), _NUMBER.sub("#", move.words), _numberless(move.evidence))
        blocks.setdefault(block, {}).setdefault(key, []).append(move)
    lines: list[str] = []
    for block, rows in blocks.items():
        lines.append(block or "(outside all blocks)")
        cells = [
            (f"{key[0]} {m[0].first.shape}", f"{key[1]} {m[0].second.shape}", m[0].words, key[3], len(m))
            for key, m in rows.items()
        ]
        wide = [max(len(str(row[column])) for row in cells) for column in range(3)]
        lines += [
            f"  {a:{wide[0]}}  ->  {b:{wide[1]}}   {c:{wide[2]}}   by {d or 'its name'}{f'   {n} times' if n > 1 else ''}"
            for a, b, c, d, n in cells
        ]
    for side, names in zip(("first", "second"), found.left_over, strict=True):
        lines += [f"left over in the {side}: {', '.join(names)}"] if names else []
    return "\n".join([*lines, *(f"tie: {tie}" for tie in found.ties), *(f"open: {each}" for each in found.open)])


def _block(name: str) -> tuple[str, str]:
    """Return the block that a parameter is of, numbers aside, and its name within."""
    number = _NUMBER.search(name)
    end = name.find(".", number.end()) if number else -1
    return (_numberless(name[:end]), _numberless(name[end + 1 :])) if end >= 0 else ("", _numberless(name))


def _numberless(name: str) -> str:
    return _NUMBER.sub("{i}", name)


def snippet(found: ParamMap) -> str:
    """Return a map as a mapping of names, to be corrected by hand and given to `match` or `compare`."""
    into: dict[str, list[Move]] = {}
    for move in found.moves:
        into.setdefault(move.first.name, []).append(move)
    open_names = {name for line in found.open for name in into if name in line}
    lines = [f"{name!r}: {_line(moves)}" for name, moves in into.items() if not open_names or name in open_names]
    lines += [f"{name!r}: ..." for name in found.left_over[0]] if all(found.left_over) else []
    return "{" + ", ".join(lines) + "}"


def _line(moves: list[Move]) -> str:
    if len(moves) > 1:
        return repr([move.second.name for move in moves])
    turned = moves[0].order == (1, 0) and moves[0].first.whole and moves[0].second.whole
    return repr((moves[0].second.name, "transpose") if turned else moves[0].second.name)
