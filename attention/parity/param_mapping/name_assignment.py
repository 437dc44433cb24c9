"""Name assignment: the similarity of parameter names, and the pairing with the largest total similarity.

    alike(a, b) = weight of the words in both / weight of the words in either        1: the same words, 0: none in common

Words are what remains when spelling is taken away: `layers.0.self_attn.to_q.weight` and `blocks_0/attention/wq/kernel` are both
"attn", "q", "weight" and "#0". Numbers count from 0 within the names that differ in them alone, so `norm1` is `LayerNorm_0`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from scipy.optimize import linear_sum_assignment  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

_SAME = {
    "q": "w_qs query queries q_proj query_proj to_q q_lin q_linear",
    "k": "w_ks key keys k_proj key_proj to_k k_lin k_linear",
    "v": "w_vs value values v_proj value_proj to_v v_lin v_linear",
    "q weight": "wq w_q",
    "k weight": "wk w_k",
    "v weight": "wv w_v",
    "o weight": "wo w_o",
    "q bias": "bq b_q",
    "k bias": "bk b_k",
    "v bias": "bv b_v",
    "o bias": "bo b_o",
    "q k v": "qkv in_proj c_attn query_key_value qkv_proj to_qkv in_projection",
    "q k v weight": "wqkv w_qkv",
    "q k v bias": "bqkv b_qkv",
    "k v": "kv kv_proj to_kv wkv key_value",
    "gate up": "gate_up gate_up_proj gating gating_einsum",
    "o": "out output out_proj o_proj to_out attention_output out_lin proj_out",
    "up": "fc1 fc_1 linear1 linear_1 lin1 c_fc up_proj fc_in wi intermediate dense_h_to_4h",
    "down": "fc2 fc_2 linear2 linear_2 lin2 down_proj fc_out dense_4h_to_h",
    "gate": "gate_proj wi_0",
    "norm": "ln layer_norm layernorm rms_norm rmsnorm batch_norm batchnorm group_norm groupnorm bn gn norms",
    "q norm": "query_ln",
    "k norm": "key_ln",
    "attn": "attention self_attn self_attention mha multi_head_attention multihead_attn attentions",
    "mlp": "ffn feed_forward feedforward ff",
    "head": "lm_head classifier logits unembed heads",
    "embed weight": "embedding embeddings",
    "embed": "emb wte embed_tokens tok_embeddings token_embedding word_embeddings tok_emb token",
    "embed type": "token_type_embeddings token_type_embedding token_types token_type type_embeddings type_embedding "
    "segment_embeddings segment_embedding segment_embed",
    "embed pos": "wpe pos_embed pos_embedding position_embeddings position_embedding positional_embedding "
    "pos_emb pos_embeds embed_positions "
    "position positional pos_table",
    "encoder": "enc",
    "decoder": "dec",
    "final": "norm_f ln_f final_norm",
    "weight": "kernel scale gamma w weights",
    "bias": "beta b biases offset",
    "": "proj linear dense model module params param layer layers block blocks h transformer net self _ value_ raw",
}
_WORDS = {spelling: meaning.split() for meaning, spellings in _SAME.items() for spelling in spellings.split()}
_LONGEST = max(spelling.count("_") for spelling in _WORDS) + 1

ROLES = frozenset({"weight", "bias"})
"""Words of which a name means one."""
_APART = (ROLES, frozenset({"q", "k", "v"}), frozenset({"up", "down", "gate"}))
"""Words that exclude one another. "o" excludes none: `output.dense` is the attention's and the feed-forward's alike."""
_WEIGHT = {
    "weight": 2.0,
    "bias": 2.0,
    **dict.fromkeys("qkvo", 3.0),
    "up": 3.0,
    "down": 3.0,
    "gate": 3.0,
    "norm": 2.0,
    "embed": 2.0,
}
UNLIKE = 0.8
"""What it costs two names that their parameters are used for different things: one as a kernel, the other as a table."""
NEVER = -1.0
"""How alike two names are that say they are different things."""


@cache
def _pieces(name: str) -> tuple[str, ...]:
    return tuple(_spelt(name))


def spelt(name: str) -> list[str]:
    """Return the pieces of a name, lower case: at dots, slashes, brackets, underscores, digits and humps.

    Digits inside a word are part of it; those at its end are a number.

    >>> spelt("encoder.layers_0/LayerNorm_1['scale']")
    ['encoder', 'layers', '0', 'layer', 'norm', '1', 'scale']
    >>> spelt("GPT2Block_0.conv1"), spelt("Conv2D_1")
    (['gpt2', 'block', '0', 'conv', '1'], ['conv', '1'])
    """
    return [*_pieces(name)]


def _spelt(name: str) -> list[str]:
    found: list[str] = []
    for token in re.findall(r"[A-Za-z0-9]+", re.sub(r"(?<=[a-z])[123][dD](?![a-z])", "", name)):
        pieces = [(piece[0].lower(), piece.end()) for piece in re.finditer(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", token)]
        before = len(found)
        for piece, end in pieces:
            # A number that letters follow is no count: the 2 of GPT2Block.
            if piece.isdigit() and len(found) > before and token[end : end + 1].isalpha():
                found[-1] += piece
            else:
                found.append(piece)
    return found


@cache
def words(name: str) -> tuple[str, ...]:
    """Return what a name means, spelling aside; numbers stand as they are."""
    pieces, found = spelt(name), list[str]()
    while pieces:
        for length in range(min(_LONGEST, len(pieces)), 0, -1):
            spelling = "_".join(pieces[:length])
            joined = re.sub(r"_(?=\d)", "", spelling)
            meaning = _WORDS.get(spelling, _WORDS.get(joined))
            if meaning is not None or length == 1:
                found += pieces[:1] if meaning is None else meaning
                del pieces[:length]
                break
    # `wq.kernel` says twice that it is a kernel; `b.weight` is no bias: what is said last is meant.
    role = next((word for word in reversed(found) if word in ROLES), "")
    kept = [word for word in found if word not in ROLES or word == role]
    return tuple(word for at, word in enumerate(kept) if word.isdigit() or word not in kept[:at])


def numbered(names: Sequence[str]) -> dict[str, Counter[str]]:
    """Return the words of names, each number counted from 0 among those that the same words lead up to.

    A number that is the same in all these names tells nothing apart, and does not count.
    """
    seen: dict[tuple[str, ...], set[int]] = {}
    for name in names:
        for stem, number in _numbers(words(name)):
            seen.setdefault(stem, set()).add(number)
    place = {stem: {number: at for at, number in enumerate(sorted(numbers))} for stem, numbers in seen.items()}
    found: dict[str, Counter[str]] = {}
    for name in names:
        counts = [place[stem][number] for stem, number in _numbers(words(name)) if len(seen[stem]) > 1]
        said = [word for word in words(name) if not word.isdigit()]
        found[name] = Counter([*said, *(f"#{depth} {count}" for depth, count in enumerate(counts))])
    return found


def described(names: Sequence[str]) -> dict[str, Counter[str]]:
    """Return the words of names as `numbered` does, none of a name that has but numbers: all lists are counted alike."""
    found = numbered(names)
    return {name: said if _worded(said) else Counter() for name, said in found.items()}


def _worded(said: Counter[str]) -> bool:
    return any(not word.startswith("#") for word in said)


def share_a_word(one: Counter[str], other: Counter[str]) -> bool:
    """Return whether two names have more in common than numbers."""
    return _worded(one & other)


def _numbers(found: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    """Return each number with the words before it, in which earlier numbers do not count."""
    return [
        (tuple("#" if word.isdigit() else word for word in found[:at]), int(word))
        for at, word in enumerate(found)
        if word.isdigit()
    ]


def alike(one: Counter[str], other: Counter[str]) -> float:
    """Return how alike two names are: 0 to 1, or `NEVER` where one says bias and the other weight, or q and the other v."""
    for group in _APART:
        ours, theirs = group & one.keys(), group & other.keys()
        if ours and theirs and not ours & theirs:
            return NEVER
    both, either = one & other, one | other
    return _total(both) / max(_total(either), 1.0)


def names_distinguish(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Return whether two names of each program say which is which: what tells one pair apart stands in both of its names.

    >>> names_distinguish(("norm1.weight", "norm2.weight"), ("LayerNorm_1.scale", "LayerNorm_2.scale"))
    True
    >>> names_distinguish(("norm1.weight", "norm2.weight"), ("LayerNorm_0.scale", "LayerNorm_1.scale"))
    False

    Args:
        first: two names of the first program.
        second: those of the second that they are paired with, in this order.
    """
    ours, theirs = (tuple(Counter(words(name)) for name in pair) for pair in (first, second))
    return all((ours[at] - ours[1 - at]) & (theirs[at] - theirs[1 - at]) for at in (0, 1))


def _total(found: Counter[str]) -> float:
    return sum(_WEIGHT.get(word, 2.0 if word.startswith("#") else 1.0) * count for word, count in found.items())


def assign(
    first: Mapping[str, Counter[str]],
    second: Mapping[str, Counter[str]],
    fits: Callable[[str, str], bool],
    unlike: Callable[[str, str], bool] = lambda _one, _other: False,
) -> dict[str, tuple[str, float]]:
    """Return the pairing of names with the greatest sum of likeness, and of each pair how much it is worth.

    The order in which the names stand decides between pairings that are otherwise equal.

    Args:
        first: the words of the first's names, as `numbered` returns them.
        second: those of the second's.
        fits: whether two parameters may be paired at all.
        unlike: whether two are used for different things, which counts against them.
    """
    same = _same(first, second, lambda one, other: fits(one, other) and not unlike(one, other))
    rest = {n: w for n, w in first.items() if n not in same}, {n: w for n, w in second.items() if n not in same.values()}
    pairs = _assigned(*rest, fits, unlike) if all(rest) else {}
    found = {**{name: (other, 1.0) for name, other in same.items()}, **pairs}
    return {name: found[name] for name in first if name in found}


def _same(
    first: Mapping[str, Counter[str]], second: Mapping[str, Counter[str]], fits: Callable[[str, str], bool]
) -> dict[str, str]:
    """Return the pairs of names that mean the very same words, which no other name does."""
    keys: list[dict[frozenset[tuple[str, int]], list[str]]] = [{}, {}]
    for side, found in zip((first, second), keys, strict=True):
        for name, said in side.items():
            found.setdefault(frozenset(said.items()), []).append(name)
    pairs = (
        (names[0], keys[1][key][0]) for key, names in keys[0].items() if key and len(names) == len(keys[1].get(key, ())) == 1
    )
    return {one: other for one, other in pairs if fits(one, other)}


def _assigned(
    first: Mapping[str, Counter[str]],
    second: Mapping[str, Counter[str]],
    fits: Callable[[str, str], bool],
    unlike: Callable[[str, str], bool],
) -> dict[str, tuple[str, float]]:
    score = np.full((len(first), len(second)), NEVER)
    against = np.zeros(score.shape)
    for row, (name, ours) in enumerate(first.items()):
        for column, (other, theirs) in enumerate(second.items()):
            if fits(name, other):
                score[row, column] = alike(ours, theirs)
                against[row, column] = UNLIKE * unlike(name, other)
    names, others = list(first), list(second)
    place = np.abs(np.linspace(0, 1, len(names))[:, None] - np.linspace(0, 1, len(others)))
    # A pair that may not be must cost more than all that could be won by it.
    cost = np.where(score == NEVER, 1e6, -score - 1.0 + against + 1e-3 * place)
    # SciPy, which comes with JAX, says nothing of its types.
    best: list[np.ndarray] = list(linear_sum_assignment(cost))  # pyright: ignore[reportUnknownArgumentType]
    pairs = [(int(row), int(column)) for row, column in zip(*best, strict=True)]
    return {names[row]: (others[column], float(score[row, column])) for row, column in pairs if score[row, column] != NEVER}
