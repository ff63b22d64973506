"""k-NN attention: softmax over each query's k largest scores only.

Source: Wang et al., "KVT: k-NN Attention for Boosting Vision Transformers", section 3.2. Exactly k keys are kept; among
equal scores the lower index.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend, project_qkv
from convnn_jax.layers.dense import merge_dense
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.selection import keep_neighbors
from convnn_jax.ops.similarity import similarity_to_select


class KnnAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    num_neighbors: k, keys kept per query; the others get weight 0.
    scale: factor of the scores; 0 = d ** -0.5.
    dropout_rate: on the attention weights.
    qkv_bias: biases on the query, key and value projections.
    out_bias: bias on the output projection (the original has one, the published ConvNN comparison none).
    dtype: compute dtype; scores, selection and softmax stay float32.
  """

  num_heads: int = 3
  num_neighbors: int = 100
  scale: float = 0.0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__."""
    del grid
    c = x.shape[-1]
    d = head_width(c, self.num_heads)
    source = x if context is None else context
    query, key, value = project_qkv(self, x, source, d, bias=self.qkv_bias)
    scores = similarity_to_select(query, key, kind="dot", scale=self.scale or d**-0.5)  # [b h n m]
    if bias is not None:
      scores = scores + bias
    scores = jnp.where(keep_neighbors(scores, self.num_neighbors), scores, inside(scores, -jnp.inf))
    out = attend(self, scores, value, train=train)
    return merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype)(out)
