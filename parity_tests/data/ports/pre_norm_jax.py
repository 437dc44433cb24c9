"""An encoder layer in Flax Linen."""

from flax import linen as nn


class EncoderLayer(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=1e-5, name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.heads, name="attn")(y)
        y = nn.LayerNorm(epsilon=1e-5, name="norm2")(x)
        y = nn.relu(nn.Dense(self.hidden, name="linear1")(y))
        y = nn.Dense(x.shape[-1], name="linear2")(y)
        return x + y  # here


def build(checkpoint):
    p, heads, width = checkpoint, 2, 8
    params = {n: {"scale": p[f"{n}.weight"], "bias": p[f"{n}.bias"]} for n in ("norm1", "norm2")}
    params |= {n: {"kernel": p[f"{n}.weight"].T, "bias": p[f"{n}.bias"]} for n in ("linear1", "linear2")}
    w, b = p["attn.in_proj_weight"].reshape(3, width, width), p["attn.in_proj_bias"].reshape(3, heads, -1)
    attn = {
        name: {"kernel": w[i].T.reshape(width, heads, -1), "bias": b[i]} for i, name in enumerate(("query", "key", "value"))
    }
    attn["out"] = {"kernel": p["attn.out_proj.weight"].T.reshape(heads, -1, width), "bias": p["attn.out_proj.bias"]}
    return EncoderLayer(heads, hidden=13), {"params": {**params, "attn": attn}}
