"""A feature pyramid with an anchor-free YOLO head: boxes from distributions over distances (DFL). The port is Linen, NHWC."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

LOADED = True

REG_MAX, CLASSES, STRIDES, WIDTH = 5, 3, (4, 8), 8


def inputs():
    return {"image": np.random.default_rng(112).normal(size=(2, 3, 16, 32)).astype("float32")}


class Conv(torch.nn.Module):
    """Convolution, batch norm, SiLU; padding keeps the size at stride 1."""

    def __init__(self, c1, c2, k=3, s=1):
        super().__init__()
        self.conv = torch.nn.Conv2d(c1, c2, k, s, padding=k // 2, bias=False)
        self.bn = torch.nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = torch.nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Detect(torch.nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv2 = torch.nn.ModuleList(torch.nn.Sequential(Conv(c, c), torch.nn.Conv2d(c, 4 * REG_MAX, 1)) for _ in STRIDES)
        self.cv3 = torch.nn.ModuleList(torch.nn.Sequential(Conv(c, c), torch.nn.Conv2d(c, CLASSES, 1)) for _ in STRIDES)
        self.register_buffer("project", torch.arange(REG_MAX, dtype=torch.float32))

    def anchors(self, feats):
        points, strides = [], []
        for f, stride in zip(feats, STRIDES):
            h, w = f.shape[-2:]
            sx = torch.arange(w, dtype=f.dtype) + 0.5
            sy = torch.arange(h, dtype=f.dtype) + 0.5
            sy, sx = torch.meshgrid(sy, sx, indexing="ij")
            points.append(torch.stack((sx, sy), -1).view(-1, 2))
            strides.append(torch.full((h * w, 1), float(stride), dtype=f.dtype))
        return torch.cat(points), torch.cat(strides)

    def forward(self, feats):
        box = torch.cat([m(f).flatten(2) for m, f in zip(self.cv2, feats)], dim=2)
        cls = torch.cat([m(f).flatten(2) for m, f in zip(self.cv3, feats)], dim=2)
        b, _, n = box.shape
        dist = box.view(b, 4, REG_MAX, n).softmax(dim=2)
        dist = torch.einsum("bkrn,r->bnk", dist, self.project)
        points, strides = self.anchors(feats)
        lt, rb = dist.chunk(2, dim=-1)
        x1y1, x2y2 = points - lt, points + rb
        xywh = torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1), dim=-1) * strides
        return xywh, cls.sigmoid().transpose(1, 2)


class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Conv(3, WIDTH, 3, 2)
        self.stage1 = Conv(WIDTH, WIDTH, 3, 2)
        self.stage2 = Conv(WIDTH, 2 * WIDTH, 3, 2)
        self.lateral1 = torch.nn.Conv2d(WIDTH, WIDTH, 1)
        self.lateral2 = torch.nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.smooth = torch.nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.detect = Detect(WIDTH)

    def forward(self, image):
        c1 = self.stage1(self.stem(image))
        c2 = self.stage2(c1)
        p2 = self.lateral2(c2)
        p1 = self.lateral1(c1) + torch.nn.functional.interpolate(p2, scale_factor=2, mode="nearest")
        return self.detect([self.smooth(p1), p2])


def torch_side():
    torch.manual_seed(112)
    net = Detector()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.weight.uniform_(0.8, 1.6)
                m.bias.normal_(0, 0.3)
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.05, 0.4)
    return net.eval()


class ConvBnSilu(nn.Module):
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        strides = (self.stride, self.stride)
        x = nn.Conv(self.features, (3, 3), strides, padding=((1, 1), (1, 1)), use_bias=False, name="conv")(x)
        return nn.silu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="norm")(x))


class Head(nn.Module):
    """One level's raw predictions, flattened over places."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.outputs, (1, 1), name="out")(ConvBnSilu(x.shape[-1], name="hidden")(x))
        return x.reshape(x.shape[0], -1, self.outputs)


def decode(raw, height, width, stride):
    """Boxes as centre and size, in pixels, from (b, places, 4 * REG_MAX)."""
    probs = jax.nn.softmax(raw.reshape(*raw.shape[:2], 4, REG_MAX), axis=-1)
    left, top, right, bottom = jnp.moveaxis(probs @ jnp.arange(REG_MAX, dtype=raw.dtype), -1, 0)
    row, col = jnp.divmod(jnp.arange(height * width), width)
    cx, cy = col + 0.5 + (right - left) / 2, row + 0.5 + (bottom - top) / 2
    return stride * jnp.stack([cx, cy, left + right, top + bottom], axis=-1)


class PyramidDetector(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = jnp.transpose(image, (0, 2, 3, 1))
        fine = ConvBnSilu(WIDTH, 2, name="c2")(ConvBnSilu(WIDTH, 2, name="c1")(x))
        coarse = nn.Conv(WIDTH, (1, 1), name="side_coarse")(ConvBnSilu(2 * WIDTH, 2, name="c3")(fine))
        upsampled = jnp.repeat(jnp.repeat(coarse, 2, axis=1), 2, axis=2)
        fine = nn.Conv(WIDTH, (3, 3), name="smooth")(nn.Conv(WIDTH, (1, 1), name="side_fine")(fine) + upsampled)
        boxes, scores = [], []
        for level, stride in zip((fine, coarse), STRIDES):
            raw = Head(4 * REG_MAX, name=f"box_{stride}")(level)
            boxes.append(decode(raw, level.shape[1], level.shape[2], stride))
            scores.append(nn.sigmoid(Head(CLASSES, name=f"cls_{stride}")(level)))
        return jnp.concatenate(boxes, axis=1), jnp.concatenate(scores, axis=1)


def jax_side():
    sd = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}
    params, stats = {}, {}

    def conv(key):
        out = {"kernel": sd[key + ".weight"].transpose(2, 3, 1, 0)}
        return out | ({"bias": sd[key + ".bias"]} if key + ".bias" in sd else {})

    def block(key):
        norm = {"scale": sd[key + ".bn.weight"], "bias": sd[key + ".bn.bias"]}
        running = {"mean": sd[key + ".bn.running_mean"], "var": sd[key + ".bn.running_var"]}
        return {"conv": conv(key + ".conv"), "norm": norm}, {"norm": running}

    for name, key in (("c1", "stem"), ("c2", "stage1"), ("c3", "stage2")):
        params[name], stats[name] = block(key)
    for name, key in (("side_fine", "lateral1"), ("side_coarse", "lateral2"), ("smooth", "smooth")):
        params[name] = conv(key)
    for i, stride in enumerate(STRIDES):
        for name, key in ((f"box_{stride}", f"detect.cv2.{i}"), (f"cls_{stride}", f"detect.cv3.{i}")):
            hidden, running = block(key + ".0")
            params[name], stats[name] = {"hidden": hidden, "out": conv(key + ".1")}, {"hidden": running}
    return PyramidDetector(), {"params": params, "batch_stats": stats}


MISTAKES = [
    {
        "name": "SAME padding, which pads only after the end at stride 2, instead of one on both sides",
        "side": "jax",
        "old": "strides, padding=((1, 1), (1, 1)), use_bias",
        "new": 'strides, padding="SAME", use_bias',
        "line": 101,
    },
    {
        "name": "batch norm with Flax's default epsilon 1e-5 instead of 1e-3",
        "side": "jax",
        "old": "nn.BatchNorm(use_running_average=True, epsilon=1e-3, name",
        "new": "nn.BatchNorm(use_running_average=True, name",
        "line": 102,
    },
    {
        "name": "the rows' anchor points lack the half-cell offset",
        "side": "torch",
        "old": "sy = torch.arange(h, dtype=f.dtype) + 0.5",
        "new": "sy = torch.arange(h, dtype=f.dtype)",
        "line": 43,
    },
    {
        "name": "the distribution over distances is laid out as (bins, sides) instead of (sides, bins)",
        "side": "torch",
        "old": "dist = box.view(b, 4, REG_MAX, n).softmax(dim=2)",
        "new": "dist = box.view(b, REG_MAX, 4, n).transpose(1, 2).softmax(dim=2)",
        "line": 53,
    },
    {
        "name": "place indices are divided by the height instead of the width",
        "side": "jax",
        "old": "jnp.divmod(jnp.arange(height * width), width)",
        "new": "jnp.divmod(jnp.arange(height * width), height)",
        "line": 120,
    },
]
