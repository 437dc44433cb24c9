"""Swin's shifted windows: the picture is rolled, cut into windows that attend within themselves, and rolled back."""

import torch
from torch import nn


def cut(x, w):
    B, H, W, C = x.shape
    return x.view(B, H // w, w, W // w, w, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, C)


def paste(x, w, B, H, W):
    return x.view(B, H // w, W // w, w, w, -1).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, -1)


def regions(n, w, shift):
    """Rows of the rolled picture that were neighbours before have one number."""
    i = torch.arange(n)
    return (i >= n - w).long() + (i >= n - shift).long()


class ShiftedWindows(nn.Module):
    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.empty(heads, window**2, window**2))

    def forward(self, x):
        B, H, W, C = x.shape
        w, shift = self.window, self.shift
        rolled = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))  # here
        windows = cut(rolled, w)
        q, k, v = self.qkv(windows).view(-1, w * w, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        region = 3 * regions(H, w, shift)[:, None] + regions(W, w, shift)
        region = cut(region[None, :, :, None], w).squeeze(-1)
        apart = region[:, None, :] != region[:, :, None]
        scores = q @ k.transpose(-2, -1) * (C // self.heads) ** -0.5 + self.bias
        scores = scores.view(B, -1, *scores.shape[1:]) + apart[:, None] * -100.0
        y = scores.flatten(0, 1).softmax(dim=-1) @ v
        y = paste(self.proj(y.transpose(1, 2).flatten(2)), w, B, H, W)
        return torch.roll(y, shifts=(shift, shift), dims=(1, 2))


def build():
    return ShiftedWindows(width=6, heads=2, window=2, shift=1)


def inputs(rng):
    return (rng.normal(size=(2, 4, 6, 6)),)
