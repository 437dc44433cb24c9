"""A Swin stage: two blocks of window attention with a relative position table, the second on shifted windows. Port: plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn as nn

LOADED = True

W, SHIFT, SIDE, DIM, HEADS = 4, 2, 8, 16, 4


def inputs():
    return {"x": np.random.default_rng(9).normal(size=(2, SIDE * SIDE, DIM)).astype("float32")}


def window_partition(x, window_size):
    B, H, W_, C = x.shape
    x = x.view(B, H // window_size, window_size, W_ // window_size, window_size, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window_size * window_size, C)


def window_reverse(windows, window_size, H, W_):
    B = windows.shape[0] // (H * W_ // window_size**2)
    x = windows.view(B, H // window_size, W_ // window_size, window_size, window_size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W_, -1)


class WindowAttention(nn.Module):
    def __init__(self, dim, window, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, num_heads))
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask=None):
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        attn = q @ k.transpose(-2, -1) + bias.unsqueeze(0)
        if mask is not None:
            nW = mask.shape[0]
            attn = attn.view(B_ // nW, nW, self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        x = (attn.softmax(-1) @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj(x)


class SwinBlock(nn.Module):
    def __init__(self, shift_size):
        super().__init__()
        self.shift_size = shift_size
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = WindowAttention(DIM, W, HEADS)
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        if shift_size:
            img_mask = torch.zeros((1, SIDE, SIDE, 1))
            cnt = 0
            for h in (slice(0, -W), slice(-W, -shift_size), slice(-shift_size, None)):
                for w in (slice(0, -W), slice(-W, -shift_size), slice(-shift_size, None)):
                    img_mask[:, h, w, :] = cnt
                    cnt += 1
            m = window_partition(img_mask, W).squeeze(-1)
            m = m.unsqueeze(1) - m.unsqueeze(2)
            self.register_buffer("attn_mask", m.masked_fill(m != 0, -100.0).masked_fill(m == 0, 0.0))
        else:
            self.attn_mask = None

    def forward(self, x):
        B, L, C = x.shape
        shortcut = x
        x = self.norm1(x).view(B, SIDE, SIDE, C)
        if self.shift_size:
            x = torch.roll(x, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
        x = window_reverse(self.attn(window_partition(x, W), self.attn_mask), W, SIDE, SIDE)
        if self.shift_size:
            x = torch.roll(x, shifts=(self.shift_size, self.shift_size), dims=(1, 2))
        x = shortcut + x.reshape(B, L, C)
        return x + self.mlp(self.norm2(x))


class SwinStage(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([SwinBlock(0), SwinBlock(SHIFT)])

    def forward(self, x):
        for blk in self.blocks:
            x = blk(x)
        return x


def torch_side():
    torch.manual_seed(9)
    stage = SwinStage()
    with torch.no_grad():
        for name, p in stage.named_parameters():
            if "norm" in name or name.endswith("bias"):
                p.add_(0.2 * torch.randn_like(p))
            if name.endswith(("mlp.0.weight", "mlp.2.weight")):
                p.mul_(4)
    return stage.eval()


def _ln(x, w, b):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * w + b


def _index():
    yy, xx = np.divmod(np.arange(W * W), W)
    dy = yy[:, None] - yy[None, :] + W - 1
    dx = xx[:, None] - xx[None, :] + W - 1
    return dy * (2 * W - 1) + dx


def _regions():
    """Which of the shifted image's regions each token of each window belongs to."""
    edge = np.digitize(np.arange(SIDE), [SIDE - W, SIDE - SHIFT])
    ids = edge[:, None] * 3 + edge[None, :]
    return to_windows(ids[None, :, :, None])[..., 0]


def to_windows(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // W, W, w // W, W, c).swapaxes(2, 3).reshape(-1, W * W, c)


def from_windows(x, b):
    n = SIDE // W
    return x.reshape(b, n, n, W, W, -1).swapaxes(2, 3).reshape(b, SIDE, SIDE, -1)


def attend(p, x, shifted):
    n, t, c = x.shape
    qkv = jnp.einsum("ntc,cf->ntf", x, p["w_qkv"]) + p["b_qkv"]
    q, k, v = jnp.split(qkv.reshape(n, t, 3 * HEADS, c // HEADS), 3, axis=2)
    scores = jnp.einsum("nihd,njhd->nhij", q, k) * (c // HEADS) ** -0.5
    scores = scores + jnp.moveaxis(p["rel_table"][_index()], -1, 0)
    if shifted:
        region = _regions()
        same = region[:, :, None] == region[:, None, :]
        same = np.tile(same, (n // same.shape[0], 1, 1))
        scores = scores + jnp.where(same, 0.0, -100.0)[:, None]
    out = jnp.einsum("nhij,njhd->nihd", jax.nn.softmax(scores, axis=-1), v).reshape(n, t, c)
    return out @ p["w_out"] + p["b_out"]


def swin(params, x):
    b, length, c = x.shape
    for i, p in enumerate(params):
        shift = SHIFT if i % 2 else 0
        y = _ln(x, p["ln1_w"], p["ln1_b"]).reshape(b, SIDE, SIDE, c)
        y = jnp.roll(y, (-shift, -shift), axis=(1, 2))
        y = from_windows(attend(p, to_windows(y), bool(shift)), b)
        y = jnp.roll(y, (shift, shift), axis=(1, 2))
        x = x + y.reshape(b, length, c)
        y = _ln(x, p["ln2_w"], p["ln2_b"])
        y = jax.nn.gelu(y @ p["w_up"] + p["b_up"], approximate=False)
        x = x + y @ p["w_down"] + p["b_down"]
    return x


def from_torch(stage):
    names = {
        "ln1_w": "norm1.weight",
        "ln1_b": "norm1.bias",
        "rel_table": "attn.relative_position_bias_table",
        "w_qkv": "attn.qkv.weight",
        "b_qkv": "attn.qkv.bias",
        "w_out": "attn.proj.weight",
        "b_out": "attn.proj.bias",
        "ln2_w": "norm2.weight",
        "ln2_b": "norm2.bias",
        "w_up": "mlp.0.weight",
        "b_up": "mlp.0.bias",
        "w_down": "mlp.2.weight",
        "b_down": "mlp.2.bias",
    }
    blocks = []
    for blk in stage.blocks:
        values = {ours: blk.get_parameter(theirs).detach().numpy() for ours, theirs in names.items()}
        blocks.append({k: jnp.asarray(v.T if k.startswith("w_") else v) for k, v in values.items()})
    return blocks


def jax_side():
    return swin, from_torch(torch_side())


MISTAKES = [
    {
        "name": "the shift back has the wrong sign",
        "side": "jax",
        "old": "y = jnp.roll(y, (shift, shift), axis=(1, 2))",
        "new": "y = jnp.roll(y, (-shift, -shift), axis=(1, 2))",
        "line": 165,
    },
    {
        "name": "the relative index runs from query to key instead of key to query",
        "side": "jax",
        "old": "    return dy * (2 * W - 1) + dx",
        "new": "    return (dy * (2 * W - 1) + dx).T",
        "line": 123,
    },
    {
        "name": "shifted windows are not masked",
        "side": "jax",
        "old": "scores = scores + jnp.where(same, 0.0, -100.0)[:, None]",
        "new": "scores = scores + jnp.where(same, 0.0, 0.0)[:, None]",
        "line": 153,
    },
    {
        "name": "the scale is applied to the scores and to the queries",
        "side": "torch",
        "old": "q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]",
        "new": "q, k, v = qkv[0] * self.scale, qkv[1] * self.scale, qkv[2]",
        "line": 45,
    },
    {
        "name": "GELU by tanh instead of by erf",
        "side": "jax",
        "old": 'jax.nn.gelu(y @ p["w_up"] + p["b_up"], approximate=False)',
        "new": 'jax.nn.gelu(y @ p["w_up"] + p["b_up"])',
        "line": 168,
    },
]
