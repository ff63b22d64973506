"""Attentions with windows, masks, branches and sampled candidates as one writes them down in PyTorch.

Written from the published description of the layers, not taken from their code; parameters have the published names,
so that convnn_jax/convert reads them. All map x [b n c] to [b n c].
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peers.vit import ConvNN, Softmax, split_heads


def _turn(x, angles):
  """Rotary positions: turns channel i with channel i + d/2; x [... n d], angles [n d]."""
  first, second = x.chunk(2, dim=-1)
  return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class Local(nn.Module):
  """Windows of tokens that see themselves and their two neighbours, with rotary positions.

  As published, the zeros that fill the last window take part, and queries stand at the last places of what they see.
  """

  def __init__(self, width, heads, dropout, window, d=64):
    super().__init__()
    self.heads, self.window, self.dropout = heads, window, nn.Dropout(dropout)
    self.to_qkv = nn.Linear(width, 3 * heads * d, bias=False)
    self.to_out = nn.Linear(heads * d, width, bias=False)
    rates = 10000.0 ** (-torch.arange(0, d, 2) / d)
    self.register_buffer("angles", (torch.arange(3 * window)[:, None] * rates).repeat(1, 2), persistent=False)

  def forward(self, x):
    n, w = x.shape[1], self.window
    padding = -n % w
    query, key, value = (split_heads(y, self.heads) for y in self.to_qkv(x).chunk(3, dim=-1))
    query, key, value = (F.pad(y, (0, 0, 0, padding)).unflatten(2, (-1, w)) for y in (query, key, value))
    key, value = self._around(key), self._around(value)
    query, key = _turn(query, self.angles[-w:]), _turn(key, self.angles)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores.masked_fill(~self._visible(n + padding, x.device), -torch.finfo(scores.dtype).max)
    out = self.dropout(torch.softmax(scores, dim=-1)) @ value
    return self.to_out(out.flatten(2, 3)[:, :, :n].transpose(1, 2).flatten(2))

  def _around(self, windows):
    """[b h windows w d] -> [b h windows 3w d]: the window before, itself, the one after; zeros beyond the ends."""
    count = windows.shape[2]
    padded = F.pad(windows, (0, 0, 0, 0, 1, 1))
    return torch.cat([padded[:, :, i : i + count] for i in range(3)], dim=3)

  def _visible(self, tokens, device):
    """[windows w 3w]: keys inside the sequence and at most a window away."""
    w = self.window
    at = torch.arange(tokens, device=device).view(-1, w)
    keys = at[:, :1] - w + torch.arange(3 * w, device=device)
    near = (at[:, :, None] - keys[:, None]).abs() <= w
    return near & ((keys >= 0) & (keys < tokens))[:, None]


class Sparse(nn.Module):
  """Softmax attention under a fixed mask: "all", "local" (a band) or "strided" (every window-th token)."""

  def __init__(self, width, heads, dropout, pattern, window, tokens):
    super().__init__()
    self.heads, self.dropout = heads, nn.Dropout(dropout)
    self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
      nn.Linear(width, width, bias=False) for _ in range(4)
    )
    apart = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs()
    hidden = {
      "all": torch.zeros_like(apart, dtype=torch.bool),
      "local": apart > window // 2,
      "strided": apart % window != 0,
    }
    self.register_buffer("hidden", hidden[pattern], persistent=False)

  def forward(self, x):
    query, key, value = (split_heads(f(x), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = torch.softmax(scores.masked_fill(self.hidden, -1e9), dim=-1)
    return self.out_proj((self.dropout(weights) @ value).transpose(1, 2).flatten(2))


class SampledConvNN(ConvNN):
  """ConvNN whose neighbours are the token itself, with score 1, and k - 1 of some candidates.

  As published, a candidate that is the token itself gets the score -0.1.
  """

  def __init__(self, width, heads, dropout, k, count, candidates):
    super().__init__(width, heads, dropout, k)
    self.count, self.candidates = count, candidates

  def neighbors(self, query, key):
    n = query.shape[2]
    chosen = self.candidates(n, self.count).to(query.device)
    itself = torch.arange(n, device=query.device)[:, None]
    scores = query @ key[:, :, chosen].transpose(-1, -2) / math.sqrt(query.shape[-1])
    values, index = torch.topk(scores.masked_fill(itself == chosen, -0.1), self.k - 1, dim=-1)
    itself = itself.expand(*index.shape[:-1], 1)
    return torch.cat([torch.ones_like(values[..., :1]), values], -1), torch.cat([itself, chosen[index]], -1)


def random(tokens, count):
  """So many tokens, drawn anew at each call."""
  return torch.randperm(tokens)[:count]


def spatial(tokens, count):
  """So many tokens evenly along the sequence."""
  return torch.linspace(0, tokens - 1, count).long()


class Conv1d(nn.Module):
  """A projection, a convolution along the tokens that the heads share, a projection."""

  def __init__(self, width, heads, length):
    super().__init__()
    self.heads = heads
    self.W_x, self.W_o = nn.Linear(width, width), nn.Linear(width, width)
    self.conv = nn.Conv1d(width // heads, width // heads, length, padding="same")

  def forward(self, x):
    heads = split_heads(self.W_x(x), self.heads)
    out = self.conv(heads.flatten(0, 1).transpose(1, 2)).unflatten(0, (-1, self.heads))  # [b h d n]
    return self.W_o(out.permute(0, 3, 1, 2).flatten(2))


class Branching(nn.Module):
  """ConvNN on the first channels, `other` under its published name on the rest, a linear layer that mixes them."""

  def __init__(self, width, convnn, **other):
    super().__init__()
    self.convnn = convnn
    (self.other,) = other
    self.add_module(self.other, other[self.other])
    self.pointwise_linear = nn.Linear(width, width)

  def forward(self, x):
    first, second = x.chunk(2, dim=-1)
    return self.pointwise_linear(torch.cat([self.convnn(first), getattr(self, self.other)(second)], dim=-1))


def make_layer(
  name: str, *, tokens=197, width=192, dropout=0.1, k=9, count=32, window=None, pattern="local"
) -> nn.Module:
  """The layer of a figure in benchmarks/layers.py.

  Args:
    name: "local", "sparse", "branching_attention", "branching_conv", "random" or "spatial".
    tokens, width, dropout: n, c and the rate of the layer's dropout.
    k: neighbours of ConvNN, and length of the convolution beside it.
    count: candidates of "random" and "spatial".
    window: None = 128 of "local", 49 of "sparse".
    pattern: of "sparse".
  """
  half = width // 2
  branch = lambda **other: Branching(width, ConvNN(half, 1, dropout, k), **other)
  layers = {
    "local": lambda: Local(width, 3, dropout, window or 128),
    "sparse": lambda: Sparse(width, 1, dropout, pattern, window or 49, tokens),
    "branching_attention": lambda: branch(attention=Softmax(half, 1, dropout)),
    "branching_conv": lambda: branch(conv1d=Conv1d(half, 1, k)),
    "random": lambda: SampledConvNN(width, 1, dropout, k, count, random),
    "spatial": lambda: SampledConvNN(width, 1, dropout, k, count, spatial),
  }
  return layers[name]()
