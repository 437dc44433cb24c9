"""Kinds of mutations of norms and blocks, each with its story, its source and the right line in both frameworks."""

from __future__ import annotations

from attention.parity.mutations import blocks, norms
from attention.parity.mutations.mutation import MutationKind

NORMS = (
    MutationKind(
        "norm eps",
        "LayerNorm's eps is 1e-5 in torch, 1e-6 in flax, 1e-3 in keras; RMSNorm's None in torch is that of the dtype",
        "candle#271, torchtune#290",
        "nn.LayerNorm(M, eps=eps)",
        "nnx.LayerNorm(M, epsilon=eps)",
        norms.epsilon,
    ),
    MutationKind(
        "norm scale",
        "the stored scale is w or 1 + w; or it is not loaded, which an initial 1 hides",
        "vLLM#3653",
        "y = x * rsqrt(mean_square + eps) * weight  # Gemma: * (1 + weight)",
        "y = x * rsqrt(mean_square + eps) * scale  # Gemma: * (1 + scale)",
        norms.scaled,
    ),
    MutationKind(
        "norm kind",
        "RMSNorm for LayerNorm, or no norm; or a norm of all heads at once, where each head has its own",
        "measured",
        "nn.RMSNorm(M, eps=eps) or nn.LayerNorm(M, eps=eps)",
        "nnx.RMSNorm(M, epsilon=eps) or nnx.LayerNorm(M, epsilon=eps)",
        norms.kind,
    ),
    MutationKind(
        "norm order",
        "queries and keys are normed before the rotation, and both are",
        "measured; Qwen3, arXiv:2505.09388",
        "q, k = rotate(norm(q)), rotate(norm(k))",
        "q, k = rotate(norm(q)), rotate(norm(k))",
        norms.order,
    ),
)

BLOCKS = (
    MutationKind(
        "block order",
        "x + f(norm(x)) or norm(x + f(x)); each branch has its own norm",
        "Xiong et al., arXiv:2002.04745; torch's norm_first=False",
        "nn.TransformerEncoderLayer(..., norm_first=True)  # pre",
        "x = x + branch(norm(x))  # pre;  x = norm(x + branch(x))  # post",
        blocks.blocks,
    ),
    MutationKind(
        "activation",
        "jax.nn.gelu is the tanh form by default, torch's the erf form: 5e-4 apart",
        "jax#4428, gemma_pytorch#33",
        'F.gelu(x, approximate="none")  # or "tanh"',
        "jax.nn.gelu(x, approximate=False)  # or True",
        blocks.fed,
    ),
    MutationKind(
        "layer order",
        "layers of a stack are loaded in another order",
        "measured",
        "for i, layer in enumerate(layers): layer.load_state_dict(...[i])",
        "a scanned stack's leading axis is the depth, first layer first",
        blocks.layered,
    ),
    MutationKind(
        "lambda",
        "the strength of the second attention depends on the layer's depth and on two learned terms",
        "Ye et al., arXiv:2410.05258",
        "lam = (lq1 @ lk1).exp() - (lq2 @ lk2).exp() + 0.8 - 0.6 * math.exp(-0.3 * depth)",
        "lam = jnp.exp(lq1 @ lk1) - jnp.exp(lq2 @ lk2) + 0.8 - 0.6 * math.exp(-0.3 * depth)",
        blocks.differential,
    ),
    MutationKind(
        "linear attention",
        "another feature map, or another eps in the denominator",
        "Katharopoulos et al., arXiv:2006.16236",
        "phi = F.elu(x) + 1; out = num / (den + eps)",
        "phi = jax.nn.elu(x) + 1; out = num / (den + eps)",
        blocks.linear,
    ),
)
