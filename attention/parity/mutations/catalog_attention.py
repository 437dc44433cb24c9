"""Kinds of mutations of scores and masks, each with its story, its source and the right line in both frameworks."""

from __future__ import annotations

from attention.parity.mutations import dropout, masks, scores
from attention.parity.mutations.mutation import MutationKind

SCORES = (
    MutationKind(
        "scale",
        "the factor of the scores is missing, applied on both sides, folded into a checkpoint, or rounded to bfloat16",
        "MaxText's conversion; transformers#29402, litgpt#1031",
        "F.scaled_dot_product_attention(q, k, v, scale=D**-0.5)  # its default; never also on q",
        "jax.nn.dot_product_attention(q, k, v, scale=D**-0.5)  # its default; a Python float, never a bfloat16 array",
        scores.scale,
    ),
    MutationKind(
        "temperature",
        "the learned temperature of a cosine score is a logarithm, and bounded",
        "Swin V2, arXiv:2111.09883",
        "scores = torch.clamp(log_scale, max=math.log(most)).exp() * cosine",
        "scores = jnp.exp(jnp.minimum(log_scale, math.log(most))) * cosine",
        scores.temperature,
    ),
    MutationKind(
        "soft cap",
        "the cap is forgotten, another model's, or stands after the bias or the mask",
        "measured; Gemma 2, arXiv:2408.00118; tokamax caps after the bias",
        "scores = cap * torch.tanh(scores / cap)  # then the bias, then the mask",
        "scores = cap * jnp.tanh(scores / cap)  # then the bias, then the mask",
        scores.cap,
    ),
    MutationKind(
        "bias of the call",
        "an additive bias is ignored, subtracted, scaled with the scores, or laid out (key, query)",
        "measured",
        "F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, H, T, S), added after the scale",
        "jax.nn.dot_product_attention(q, k, v, bias=bias)  # (B, H, T, S), added after the scale",
        scores.call_bias,
    ),
    MutationKind(
        "sinks",
        "a learned logit, or a 1, joins the denominator and gives no value",
        "GPT-OSS; Xiao et al., arXiv:2309.17453; Miller, Attention is off by one, 2023",
        "weights = torch.softmax(torch.cat([scores, sinks], -1), -1)[..., :-1]",
        "weights = jax.nn.softmax(jnp.concatenate([scores, sinks], -1), -1)[..., :-1]",
        scores.denominator,
    ),
    MutationKind(
        "softmax",
        "weights are normalised over the wrong axis or do not know of the mask; a row without a key is mean(v) or NaN, not 0",
        "pytorch#103963, mlx#2395; jax.nn masks with -0.7 finfo.max",
        "weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1).where(allowed.any(-1, keepdim=True), 0.0)",
        "weights = jnp.where(allowed.any(-1, keepdims=True), jax.nn.softmax(scores, -1, where=allowed), 0.0)",
        scores.normaliser,
    ),
    MutationKind(
        "dropout",
        "other weights are dropped: keep for drop, one mask for all heads, eval for train",
        "FlashAttention#180; flax's broadcast_dropout",
        "model.train() or model.eval(); keep = bits < 1 - rate; weights * keep / (1 - rate)",
        "deterministic=...; broadcast_dropout=False; weights * keep / (1 - rate)",
        dropout.dropout,
    ),
    MutationKind(
        "appended keys",
        "torch.nn.MultiheadAttention appends a learned key and one of zeros; no other library does",
        "torch's add_bias_kv and add_zero_attn",
        "nn.MultiheadAttention(..., add_bias_kv=True, add_zero_attn=True)",
        "k = jnp.concatenate([k, bias_k, zeros], axis=-3)  # and v; the mask gets a column of True for each",
        scores.appended,
    ),
    MutationKind(
        "output gate",
        "the gate on the context is forgotten, or belongs to another head",
        "arXiv:2505.06708",
        "context = context * torch.sigmoid(gate_proj(query))",
        "context = context * jax.nn.sigmoid(gate_proj(query))",
        scores.gates,
    ),
)

MASKS = (
    MutationKind(
        "mask polarity",
        "True means drop in torch's nn.MultiheadAttention, and keep everywhere else",
        "TransformerEngine#614, LLMs-from-scratch#1061",
        "F.scaled_dot_product_attention(q, k, v, attn_mask=allowed); nn.MultiheadAttention wants ~allowed",
        "jax.nn.dot_product_attention(q, k, v, mask=allowed)  # True = may attend",
        masks.polarity,
    ),
    MutationKind(
        "mask",
        "a mask is ignored, another row's, another head's, or laid out (key, query)",
        "measured; torch.nn.MultiheadAttention drops it where is_causal is set",
        "attn_mask=allowed[:, None]  # (B, 1 or H, T, S), beside no is_causal",
        "mask=allowed[:, None]  # (B, 1 or H, T, S)",
        masks.ignored,
    ),
    MutationKind(
        "causal",
        "the diagonal starts at the other corner when T != S, is missing, or is off by one",
        "mlx#2835, pytorch#103082, onnx#8068",
        "attn_mask=torch.ones(T, S, dtype=torch.bool).tril(S - T)  # is_causal=True is tril(0)",
        "mask=jnp.tril(jnp.ones((T, S), bool), S - T)  # is_causal=True is tril(0)",
        masks.causal,
    ),
    MutationKind(
        "window",
        "a window of n shows n, n + 1 or 2n + 1 keys, depending on the library; or it is absent",
        "transformers#29176 (torch against Flax), #39408",
        "allowed = (t - s >= 0) & (t - s <= before)  # before: keys besides the query's own",
        "local_window_size=(before, after)  # keys besides the query's own",
        masks.window,
    ),
    MutationKind(
        "padded tokens",
        "a token that attends to nothing is no token, and its output is 0",
        "this project's choice",
        "y = torch.where(present[..., None], y, 0.0)",
        "y = jnp.where(present[..., None], y, 0.0)",
        masks.presence,
    ),
)
