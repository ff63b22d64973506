"""ViT-Tiny with attentions as one writes them down in PyTorch: the yardstick of "literal PyTorch".

Written from the published description of the layers, not taken from their code; parameters have the published names,
so that convnn_jax/convert reads them. Pre-norm blocks, class token, fixed sinusoidal positions, no final norm.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def split_heads(x, heads):
  """[b n c] -> [b h n d]."""
  return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def take_rows(value, index):
  """Rows of value [b h n d] at index [b h n k]: [b h n k d].

  Of the ways to write it the one with the fastest backward pass: a gather along an expanded axis fills and sums a
  gradient of the expanded size.
  """
  b, h, n, d = value.shape
  begins = n * torch.arange(b * h, device=index.device).view(b, h, 1, 1)
  return value.reshape(-1, d).index_select(0, (index + begins).flatten()).view(*index.shape, d)


class Softmax(nn.Module):
  """Softmax attention, x [b n c] -> [b n c]."""

  def __init__(self, width, heads, dropout, k=0):
    super().__init__()
    del k
    self.heads, self.dropout = heads, nn.Dropout(dropout)
    self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(width, width, bias=False) for _ in range(4))

  def forward(self, x):
    query, key, value = (split_heads(f(x), self.heads) for f in (self.W_q, self.W_k, self.W_v))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    out = self.dropout(torch.softmax(scores, dim=-1)) @ value
    return self.W_o(out.transpose(1, 2).flatten(2))


class ConvNN(nn.Module):
  """Neighbour attention with a depthwise convolution, x [b n c] -> [b n c].

  Compare all tokens, take the k nearest of each, weight them by a softmax over their scores, lay them side by side as
  a sequence of n k places, and convolve it with length k and stride k.
  """

  def __init__(self, width, heads, dropout, k, convolution="depthwise"):
    super().__init__()
    d = width // heads
    self.heads, self.k, self.dropout = heads, k, nn.Dropout(dropout)
    self.W_q, self.W_k, self.W_v, self.W_o = (nn.Linear(width, width, bias=False) for _ in range(4))
    groups = d if convolution == "depthwise" else 1
    self.conv = nn.Conv1d(d, d, k, stride=k, groups=groups, bias=False)
    if convolution == "depthwise":
      nn.init.ones_(self.conv.weight)

  def forward(self, x):
    # As published: rows come from W_k.
    query, key, value = (split_heads(f(x), self.heads) for f in (self.W_k, self.W_q, self.W_v))
    values, index = self.neighbors(query, key)
    chosen = take_rows(value, index) * torch.softmax(values, dim=-1).unsqueeze(-1)
    sequence = chosen.flatten(2, 3).flatten(0, 1).transpose(1, 2)  # [b*h d n*k]
    out = self.dropout(self.conv(sequence)).unflatten(0, (-1, self.heads))  # [b h d n]
    return self.W_o(out.permute(0, 3, 1, 2).flatten(2))

  def neighbors(self, query, key):
    """Scores and places [b h n k] of the nearest keys."""
    return torch.topk(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), self.k, dim=-1)


ATTENTIONS = {"softmax": Softmax, "convnn": ConvNN}


class Block(nn.Module):
  """Pre-norm residual block."""

  def __init__(self, width, mlp, dropout, attention):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.attention, self.dropout = attention, nn.Dropout(dropout)
    self.mlp = nn.Sequential(nn.Linear(width, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, width))

  def forward(self, x):
    x = x + self.dropout(self.attention(self.norm1(x)))
    return x + self.dropout(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
  """Images [b 3 y x] -> normalised patch tokens [b n c]."""

  def __init__(self, patch, width):
    super().__init__()
    self.linear_projection = nn.Conv2d(3, width, patch, stride=patch)
    self.norm = nn.LayerNorm(width)

  def forward(self, images):
    return self.norm(self.linear_projection(images).flatten(2).transpose(1, 2))


class Positions(nn.Module):
  """Puts the class token in front and adds the sinusoidal table."""

  def __init__(self, tokens, width):
    super().__init__()
    self.cls_tokens = nn.Parameter(torch.randn(1, 1, width))
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(tokens)[:, None] * rates
    self.register_buffer("pe", torch.stack([torch.sin(angle), torch.cos(angle)], dim=-1).flatten(1)[None])

  def forward(self, x):
    return torch.cat([self.cls_tokens.expand(len(x), -1, -1), x], dim=1) + self.pe


class ViT(nn.Module):
  """Images [b 3 y x] -> logits [b classes]."""

  def __init__(
    self, attention, *, image, patch, k=0, heads=3, width=192, depth=12, mlp=768, dropout=0.1, classes=10
  ):
    super().__init__()
    self.patch_embedding = PatchEmbedding(patch, width)
    self.positional_encoding = Positions((image // patch) ** 2 + 1, width)
    make = lambda: ATTENTIONS[attention](width, heads, dropout, k)
    self.transformer_encoder = nn.Sequential(*(Block(width, mlp, dropout, make()) for _ in range(depth)))
    self.classifier = nn.Linear(width, classes)

  def forward(self, images):
    x = self.positional_encoding(self.patch_embedding(images))
    return self.classifier(self.transformer_encoder(x)[:, 0])


def loss(logits, labels):
  """Mean cross-entropy."""
  return F.cross_entropy(logits, labels)
