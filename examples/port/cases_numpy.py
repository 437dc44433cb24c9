"""The contract `self` in NumPy, for `attention cases check`: the smallest implementation that can be checked."""

from typing import Any

import numpy as np


def run(given: Any) -> dict[str, np.ndarray]:
    """Return softmax(q k^T / sqrt(D) + bias) v for every head, which has its own key and value.

    Args:
        given: inputs, weights and masks of a call (docs/cases_format.md).
    """
    if given.case != "self":
        raise NotImplementedError(given.case)
    query, mask = given.inputs["query"], given.mask
    key = given.inputs.get("key", query)
    inputs = {"q": query, "k": key, "v": given.inputs.get("value", key)}
    # What no query may read can hold NaN.
    read = {"q": mask.any((1, 3)), "k": mask.any((1, 2)), "v": mask.any((1, 2))}

    def project(n: str) -> np.ndarray:
        x = np.where(read[n][..., None], inputs[n], 0)
        return (np.tensordot(x, given.weights[f"{n}_proj.kernel"], 1) + given.weights[f"{n}_proj.bias"]).swapaxes(1, 2)

    q, k, v = map(project, "qkv")  # (B, H, T or S, D)
    scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(q.shape[-1])) + given.inputs.get("bias", 0)
    scores = np.where(mask, scores, -np.inf)
    # A query without keys has no maximum.
    top = np.where(mask.any(-1), scores.max(-1), 0)[..., None]
    raised = np.exp(scores - top)
    total = raised.sum(-1, keepdims=True)
    weights = raised / np.where(total == 0, 1, total)
    output = np.tensordot((weights @ v).swapaxes(1, 2), given.weights["out_proj.kernel"], 2) + given.weights["out_proj.bias"]
    with np.errstate(divide="ignore"):
        made = {"output": output, "weights": weights, "logsumexp": (top + np.log(total))[..., 0]}
    return {name: x for name, x in made.items() if name in given.results}
