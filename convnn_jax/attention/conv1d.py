"""A convolution along the token sequence in place of attention: the baseline of the branching experiments.

Source: the published ConvNN code. One projection, heads split, one convolution shared by the heads, output
projection, all with biases; no dropout. The class token is just the first token.

Quirk `scrambled_heads`: heads are merged by a reshape that mixes tokens and channels, as published.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.base import head_width, wants_weights
from convnn_jax.attention.core import no_context
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import merge_dense, split_dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.init import kernel_init, uniform
from convnn_jax.layers.merge_heads import scramble_heads

QUIRKS = ("scrambled_heads",)


class Conv1dAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    kernel_size: tokens; the zeros that keep the length are (kernel_size - 1) // 2 in front, the rest behind.
    dropout_rate: on the result of the convolution; 0 as published.
    quirks: see the top of this file.
    dtype: compute dtype.
  """

  num_heads: int = 3
  kernel_size: int = 9
  dropout_rate: float = 0.0
  quirks: tuple[str, ...] = ()
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has neither `context` nor `bias`."""
    del grid
    no_context("conv1d", context)
    if bias is not None:
      raise UserError(
        "conv1d attention has no scores that a bias could be added to; use softmax or convnn, in Swin"
        " model.shift='pad'."
      )
    for quirk in self.quirks:
      if quirk not in QUIRKS:
        raise unknown_name("quirk", quirk, QUIRKS)
    if self.kernel_size < 1:
      raise UserError(f"kernel_size={self.kernel_size} must be at least 1.")
    b, n, c = x.shape
    h = self.num_heads
    d = head_width(c, h)
    left = (self.kernel_size - 1) // 2
    heads = split_dense(dict(value=x), h, d, bias=True, dtype=self.dtype)["value"]
    convolve = nn.Conv(
      d,
      (self.kernel_size,),
      padding=[(left, self.kernel_size - 1 - left)],
      kernel_init=kernel_init,
      bias_init=uniform(d * self.kernel_size),
      dtype=self.dtype,
      name="convolution",
    )
    out = convolve(jnp.swapaxes(heads, 1, 2).reshape(b * h, n, d)).reshape(b, h, n, d)
    if wants_weights(self):
      kernel = self.get_variable("params", "convolution")["kernel"]
      self.sow("intermediates", "attention_weights", _tap_weights(kernel, b, h, n, left))
    out = Dropout(self.dropout_rate)(out, deterministic=not train)
    out = scramble_heads(out) if self.quirks else out
    return merge_dense(c, c, bias=True, name="out", dtype=self.dtype)(jnp.swapaxes(out, 1, 2))


def _tap_weights(kernel, b, h, n, left):
  """The size of each tap's matrix as the weight of its token, rows summing to 1: [b h n n]."""
  size = jnp.sqrt(jnp.sum(kernel.astype(jnp.float32) ** 2, axis=(1, 2)))
  tap = jnp.arange(n)[None] - jnp.arange(n)[:, None] + left
  inside = (tap >= 0) & (tap < len(size))
  weights = jnp.where(inside, size[jnp.clip(tap, 0, len(size) - 1)], 0.0)
  weights = weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-12)
  return jnp.broadcast_to(weights[None, None], (b, h, n, n))
