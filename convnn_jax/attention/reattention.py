"""Re-attention: the heads' attention matrices are mixed by a learned matrix, then normalised over the heads.

Source: Zhou et al., "DeepViT: Towards Deeper Vision Transformer", section 4.2, in the form of vit-pytorch:
dropout before the mixing, nothing renormalised after it, so rows do not sum to 1 and weights may be negative.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import project_qkv
from convnn_jax.layers.dense import merge_dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.norm import layer_norm
from convnn_jax.ops.products import mix_values
from convnn_jax.ops.similarity import similarity


class ReAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c unless head_dim is given.
    head_dim: d; 0 = c / h.
    dropout_rate: on the attention weights, before heads are mixed.
    qkv_bias: biases on the query, key and value projections.
    out_bias: bias on the output projection.
    dtype: compute dtype; scores, softmax and the norm over heads stay float32.
  """

  num_heads: int = 3
  head_dim: int = 0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__."""
    del grid
    c, h = x.shape[-1], self.num_heads
    d = head_width(c, h, self.head_dim)
    source = x if context is None else context
    query, key, value = project_qkv(self, x, source, d, bias=self.qkv_bias)
    scores = similarity(query, key, kind="dot", scale=d**-0.5)  # [b h n m]
    if bias is not None:
      scores = scores + bias
    weights = Dropout(self.dropout_rate)(jax.nn.softmax(scores, axis=-1), deterministic=not train)

    mix = self.param("head_mix", nn.initializers.normal(1.0), (h, h), jnp.float32)
    mixed = jnp.einsum("bhnm,hg->bnmg", weights, mix.astype(weights.dtype))
    mixed = jnp.moveaxis(layer_norm("head_norm", weights.dtype)(mixed), -1, 1)  # [b g n m]
    self.sow("intermediates", "attention_weights", mixed)
    out = mix_values(mixed.astype(value.dtype), value)
    return merge_dense(c, h * d, bias=self.out_bias, name="out", dtype=self.dtype)(out)
