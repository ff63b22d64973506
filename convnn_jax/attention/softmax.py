"""Multi-head softmax attention, the yardstick of all other variants.

Source: Vaswani et al., "Attention Is All You Need", section 3.2; without biases by default, as in the final
published ConvNN code.
"""

from typing import Any

import flax.linen as nn

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend
from convnn_jax.layers.dense import merge_dense, split_dense
from convnn_jax.ops.similarity import similarity


class SoftmaxAttention(nn.Module):
  """softmax(q k^T / sqrt(d)) v, heads side by side, output projection: x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    dropout_rate: on the attention weights.
    qkv_bias: biases on the query, key and value projections.
    out_bias: bias on the output projection.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
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
    project = lambda inputs, name: split_dense(
      self.num_heads, d, inputs.shape[-1], bias=self.qkv_bias, name=name, dtype=self.dtype
    )(inputs)
    query, key, value = project(x, "query"), project(source, "key"), project(source, "value")

    scores = similarity(query, key, kind="dot", scale=d**-0.5)  # [b h n m]
    if bias is not None:
      scores = scores + bias
    out = attend(self, scores, value, train=train)
    return merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype)(out)
