"""Multi-head softmax attention, the yardstick of all other variants.

Source: Vaswani et al., "Attention Is All You Need", section 3.2; without biases by default, as in the final
published ConvNN code.
"""

from typing import Any

import flax.linen as nn

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend, project_qkv
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import merge_dense
from convnn_jax.ops.similarity import similarity

OUT_PROJECTIONS = ("linear", "none")


class MultiHeadAttention(nn.Module):
  """softmax(q k^T / sqrt(d)) v, heads side by side, output projection, with three inputs.

  query [b n c], key [b m c'], value [b m c''] -> [b n c].

  Attributes:
    num_heads: h; must divide c unless head_dim is given.
    head_dim: d; 0 = c / h. (max(c // h, 1) is what some published code takes where h does not divide c.)
    dropout_rate: on the attention weights.
    qkv_bias: biases on the query, key and value projections.
    out_bias: bias on the output projection.
    out_projection: "linear", or "none" for heads side by side as they are (needs h d = c).
    linear_init: of the projections, a word of layers/init.py; "normal" in compact transformers.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  head_dim: int = 0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = False
  out_projection: str = "linear"
  linear_init: str = "uniform"
  dtype: Any = None

  @nn.compact
  def __call__(self, query, key, value, *, train, bias=None):
    """`bias` is added to the scores, broadcast to [b h n m]."""
    shape, c = query.shape, query.shape[-1]
    d = head_width(c, self.num_heads, self.head_dim)
    self._check(c, d)
    query, key, value = project_qkv(self, query, key, d, bias=self.qkv_bias, value_source=value)

    scores = similarity(query, key, kind="dot", scale=d**-0.5)  # [b h n m]
    if bias is not None:
      scores = scores + bias
    out = attend(self, scores, value, train=train)
    if self.out_projection == "none":
      return out.reshape(shape)
    return merge_dense(
      c, self.num_heads * d, bias=self.out_bias, name="out", dtype=self.dtype, init=self.linear_init
    )(out)

  def _check(self, c, d):
    if self.out_projection not in OUT_PROJECTIONS:
      raise unknown_name("out_projection", self.out_projection, OUT_PROJECTIONS)
    if self.out_projection == "none" and (self.num_heads * d != c or self.out_bias):
      raise UserError(
        f"out_projection='none' needs num_heads * head_dim = {self.num_heads} * {d} to be the width {c}, and"
        " out_bias=False; use out_projection='linear'."
      )


class SoftmaxAttention(MultiHeadAttention):
  """Multi-head attention of tokens among themselves, or to a context: x [b n c] -> [b n c].

  Attributes: those of MultiHeadAttention.
  """

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__."""
    del grid
    source = x if context is None else context
    return super().__call__(x, source, source, train=train, bias=bias)
