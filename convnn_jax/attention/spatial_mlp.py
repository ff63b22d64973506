"""A learned mixing of positions in place of attention, one matrix per head.

Source: SwinMLP, in the code of Liu et al., "Swin Transformer". No queries, keys or values, and no output projection: a
head's channels are mixed over the tokens by the same matrix.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.base import head_width, wants_weights
from convnn_jax.attention.core import no_context
from convnn_jax.errors import UserError
from convnn_jax.layers.dropout import Dropout


class SpatialMlp(nn.Module):
  """y[i] = sum_j kernel[i, j] x[j] + bias[i] within every head: x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    init_std: standard deviation of the initial kernel.
    dropout_rate: on the result; 0 as published.
    dtype: compute dtype.
  """

  num_heads: int = 3
  init_std: float = 0.02
  dropout_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has neither `context` nor `bias`; the number of tokens is fixed by the parameters."""
    del grid
    no_context("spatial_mlp", context)
    if bias is not None:
      raise UserError(
        "spatial_mlp attention has no scores that a bias could be added to; in Swin use model.shift='pad'."
      )
    b, n, c = x.shape
    h = self.num_heads
    d = head_width(c, h)
    kernel = self.param("kernel", nn.initializers.normal(self.init_std), (h, n, n), jnp.float32)
    offset = self.param("bias", nn.initializers.zeros, (h, n), jnp.float32)
    if wants_weights(self):
      self.sow("intermediates", "attention_weights", jnp.broadcast_to(kernel[None], (b, h, n, n)))
    x, kernel, offset = nn.dtypes.promote_dtype(x, kernel, offset, dtype=self.dtype)
    heads = jnp.einsum("hnm,bmhd->bnhd", kernel, x.reshape(b, n, h, d)) + offset.T[None, :, :, None]
    return Dropout(self.dropout_rate)(heads.reshape(b, n, c), deterministic=not train)
