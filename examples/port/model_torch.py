"""A block of causal self-attention and an MLP, in PyTorch."""

import torch.nn.functional as F  # noqa: N812 - as everybody's models have it
from torch import Tensor, nn

WIDTH, HEADS = 24, 3


class Block(nn.Module):
    """A block as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output `(B, T, WIDTH)`."""
        B, T, M = x.shape
        q, k, v = (y.view(B, T, HEADS, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, M))
        return x + self.fc2(F.gelu(self.fc1(x)))
