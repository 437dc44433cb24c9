"""The knobs: every kind of mistake that the doctor knows, its story, who made it, and the line that is right.

The numbers are the rows of the list of porting mistakes (reference/porting_mistakes.md), whose sources these are.
"""

from __future__ import annotations

from functools import lru_cache

from attention.parity.doctor import layering, norming, placing, projecting, scoring, visibility
from attention.parity.doctor.knob import Dial, Knob, Mistake
from attention.spec.layers.contract import Contract

SCORING = (
    Knob(
        "scale",
        "the factor of the scores is missing, applied on both sides, folded into a checkpoint, or rounded to bfloat16",
        "MaxText's conversion; transformers#29402, litgpt#1031",
        (4, 5),
        "F.scaled_dot_product_attention(q, k, v, scale=D**-0.5)  # its default; never also on q",
        "jax.nn.dot_product_attention(q, k, v, scale=D**-0.5)  # its default; a Python float, never a bfloat16 array",
        scoring.scale,
    ),
    Knob(
        "temperature",
        "the learned temperature of a cosine score is a logarithm, and bounded",
        "Swin V2, arXiv:2111.09883",
        (),
        "scores = torch.clamp(log_scale, max=math.log(most)).exp() * cosine",
        "scores = jnp.exp(jnp.minimum(log_scale, math.log(most))) * cosine",
        scoring.temperature,
    ),
    Knob(
        "soft cap",
        "the cap is forgotten, another model's, or stands after the bias or the mask",
        "measured; Gemma 2, arXiv:2408.00118; tokamax caps after the bias",
        (23,),
        "scores = cap * torch.tanh(scores / cap)  # then the bias, then the mask",
        "scores = cap * jnp.tanh(scores / cap)  # then the bias, then the mask",
        scoring.cap,
    ),
    Knob(
        "bias of the call",
        "an additive bias is ignored, subtracted, scaled with the scores, or laid out (key, query)",
        "measured",
        (22,),
        "F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, H, T, S), added after the scale",
        "jax.nn.dot_product_attention(q, k, v, bias=bias)  # (B, H, T, S), added after the scale",
        scoring.call_bias,
    ),
    Knob(
        "sinks",
        "a learned logit, or a 1, joins the denominator and gives no value",
        "GPT-OSS; Xiao et al., arXiv:2309.17453; Miller, Attention is off by one, 2023",
        (),
        "weights = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]",
        "weights = jax.nn.softmax(jnp.concatenate([scores, sinks], -1), -1)[..., :-1]",
        scoring.denominator,
    ),
    Knob(
        "softmax",
        "weights are normalised over the wrong axis or do not know of the mask; a row without a key is mean(v) or NaN, not 0",
        "pytorch#103963, mlx#2395; jax.nn masks with -0.7 finfo.max",
        (13,),
        "weights = torch.where(allowed.any(-1, keepdim=True), torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1), 0.0)",
        "weights = jnp.where(allowed.any(-1, keepdims=True), jax.nn.softmax(scores, -1, where=allowed), 0.0)",
        scoring.normaliser,
    ),
    Knob(
        "dropout",
        "other weights are dropped: keep for drop, one mask for all heads, eval for train",
        "FlashAttention#180; flax's broadcast_dropout",
        (21,),
        "model.train() or model.eval(); keep = bits < 1 - rate; weights * keep / (1 - rate)",
        "deterministic=...; broadcast_dropout=False; weights * keep / (1 - rate)",
        scoring.dropout,
    ),
    Knob(
        "appended keys",
        "torch.nn.MultiheadAttention appends a learned key and one of zeros; no other library does",
        "torch's add_bias_kv and add_zero_attn",
        (),
        "nn.MultiheadAttention(..., add_bias_kv=True, add_zero_attn=True)",
        "k = jnp.concatenate([k, bias_k, zeros], axis=-3)  # and v; the mask gets a column of True for each",
        scoring.appended,
    ),
    Knob(
        "output gate",
        "the gate on the context is forgotten, or belongs to another head",
        "arXiv:2505.06708",
        (),
        "context = context * torch.sigmoid(gate_proj(query))",
        "context = context * jax.nn.sigmoid(gate_proj(query))",
        scoring.gates,
    ),
)

VISIBILITY = (
    Knob(
        "mask polarity",
        "True means drop in torch's nn.MultiheadAttention, and keep everywhere else",
        "TransformerEngine#614, LLMs-from-scratch#1061",
        (6,),
        "F.scaled_dot_product_attention(q, k, v, attn_mask=allowed); nn.MultiheadAttention wants ~allowed",
        "jax.nn.dot_product_attention(q, k, v, mask=allowed)  # True = may attend",
        visibility.polarity,
    ),
    Knob(
        "mask",
        "a mask is ignored, another row's, another head's, or laid out (key, query)",
        "measured; torch's is_causal hint drops it (semantics 5)",
        (6,),
        "attn_mask=allowed[:, None]  # (B, 1 or H, T, S), beside no is_causal",
        "mask=allowed[:, None]  # (B, 1 or H, T, S)",
        visibility.ignored,
    ),
    Knob(
        "causal",
        "the diagonal starts at the other corner when T != S, is missing, or is off by one",
        "mlx#2835, pytorch#103082, onnx#8068",
        (7,),
        "attn_mask=torch.ones(T, S, dtype=torch.bool).tril(S - T)  # is_causal=True is tril(0)",
        "mask=jnp.tril(jnp.ones((T, S), bool), S - T)  # is_causal=True is tril(0)",
        visibility.causal,
    ),
    Knob(
        "window",
        "a window of n shows n, n + 1 or 2n + 1 keys, depending on the library; or it is absent",
        "transformers#29176 (torch against Flax), #39408",
        (8,),
        "allowed = (t - s >= 0) & (t - s <= before)  # before: keys besides the query's own",
        "local_window_size=(before, after)  # keys besides the query's own",
        visibility.window,
    ),
    Knob(
        "padded tokens",
        "a token that attends to nothing is no token, and its output is 0",
        "this project's choice, DESIGN.md section 3",
        (12, 13),
        "y = torch.where(present[..., None], y, 0.0)",
        "y = jnp.where(present[..., None], y, 0.0)",
        visibility.presence,
    ),
)

PLACING = (
    Knob(
        "rotary style",
        "neighbouring features rotate together, or halves do; checkpoints do not say which",
        "transformers#25199, nanotron#427",
        (9,),
        "a, b = x.chunk(2, -1)  # half;  a, b = x[..., 0::2], x[..., 1::2]  # interleaved",
        "a, b = jnp.split(x, 2, -1)  # half;  a, b = x[..., 0::2], x[..., 1::2]  # interleaved",
        placing.style,
    ),
    Knob(
        "rotary base",
        "another model's base; short prompts hide it",
        "MaxText",
        (10,),
        "inv_freq = base ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)",
        "inv_freq = base ** (-np.arange(0, R, 2) / R)  # in NumPy float64",
        placing.base,
    ),
    Knob(
        "rotary width",
        "all features rotate, some, or none",
        "MaxText; GPT-J and GPT-NeoX rotate some",
        (10,),
        "x = torch.cat([rotate(x[..., :R]), x[..., R:]], -1)",
        "x = jnp.concatenate([rotate(x[..., :R]), x[..., R:]], -1)",
        placing.width,
    ),
    Knob(
        "rotary scaling",
        "frequencies are not stretched, or not all of the recipe is followed",
        "YaRN, arXiv:2309.00071",
        (10,),
        "inv_freq = yarn(inv_freq, factor); cos, sin = attention_factor * cos, attention_factor * sin",
        "inv_freq = yarn(inv_freq, factor); cos, sin = attention_factor * cos, attention_factor * sin",
        placing.scaling,
    ),
    Knob(
        "rotary positions",
        "positions are negated, shifted, counted anew under left padding, or held in bfloat16, where 8190 is 8192",
        "keras-hub#1494, transformers#30053, MaxText",
        (10, 11, 12),
        "angles = positions.double()[..., None] * inv_freq  # integers until here, the same for q and k",
        "angles = positions.astype(jnp.float32)[..., None] * inv_freq  # integers until here, the same for q and k",
        placing.angles,
    ),
    Knob(
        "alibi",
        "slopes of another number of heads, order, sign or size",
        "arXiv:2108.12409; H need not be a power of two",
        (),
        "bias = -slopes[:, None, None] * (t - s).abs()",
        "bias = -slopes[:, None, None] * jnp.abs(t - s)",
        placing.slopes,
    ),
    Knob(
        "relative positions",
        "distances are s - t, buckets have two directions, the last ones share",
        "T5, arXiv:1910.10683; arXiv:1803.02155",
        (),
        "bias = table[bucket(s - t)]  # memory minus context position",
        "bias = table[bucket(s - t)]  # memory minus context position",
        placing.distances,
    ),
)

PROJECTING = (
    Knob(
        "head split",
        "columns are (heads, width), not (width, heads); merging needs the transpose back",
        "opacus#825",
        (2,),
        "q = x_proj.unflatten(-1, (H, D)); context.transpose(1, 2).flatten(-2)",
        "q = x_proj.reshape(*x.shape[:-1], H, D)",
        projecting.split,
    ),
    Knob(
        "kernel transposed",
        "torch stores (out, in), flax (in, out); a square kernel hides it",
        "flax#1848",
        (1,),
        "linear.weight = kernel.T",
        "kernel = linear.weight.T",
        projecting.transposed,
    ),
    Knob(
        "projection order",
        "a fused kernel holds q, k, v in an order, and per projection, per head or per group",
        "vLLM#53114, torchtitan#4677",
        (3,),
        "q, k, v = in_proj_weight.chunk(3)  # (3 M, M): q, then k, then v",
        "q, k, v = (in_proj_weight[i * M:(i + 1) * M].T.reshape(M, H, D) for i in range(3))",
        projecting.exchanged,
    ),
    Knob(
        "head groups",
        "query head h reads key head h // (H / K): repeat, not tile",
        "onnx#7274, axlearn#842",
        (14,),
        "k = k.repeat_interleave(H // K, dim=heads)  # or enable_gqa=True",
        "k = jnp.repeat(k, H // K, axis=heads)",
        projecting.grouped,
    ),
    Knob(
        "bias dropped",
        "a bias is not loaded, which zero initialisation hides",
        "measured: 4 mutants unseen",
        (22,),
        "nn.Linear(..., bias=True); load_state_dict(strict=True)",
        "nnx.Linear(..., use_bias=True); every key of the checkpoint is used",
        projecting.biases,
    ),
    Knob(
        "precision",
        "queries, all inputs or the weights are rounded: TF32 on an NVIDIA GPU, bfloat16 passes on a TPU, a cast left behind",
        "jax#4873, #7010, #10413",
        (19, 20),
        'torch.set_float32_matmul_precision("highest"); no .bfloat16() and no autocast on the way',
        'jax.config.update("jax_default_matmul_precision", "highest"); dtype=None or float32 in every flax layer',
        projecting.rounded,
    ),
    Knob(
        "feature order",
        "features of two arrays that meet are not in the same order",
        "measured",
        (3,),
        "the same permutation on both arrays, or on neither",
        "the same permutation on both arrays, or on neither",
        projecting.hidden,
    ),
    Knob(
        "inputs",
        "key and value are exchanged, or one is given for the other; keras calls (query, value, key)",
        "keras (semantics 11)",
        (24,),
        "attention(query, key, value)",
        "attention(query, key, value)  # keras: (query, value, key)",
        projecting.inputs,
    ),
)

NORMING = (
    Knob(
        "norm eps",
        "LayerNorm's eps is 1e-5 in torch, 1e-6 in flax, 1e-3 in keras; RMSNorm's None in torch is that of the dtype",
        "candle#271, torchtune#290",
        (16,),
        "nn.LayerNorm(M, eps=eps)",
        "nnx.LayerNorm(M, epsilon=eps)",
        norming.epsilon,
    ),
    Knob(
        "norm scale",
        "the stored scale is w or 1 + w; or it is not loaded, which an initial 1 hides",
        "vLLM#3653",
        (18, 22),
        "y = x * rsqrt(mean_square + eps) * weight  # Gemma: * (1 + weight)",
        "y = x * rsqrt(mean_square + eps) * scale  # Gemma: * (1 + scale)",
        norming.scaled,
    ),
    Knob(
        "norm kind",
        "RMSNorm for LayerNorm, or no norm",
        "measured",
        (23,),
        "nn.RMSNorm(M, eps=eps) or nn.LayerNorm(M, eps=eps)",
        "nnx.RMSNorm(M, epsilon=eps) or nnx.LayerNorm(M, epsilon=eps)",
        norming.kind,
    ),
    Knob(
        "norm order",
        "queries and keys are normed before the rotation, and both are",
        "measured; Qwen3, arXiv:2505.09388",
        (23,),
        "q, k = rotate(norm(q)), rotate(norm(k))",
        "q, k = rotate(norm(q)), rotate(norm(k))",
        norming.order,
    ),
)

LAYERING = (
    Knob(
        "block order",
        "x + f(norm(x)) or norm(x + f(x)); each branch has its own norm",
        "Xiong et al., arXiv:2002.04745; torch's norm_first=False",
        (),
        "nn.TransformerEncoderLayer(..., norm_first=True)  # pre",
        "x = x + branch(norm(x))  # pre;  x = norm(x + branch(x))  # post",
        layering.blocks,
    ),
    Knob(
        "activation",
        "jax.nn.gelu is the tanh form by default, torch's the erf form: 5e-4 apart",
        "jax#4428, gemma_pytorch#33",
        (15,),
        'F.gelu(x, approximate="none")  # or "tanh"',
        "jax.nn.gelu(x, approximate=False)  # or True",
        layering.fed,
    ),
    Knob(
        "layer order",
        "layers of a stack are loaded in another order",
        "measured",
        (25,),
        "for i, layer in enumerate(layers): layer.load_state_dict(...[i])",
        "a scanned stack's leading axis is the depth, first layer first",
        layering.layered,
    ),
    Knob(
        "lambda",
        "the strength of the second attention depends on the layer's depth and on two learned terms",
        "Ye et al., arXiv:2410.05258",
        (),
        "lam = (lq1 @ lk1).exp() - (lq2 @ lk2).exp() + 0.8 - 0.6 * math.exp(-0.3 * depth)",
        "lam = jnp.exp(lq1 @ lk1) - jnp.exp(lq2 @ lk2) + 0.8 - 0.6 * math.exp(-0.3 * depth)",
        layering.differential,
    ),
    Knob(
        "linear attention",
        "another feature map, or another eps in the denominator",
        "Katharopoulos et al., arXiv:2006.16236",
        (),
        "phi = F.elu(x) + 1; out = num / (den + eps)",
        "phi = jax.nn.elu(x) + 1; out = num / (den + eps)",
        layering.linear,
    ),
)

KNOBS = {knob.name: knob for knob in (*SCORING, *VISIBILITY, *PLACING, *PROJECTING, *NORMING, *LAYERING)}


@lru_cache(maxsize=32)
def hypotheses(contract: Contract) -> tuple[tuple[Mistake, ...], tuple[Dial, ...]]:
    """Return every mistake that a port of a contract can make: those that can be listed, and numbers to be fitted."""
    found = [item for knob in KNOBS.values() for item in knob.hypotheses(contract)]
    return tuple(x for x in found if isinstance(x, Mistake)), tuple(x for x in found if isinstance(x, Dial))
