"""Local attention: windows of tokens that see themselves and their neighbour windows, with rotary positions.

Source: local-attention (lucidrains), as used by the published ConvNN comparison. Along the raster order of the tokens,
class token first; not a two-dimensional window (see neighborhood for that).

Published accidents, as words in `quirks`:
  visible_padding  the zeros that fill up the last window take part in the softmax
  shifted_rotary   query positions are off by look_forward windows
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.attention.core import attend, no_context
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import dense, merge_dense, split_dense
from convnn_jax.layers.norm import layer_norm
from convnn_jax.ops import masks
from convnn_jax.ops.rotary import rotate
from convnn_jax.ops.similarity import similarity

QUIRKS = ("visible_padding", "shifted_rotary")
QK_NORMS = ("none", "l2")
REACHES = ("exact", "windows")


class LocalAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h.
    head_dim: d, whatever the width is.
    window_size: tokens of a window.
    look_backward, look_forward: windows seen before and after a token's own.
    reach: "exact" (at most window_size * look_... tokens away) or "windows" (all tokens of the windows).
    causal: True sees no later token; needs look_forward=0.
    positions: "rotary" or "none".
    qk_norm: "none" or "l2" (unit queries and keys with learned channel scales, times 8).
    scale: factor of the scores; 0 = d ** -0.5, or 8 with qk_norm="l2".
    gate: True multiplies each head by sigmoid of a linear map of the input.
    prenorm: True puts a LayerNorm in front.
    shared_qk: True uses normalised queries as keys.
    dropout_rate: on the attention weights.
    quirks: see the top of this file.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  head_dim: int = 64
  window_size: int = 128
  look_backward: int = 1
  look_forward: int = 1
  reach: str = "exact"
  causal: bool = False
  positions: str = "rotary"
  qk_norm: str = "none"
  scale: float = 0.0
  gate: bool = False
  prenorm: bool = False
  dropout_rate: float = 0.1
  quirks: tuple[str, ...] = ()
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has no `context`."""
    del grid
    self._check(context)
    n, c = x.shape[1:]
    h, d = self.num_heads, self.head_dim
    if self.prenorm:
      x = layer_norm("norm", self.dtype)(x)
    project = lambda name: split_dense(h, d, c, bias=False, name=name, dtype=self.dtype)(x)
    query, key, value = (project(name) for name in ("query", "key", "value"))
    scale = self.scale or d**-0.5
    if self.qk_norm == "l2":
      scale = self.scale or 8.0
      query, key = (self._unit(y, name) for y, name in ((query, "query_scale"), (key, "key_scale")))

    padded = n
    if "visible_padding" in self.quirks:
      padded = -(-n // self.window_size) * self.window_size
      fill = lambda y: jnp.pad(y, ((0, 0), (0, padded - n), (0, 0), (0, 0)))
      key, value = fill(key), fill(value)
    if self.positions == "rotary":
      shift = self.window_size * self.look_forward if "shifted_rotary" in self.quirks else 0
      query, key = rotate(query, jnp.arange(n) + shift), rotate(key, jnp.arange(padded))

    scores = similarity(query, key, kind="dot", scale=scale)  # [b h n padded]
    mask = masks.local_windows(
      padded,
      self.window_size,
      backward=self.look_backward,
      forward=self.look_forward,
      exact=self.reach == "exact",
      causal=self.causal,
    )[:n]
    scores = scores + masks.hidden_bias(mask, scores.dtype)[None, None]
    if bias is not None:
      bias = jnp.broadcast_to(bias, (*scores.shape[:-1], n))
      scores = scores + jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, padded - n)))
    out = attend(self, scores, value, train=train)
    if self.gate:
      gates = dense(h, c, bias=True, name="gate_layer", dtype=self.dtype)(x)
      out = out * jax.nn.sigmoid(gates)[..., None]
    return merge_dense(c, h * d, bias=False, name="out", dtype=self.dtype)(out)

  def _unit(self, heads, name):
    """Unit vectors times a learned scale per channel."""
    wide = heads.astype(jnp.promote_types(heads.dtype, jnp.float32))
    norm = jnp.sqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24))
    scale = self.param(name, nn.initializers.ones, (self.head_dim,), jnp.float32)
    return (wide / norm * scale[None, None, None]).astype(heads.dtype)

  def _check(self, context):
    no_context("local", context)
    for quirk in self.quirks:
      if quirk not in QUIRKS:
        raise unknown_name("quirk", quirk, QUIRKS)
    for field, words in (("qk_norm", QK_NORMS), ("reach", REACHES), ("positions", ("rotary", "none"))):
      if getattr(self, field) not in words:
        raise unknown_name(field, getattr(self, field), words)
    if self.window_size < 1 or self.look_backward < 0 or self.look_forward < 0:
      raise UserError(
        f"window_size={self.window_size} must be at least 1, look_backward={self.look_backward} and"
        f" look_forward={self.look_forward} at least 0."
      )
    if self.causal and self.look_forward:
      raise UserError(f"causal=True needs look_forward=0, not {self.look_forward}.")
    if self.positions == "rotary" and self.head_dim % 2:
      raise UserError(f"head_dim={self.head_dim} must be even for rotary positions.")
