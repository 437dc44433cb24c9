"""Kinds of mutations of positions and parameters, each with its story, its source and the right line in both frameworks."""

from __future__ import annotations

from attention.parity.mutations import positions, projections
from attention.parity.mutations.mutation import MutationKind

POSITIONS = (
    MutationKind(
        "rotary style",
        "neighbouring features rotate together, or halves do; checkpoints do not say which",
        "transformers#25199, nanotron#427",
        "a, b = x.chunk(2, -1)  # half;  a, b = x[..., 0::2], x[..., 1::2]  # interleaved",
        "a, b = jnp.split(x, 2, -1)  # half;  a, b = x[..., 0::2], x[..., 1::2]  # interleaved",
        positions.style,
    ),
    MutationKind(
        "rotary base",
        "another model's base; short prompts hide it",
        "MaxText",
        "inv_freq = base ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)",
        "inv_freq = base ** (-np.arange(0, R, 2) / R)  # in NumPy float64",
        positions.base,
    ),
    MutationKind(
        "rotary width",
        "all features rotate, some, or none",
        "MaxText; GPT-J and GPT-NeoX rotate some",
        "x = torch.cat([rotate(x[..., :R]), x[..., R:]], -1)",
        "x = jnp.concatenate([rotate(x[..., :R]), x[..., R:]], -1)",
        positions.width,
    ),
    MutationKind(
        "rotary scaling",
        "frequencies are not stretched, or not all of the recipe is followed",
        "YaRN, arXiv:2309.00071",
        "inv_freq = yarn(inv_freq, factor); cos, sin = attention_factor * cos, attention_factor * sin",
        "inv_freq = yarn(inv_freq, factor); cos, sin = attention_factor * cos, attention_factor * sin",
        positions.scaling,
    ),
    MutationKind(
        "rotary positions",
        "positions are negated, shifted, counted anew under left padding, or held in bfloat16, where 8190 is 8192",
        "keras-hub#1494, transformers#30053, MaxText",
        "angles = positions.double()[..., None] * inv_freq  # integers until here, the same for q and k",
        "angles = positions.astype(jnp.float32)[..., None] * inv_freq  # integers until here, the same for q and k",
        positions.angles,
    ),
    MutationKind(
        "alibi",
        "slopes of another number of heads, order, sign or size",
        "arXiv:2108.12409; H need not be a power of two",
        "bias = -slopes[:, None, None] * (t - s).abs()",
        "bias = -slopes[:, None, None] * jnp.abs(t - s)",
        positions.slopes,
    ),
    MutationKind(
        "relative positions",
        "distances are s - t, buckets have two directions, the last ones share",
        "T5, arXiv:1910.10683; arXiv:1803.02155",
        "bias = table[bucket(s - t)]  # memory minus context position",
        "bias = table[bucket(s - t)]  # memory minus context position",
        positions.distances,
    ),
)

PROJECTIONS = (
    MutationKind(
        "head split",
        "columns are (heads, width), not (width, heads); merging needs the transpose back",
        "opacus#825",
        "q = x_proj.unflatten(-1, (H, D)); context.transpose(1, 2).flatten(-2)",
        "q = x_proj.reshape(*x.shape[:-1], H, D)",
        projections.split,
    ),
    MutationKind(
        "kernel transposed",
        "torch stores (out, in), flax (in, out); a square kernel hides it",
        "flax#1848",
        "linear.weight = kernel.T",
        "kernel = linear.weight.T",
        projections.transposed,
    ),
    MutationKind(
        "projection order",
        "a fused kernel holds q, k, v in an order, and per projection, per head or per group",
        "vLLM#53114, torchtitan#4677",
        "q, k, v = in_proj_weight.chunk(3)  # (3 M, M): q, then k, then v",
        "q, k, v = (in_proj_weight[i * M:(i + 1) * M].T.reshape(M, H, D) for i in range(3))",
        projections.exchanged,
    ),
    MutationKind(
        "head groups",
        "query head h reads key head h // (H / K): repeat, not tile",
        "onnx#7274, axlearn#842",
        "k = k.repeat_interleave(H // K, dim=heads)  # or enable_gqa=True",
        "k = jnp.repeat(k, H // K, axis=heads)",
        projections.grouped,
    ),
    MutationKind(
        "bias dropped",
        "a bias is not loaded, which zero initialisation hides",
        "measured: 4 mutations missed",
        "nn.Linear(..., bias=True); load_state_dict(strict=True)",
        "nnx.Linear(..., use_bias=True); every key of the checkpoint is used",
        projections.biases,
    ),
    MutationKind(
        "precision",
        "queries, all inputs or the weights are rounded: TF32 on an NVIDIA GPU, bfloat16 passes on a TPU, a cast left behind",
        "jax#4873, #7010, #10413",
        'torch.set_float32_matmul_precision("highest"); no .bfloat16() and no autocast on the way',
        'jax.config.update("jax_default_matmul_precision", "highest"); dtype=None or float32 in every flax layer',
        projections.rounded,
    ),
    MutationKind(
        "feature order",
        "features of two arrays that meet are not in the same order",
        "measured",
        "the same permutation on both arrays, or on neither",
        "the same permutation on both arrays, or on neither",
        projections.hidden,
    ),
    MutationKind(
        "inputs",
        "key and value are exchanged, or one is given for the other; keras calls (query, value, key)",
        "keras.layers.MultiHeadAttention",
        "attention(query, key, value)",
        "attention(query, key, value)  # keras: (query, value, key)",
        projections.inputs,
    ),
)
