"""Speaker embeddings: dilated Res2 blocks with squeeze-excitation, attentive statistics pooling, an angular-margin head. The port is NNX."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

LOADED = True

MELS, CHANNELS, SCALE, BOTTLENECK, MERGED, ATTENTION, EMBEDDING, SPEAKERS = 10, 20, 4, 6, 14, 7, 9, 5
MARGIN, SHARPNESS = 0.2, 8.0


def inputs():
    rng = np.random.default_rng(201)
    return {
        "mels": rng.normal(size=(3, 17, MELS)).astype("float32"),
        "lengths": np.array([17, 13, 15]),
        "speaker": np.array([4, 0, 2]),
    }


class TDNNBlock(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, dilation=1):
        super().__init__()
        pad = dilation * (kernel_size - 1) // 2
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=pad, padding_mode="reflect")
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x):
        return self.norm(F.relu(self.conv(x)))


class Res2NetBlock(nn.Module):
    def __init__(self, channels, kernel_size, dilation):
        super().__init__()
        width = channels // SCALE
        self.blocks = nn.ModuleList([TDNNBlock(width, width, kernel_size, dilation) for _ in range(SCALE - 1)])

    def forward(self, x):
        y = []
        for i, x_i in enumerate(torch.chunk(x, SCALE, dim=1)):
            if i == 0:
                y_i = x_i
            elif i == 1:
                y_i = self.blocks[i - 1](x_i)
            else:
                y_i = self.blocks[i - 1](x_i + y_i)
            y.append(y_i)
        return torch.cat(y, dim=1)


class SEBlock(nn.Module):
    def __init__(self, channels, se_channels):
        super().__init__()
        self.conv1 = nn.Conv1d(channels, se_channels, 1)
        self.conv2 = nn.Conv1d(se_channels, channels, 1)

    def forward(self, x, mask):
        s = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)
        s = F.relu(self.conv1(s))
        return torch.sigmoid(self.conv2(s)) * x


class SERes2NetBlock(nn.Module):
    def __init__(self, in_channels, out_channels, dilation):
        super().__init__()
        self.shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.tdnn1 = TDNNBlock(in_channels, out_channels, 1)
        self.res2net = Res2NetBlock(out_channels, 3, dilation)
        self.tdnn2 = TDNNBlock(out_channels, out_channels, 1)
        self.se = SEBlock(out_channels, BOTTLENECK)

    def forward(self, x, mask):
        residual = x if self.shortcut is None else self.shortcut(x)
        return self.se(self.tdnn2(self.res2net(self.tdnn1(x))), mask) + residual


class AttentiveStatisticsPooling(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.tdnn = TDNNBlock(channels * 3, ATTENTION, 1)
        self.conv = nn.Conv1d(ATTENTION, channels, 1, bias=False)

    @staticmethod
    def statistics(x, weights, eps=1e-6):
        mean = (weights * x).sum(2)
        std = torch.sqrt((weights * (x - mean.unsqueeze(2)).pow(2)).sum(2).clamp(eps))
        return mean, std

    def forward(self, x, mask):
        mean, std = self.statistics(x, mask / mask.sum(dim=2, keepdim=True))
        context = [mean.unsqueeze(2).expand_as(x), std.unsqueeze(2).expand_as(x)]
        attn = self.conv(torch.tanh(self.tdnn(torch.cat([x, *context], dim=1))))
        attn = F.softmax(attn.masked_fill(mask == 0, float("-inf")), dim=2)
        return torch.cat(self.statistics(x, attn), dim=1)


class ECAPA(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = TDNNBlock(MELS, 16, 5)
        self.blocks = nn.ModuleList([SERes2NetBlock(16 if i == 0 else CHANNELS, CHANNELS, i + 2) for i in range(3)])
        self.mfa = TDNNBlock(3 * CHANNELS, MERGED, 1)
        self.asp = AttentiveStatisticsPooling(MERGED)
        self.asp_bn = nn.BatchNorm1d(2 * MERGED)
        self.fc = nn.Linear(2 * MERGED, EMBEDDING)
        self.prototypes = nn.Parameter(torch.randn(SPEAKERS, EMBEDDING))

    def forward(self, mels, lengths, speaker):
        x = mels.transpose(1, 2)
        mask = (torch.arange(x.shape[2])[None, :] < lengths[:, None]).unsqueeze(1).to(x.dtype)
        x = self.stem(x)
        features = []
        for block in self.blocks:
            x = block(x, mask)
            features.append(x)
        embedding = self.fc(self.asp_bn(self.asp(self.mfa(torch.cat(features, dim=1)), mask)))
        cosine = F.linear(F.normalize(embedding), F.normalize(self.prototypes))
        sine = torch.sqrt((1.0 - cosine.pow(2)).clamp(1e-6, 1))
        phi = cosine * math.cos(MARGIN) - sine * math.sin(MARGIN)
        phi = torch.where(cosine > math.cos(math.pi - MARGIN), phi, cosine - MARGIN * math.sin(MARGIN))
        logits = SHARPNESS * torch.where(F.one_hot(speaker, SPEAKERS).bool(), phi, cosine)
        return embedding, F.cross_entropy(logits, speaker)


def torch_side():
    torch.manual_seed(201)
    net = ECAPA()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 1.5)
    for name, p in net.named_parameters():
        if name.endswith(("se.conv1.weight", "se.conv2.weight", "asp.conv.weight", "asp.tdnn.conv.weight")):
            nn.init.normal_(p, std=0.6)
    return net.eval()


class FrameLayer(nnx.Module):
    """Convolution over time, ReLU and batch norm of (batch, time, channel)."""

    def __init__(self, cin, cout, width, rngs, dilation=1):
        self.reach = dilation * (width // 2)
        self.conv = nnx.Conv(cin, cout, (width,), kernel_dilation=dilation, padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(cout, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        if self.reach:
            x = jnp.pad(x, ((0, 0), (self.reach, self.reach), (0, 0)), mode="reflect")
        return self.norm(nnx.relu(self.conv(x)))


class Stage(nnx.Module):
    def __init__(self, cin, cout, dilation, rngs):
        self.enter = FrameLayer(cin, cout, 1, rngs)
        self.ladder = nnx.List([FrameLayer(cout // SCALE, cout // SCALE, 3, rngs, dilation) for _ in range(SCALE - 1)])
        self.leave = FrameLayer(cout, cout, 1, rngs)
        self.squeeze = nnx.Linear(cout, BOTTLENECK, rngs=rngs)
        self.excite = nnx.Linear(BOTTLENECK, cout, rngs=rngs)
        self.skip = nnx.Linear(cin, cout, rngs=rngs) if cin != cout else None

    def __call__(self, x, share):
        groups = jnp.split(self.enter(x), SCALE, axis=-1)
        done, carried = [groups[0]], 0.0
        for layer, group in zip(self.ladder, groups[1:], strict=True):
            carried = layer(group + carried)
            done.append(carried)
        y = self.leave(jnp.concatenate(done, axis=-1))
        gate = nnx.sigmoid(self.excite(nnx.relu(self.squeeze(jnp.einsum("bt,btc->bc", share, y)))))
        return y * gate[:, None, :] + (x if self.skip is None else self.skip(x))


def moments(x, weight):
    centre = jnp.sum(weight * x, axis=1, keepdims=True)
    spread = jnp.sqrt(jnp.maximum(jnp.sum(weight * jnp.square(x - centre), axis=1, keepdims=True), 1e-6))
    return centre, spread


class SpeakerNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = FrameLayer(MELS, 16, 5, rngs)
        self.stages = nnx.List([Stage(c, CHANNELS, d, rngs) for c, d in ((16, 2), (CHANNELS, 3), (CHANNELS, 4))])
        self.merge = FrameLayer(3 * CHANNELS, MERGED, 1, rngs)
        self.score_in = FrameLayer(3 * MERGED, ATTENTION, 1, rngs)
        self.score_out = nnx.Linear(ATTENTION, MERGED, use_bias=False, rngs=rngs)
        self.pooled_norm = nnx.BatchNorm(2 * MERGED, use_running_average=True, rngs=rngs)
        self.project = nnx.Linear(2 * MERGED, EMBEDDING, rngs=rngs)
        self.speakers = nnx.Param(jnp.zeros((SPEAKERS, EMBEDDING)))

    def __call__(self, mels, lengths, speaker):
        alive = jnp.arange(mels.shape[1]) < lengths[:, None]
        share = alive.astype(mels.dtype) / lengths[:, None]
        x, kept = self.stem(mels), []
        for stage in self.stages:
            x = stage(x, share)
            kept.append(x)
        x = self.merge(jnp.concatenate(kept, axis=-1))
        centre, spread = moments(x, share[..., None])
        wide = jnp.concatenate([x, jnp.broadcast_to(centre, x.shape), jnp.broadcast_to(spread, x.shape)], axis=-1)
        score = self.score_out(jnp.tanh(self.score_in(wide)))
        attention = jax.nn.softmax(jnp.where(alive[..., None], score, -jnp.inf), axis=1)
        pooled = jnp.concatenate(moments(x, attention), axis=-1)[:, 0]
        embedding = self.project(self.pooled_norm(pooled))
        unit = embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)
        table = self.speakers[...] / jnp.linalg.norm(self.speakers[...], axis=-1, keepdims=True)
        cos = jnp.einsum("be,se->bs", unit, table)
        own = jnp.take_along_axis(cos, speaker[:, None], axis=1)
        sin = jnp.sqrt(jnp.clip(1.0 - own**2, 1e-6, 1.0))
        harder = own * np.cos(MARGIN) - sin * np.sin(MARGIN)
        harder = jnp.where(own > np.cos(np.pi - MARGIN), harder, own - MARGIN * np.sin(MARGIN))
        logits = SHARPNESS * jnp.where(jnp.arange(SPEAKERS) == speaker[:, None], harder, cos)
        logp = jax.nn.log_softmax(logits, axis=-1)
        return embedding, -jnp.mean(jnp.take_along_axis(logp, speaker[:, None], axis=1))


def jax_side():
    state = {k: jnp.asarray(v.numpy()) for k, v in torch_side().state_dict().items()}
    model = SpeakerNet(nnx.Rngs(0))

    def dense(layer, key):
        weight = state[key + ".weight"]
        layer.kernel.set_value(weight.reshape(weight.shape[:2]).T)
        if key + ".bias" in state:
            layer.bias.set_value(state[key + ".bias"])

    def norm(layer, key):
        layer.scale.set_value(state[key + ".weight"])
        layer.bias.set_value(state[key + ".bias"])
        layer.mean.set_value(state[key + ".running_mean"])
        layer.var.set_value(state[key + ".running_var"])

    def frames(layer, key):
        layer.conv.kernel.set_value(state[key + ".conv.weight"].transpose(2, 1, 0))
        layer.conv.bias.set_value(state[key + ".conv.bias"])
        norm(layer.norm, key + ".norm")

    frames(model.stem, "stem")
    for i, stage in enumerate(model.stages):
        frames(stage.enter, f"blocks.{i}.tdnn1")
        for j, layer in enumerate(stage.ladder):
            frames(layer, f"blocks.{i}.res2net.blocks.{j}")
        frames(stage.leave, f"blocks.{i}.tdnn2")
        dense(stage.squeeze, f"blocks.{i}.se.conv1")
        dense(stage.excite, f"blocks.{i}.se.conv2")
        if stage.skip is not None:
            dense(stage.skip, f"blocks.{i}.shortcut")
    frames(model.merge, "mfa")
    frames(model.score_in, "asp.tdnn")
    dense(model.score_out, "asp.conv")
    norm(model.pooled_norm, "asp_bn")
    dense(model.project, "fc")
    model.speakers.set_value(state["prototypes"])
    return model


MISTAKES = [
    {
        "name": "the convolutions over time are padded with zeros instead of by reflection",
        "side": "jax",
        "old": '(0, 0)), mode="reflect")',
        "new": "(0, 0)))",
        "line": 157,
    },
    {
        "name": "the batch norm comes before the ReLU instead of after it",
        "side": "jax",
        "old": "return self.norm(nnx.relu(self.conv(x)))",
        "new": "return nnx.relu(self.norm(self.conv(x)))",
        "line": 158,
    },
    {
        "name": "a group of the Res2 block is summed with the previous group's input instead of with its output",
        "side": "jax",
        "old": "            carried = layer(group + carried)\n            done.append(carried)",
        "new": "            done.append(layer(group + carried))\n            carried = group",
        "line": 174,
    },
    {
        "name": "the squeeze averages over all frames, padding included",
        "side": "torch",
        "old": "s = (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)",
        "new": "s = x.mean(dim=2, keepdim=True)",
        "line": 65,
    },
    {
        "name": "the attention's context is concatenated as (std, mean) instead of (mean, std)",
        "side": "torch",
        "old": "context = [mean.unsqueeze(2).expand_as(x), std.unsqueeze(2).expand_as(x)]",
        "new": "context = [std.unsqueeze(2).expand_as(x), mean.unsqueeze(2).expand_as(x)]",
        "line": 98,
    },
]
