"""Optical flow by recurrent lookups in a pyramid of correlations, upsampled bilinearly. The port is NNX and scans over the iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = True

ROWS, COLS, STRIDE, FEATURES, STATE, CONTEXT, MOTION = 16, 24, 4, 10, 8, 6, 7
LEVELS, RADIUS, ITERATIONS = 2, 1, 2
WINDOW = LEVELS * (2 * RADIUS + 1) ** 2


def inputs():
    rng = np.random.default_rng(205)
    return {k: rng.normal(size=(2, 3, ROWS, COLS)).astype("float32") for k in ("image1", "image2")}


def bilinear_sampler(img, coords):
    h, w = img.shape[-2:]
    x, y = coords.split(1, dim=-1)
    grid = torch.cat([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], dim=-1)
    return F.grid_sample(img, grid, align_corners=True)


def coords_grid(batch, ht, wd, dtype):
    y, x = torch.meshgrid(torch.arange(ht), torch.arange(wd), indexing="ij")
    return torch.stack([x, y], dim=0).to(dtype)[None].repeat(batch, 1, 1, 1)


class CorrBlock:
    def __init__(self, fmap1, fmap2):
        b, d, h, w = fmap1.shape
        corr = torch.matmul(fmap1.view(b, d, h * w).transpose(1, 2), fmap2.view(b, d, h * w))
        corr = corr.view(b * h * w, 1, h, w) / torch.sqrt(torch.tensor(d, dtype=corr.dtype))
        self.pyramid = [corr]
        for _ in range(LEVELS - 1):
            corr = F.avg_pool2d(corr, 2, stride=2)
            self.pyramid.append(corr)

    def __call__(self, coords):
        coords = coords.permute(0, 2, 3, 1)
        b, h, w, _ = coords.shape
        d = torch.linspace(-RADIUS, RADIUS, 2 * RADIUS + 1, dtype=coords.dtype)
        delta = torch.stack(torch.meshgrid(d, d, indexing="ij"), dim=-1)[None]  # the first axis moves x
        out = []
        for i, corr in enumerate(self.pyramid):
            centroid = coords.reshape(b * h * w, 1, 1, 2) / 2**i
            out.append(bilinear_sampler(corr, centroid + delta).view(b, h, w, -1))
        return torch.cat(out, dim=-1).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    def __init__(self, out_dim, normed):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=not normed)
        self.norm1 = nn.InstanceNorm2d(8) if normed else nn.Identity()
        self.conv2 = nn.Conv2d(8, out_dim, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv2(F.relu(self.norm1(self.conv1(x))))


class MotionEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convc = nn.Conv2d(WINDOW, 9, 1)
        self.convf = nn.Conv2d(2, 5, 3, padding=1)
        self.conv = nn.Conv2d(14, MOTION, 3, padding=1)

    def forward(self, flow, corr):
        cor = F.relu(self.convc(corr))
        flo = F.relu(self.convf(flow))
        return torch.cat([F.relu(self.conv(torch.cat([cor, flo], dim=1))), flow], dim=1)


class ConvGRU(nn.Module):
    def __init__(self, input_dim):
        super().__init__()
        self.convz = nn.Conv2d(STATE + input_dim, STATE, 3, padding=1)
        self.convr = nn.Conv2d(STATE + input_dim, STATE, 3, padding=1)
        self.convq = nn.Conv2d(STATE + input_dim, STATE, 3, padding=1)

    def forward(self, h, x):
        hx = torch.cat([h, x], dim=1)
        z = torch.sigmoid(self.convz(hx))
        r = torch.sigmoid(self.convr(hx))
        q = torch.tanh(self.convq(torch.cat([r * h, x], dim=1)))
        return (1 - z) * h + z * q


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.fnet = Encoder(FEATURES, normed=True)
        self.cnet = Encoder(STATE + CONTEXT, normed=False)
        self.encoder = MotionEncoder()
        self.gru = ConvGRU(CONTEXT + MOTION + 2)
        self.head = nn.Conv2d(STATE, 2, 3, padding=1)

    def forward(self, image1, image2):
        fmap1, fmap2 = self.fnet(torch.cat([image1, image2], dim=0)).chunk(2, dim=0)
        corr_fn = CorrBlock(fmap1, fmap2)
        net, inp = torch.split(self.cnet(image1), [STATE, CONTEXT], dim=1)
        net, inp = torch.tanh(net), torch.relu(inp)
        coords0 = coords_grid(*fmap1[:, 0].shape, fmap1.dtype)
        coords1 = coords0
        flows = []
        for _ in range(ITERATIONS):
            coords1 = coords1.detach()
            corr = corr_fn(coords1)
            motion = self.encoder(coords1 - coords0, corr)
            net = self.gru(net, torch.cat([inp, motion], dim=1))
            coords1 = coords1 + self.head(net)
            up = F.interpolate(coords1 - coords0, scale_factor=STRIDE, mode="bilinear", align_corners=True)
            flows.append(STRIDE * up)
        return torch.stack(flows), net


def torch_side():
    torch.manual_seed(205)
    net = Flow()
    for name, p in net.named_parameters():
        if "bias" in name:
            nn.init.normal_(p, std=0.3)
        elif name.startswith(("gru", "head", "encoder")):
            nn.init.normal_(p, std=0.2)
    return net


def conv(cin, cout, rngs, size=3, stride=1, bias=True):
    return nnx.Conv(cin, cout, (size, size), strides=stride, padding=size // 2, use_bias=bias, rngs=rngs)


class Pyramid(nnx.Module):
    """Features at a quarter of the resolution."""

    def __init__(self, cout, rngs, whiten):
        self.low, self.high = conv(3, 8, rngs, stride=2, bias=not whiten), conv(8, cout, rngs, stride=2)
        self.whiten = whiten

    def __call__(self, x):
        x = self.low(x)
        if self.whiten:
            mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            x = (x - mean) * jax.lax.rsqrt(var + 1e-5)
        return self.high(nnx.relu(x))


def correlations(first, second):
    """Every pixel of `first` with all of `second`, then at half of its resolution, and so on."""
    volume = jnp.einsum("bijc,bklc->bijkl", first, second) * first.shape[-1] ** -0.5
    levels = [volume]
    for _ in range(LEVELS - 1):
        *lead, rows, cols = volume.shape
        volume = volume.reshape(*lead, rows // 2, 2, cols // 2, 2).mean(axis=(-3, -1))
        levels.append(volume)
    return levels


def look_up(levels, row, col):
    step = jnp.arange(-RADIUS, RADIUS + 1, dtype=row.dtype)
    down, right = (g.ravel() for g in jnp.meshgrid(step, step, indexing="xy"))

    def sample(plane, r, c):
        return jax.scipy.ndimage.map_coordinates(plane, [r, c], order=1, mode="constant", cval=0.0)

    each = jax.vmap(jax.vmap(jax.vmap(sample)))
    found = [each(level, row[..., None] / 2**n + down, col[..., None] / 2**n + right) for n, level in enumerate(levels)]
    return jnp.concatenate(found, axis=-1)


def stretch(size, dtype):
    """The matrix of a linear interpolation from `size` to STRIDE times as many points, end points on end points."""
    at = jnp.linspace(0.0, size - 1.0, STRIDE * size, dtype=dtype)
    return jnp.maximum(0.0, 1.0 - jnp.abs(at[:, None] - jnp.arange(size, dtype=dtype)))


class Refiner(nnx.Module):
    def __init__(self, rngs):
        self.features = Pyramid(FEATURES, rngs, whiten=True)
        self.context = Pyramid(STATE + CONTEXT, rngs, whiten=False)
        self.see_corr, self.see_flow = conv(WINDOW, 9, rngs, size=1), conv(2, 5, rngs)
        self.blend = conv(14, MOTION, rngs)
        self.gates = conv(STATE + CONTEXT + MOTION + 2, 2 * STATE, rngs)  # update, reset
        self.proposal = conv(STATE + CONTEXT + MOTION + 2, STATE, rngs)
        self.delta = conv(STATE, 2, rngs)

    def __call__(self, image1, image2):
        image1, image2 = (jnp.moveaxis(i, 1, 3) for i in (image1, image2))
        levels = correlations(self.features(image1), self.features(image2))
        context = self.context(image1)
        state, extra = jnp.tanh(context[..., :STATE]), nnx.relu(context[..., STATE:])
        rows, cols = context.shape[1:3]
        tall, wide = stretch(rows, image1.dtype), stretch(cols, image1.dtype)
        i, j = jnp.mgrid[:rows, :cols].astype(image1.dtype)

        def refine(carry, _):
            state, flow = carry
            flow = jax.lax.stop_gradient(flow)
            corr = look_up(levels, i + flow[..., 1], j + flow[..., 0])
            both = jnp.concatenate([nnx.relu(self.see_corr(corr)), nnx.relu(self.see_flow(flow))], -1)
            x = jnp.concatenate([extra, nnx.relu(self.blend(both)), flow], -1)
            gates = nnx.sigmoid(self.gates(jnp.concatenate([state, x], -1)))
            update, reset = gates[..., :STATE], gates[..., STATE:]
            new = jnp.tanh(self.proposal(jnp.concatenate([reset * state, x], -1)))
            state = state * (1 - update) + new * update
            flow = flow + self.delta(state)
            return (state, flow), STRIDE * jnp.einsum("Rr,Cc,brcx->bxRC", tall, wide, flow)

        start = jnp.zeros((*context.shape[:3], 2), context.dtype)
        (state, _), flows = jax.lax.scan(refine, (state, start), None, length=ITERATIONS)
        return flows, jnp.moveaxis(state, 3, 1)


def jax_side():
    source = {k: v.numpy() for k, v in torch_side().state_dict().items()}
    model = Refiner(nnx.Rngs(0))
    pairs = [
        (model.features.low, ["fnet.conv1"]),
        (model.features.high, ["fnet.conv2"]),
        (model.context.low, ["cnet.conv1"]),
        (model.context.high, ["cnet.conv2"]),
        (model.see_corr, ["encoder.convc"]),
        (model.see_flow, ["encoder.convf"]),
        (model.blend, ["encoder.conv"]),
        (model.gates, ["gru.convz", "gru.convr"]),
        (model.proposal, ["gru.convq"]),
        (model.delta, ["head"]),
    ]
    for layer, keys in pairs:
        kernel = np.concatenate([source[k + ".weight"] for k in keys]).transpose(2, 3, 1, 0)
        layer.kernel.set_value(jnp.asarray(kernel))
        if layer.use_bias:
            layer.bias.set_value(jnp.asarray(np.concatenate([source[k + ".bias"] for k in keys])))
    return model


MISTAKES = [
    {
        "name": "the lookup's window runs along rows first instead of along columns",
        "side": "jax",
        "old": 'jnp.meshgrid(step, step, indexing="xy")',
        "new": 'jnp.meshgrid(step, step, indexing="ij")',
        "line": 167,
    },
    {
        "name": "strided convolutions are padded as SAME, which for an even size is (0, 1) instead of (1, 1)",
        "side": "jax",
        "old": "strides=stride, padding=size // 2,",
        "new": 'strides=stride, padding="SAME",',
        "line": 136,
    },
    {
        "name": "the flow is not detached between iterations",
        "side": "jax",
        "old": "            flow = jax.lax.stop_gradient(flow)\n",
        "new": "",
        "line": 204,
    },
    {
        "name": "the correlations are divided by the number of features instead of by its square root",
        "side": "torch",
        "old": "/ torch.sqrt(torch.tensor(d, dtype=corr.dtype))",
        "new": "/ d",
        "line": 39,
    },
    {
        "name": "the flow is upsampled without aligned corners",
        "side": "torch",
        "old": 'mode="bilinear", align_corners=True)',
        "new": 'mode="bilinear", align_corners=False)',
        "line": 119,
    },
]
