"""Neighbourhood attention: each query sees exactly the `window_size` nearest tokens.

Source: Hassani et al., "Neighborhood Attention Transformer"; Hassani and Shi, "Dilated Neighborhood Attention
Transformer". At the borders the window moves inwards instead of being cut. The published comparison runs along the
token sequence; `layout="grid"`, windows of rows x columns with class tokens that see all and are seen by all, is our
extension.
"""

from typing import Any

import flax.linen as nn
import numpy as np

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend, no_context, project_qkv
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import merge_dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.ops import masks
from convnn_jax.ops.similarity import similarity

LAYOUTS = ("sequence", "grid")


class NeighborhoodAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    window_size: tokens seen along the sequence, or along each axis of the grid; an even one has one more before.
    layout: "sequence" or "grid".
    dilation: distance between seen tokens; window_size * dilation must fit.
    stride: so many queries in a row share a window.
    causal: True sees the last `window_size` tokens up to the query itself.
    scale: factor of the scores; 0 = d ** -0.5.
    dropout_rate: after the output projection (there is none on the weights).
    qkv_bias, out_bias: biases on the projections.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  window_size: int = 9
  layout: str = "sequence"
  dilation: int = 1
  stride: int = 1
  causal: bool = False
  scale: float = 0.0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has no `context`; layout="grid" needs `grid`."""
    no_context("neighborhood", context)
    n, c = x.shape[1:]
    mask = self._mask(n, grid)
    d = head_width(c, self.num_heads)
    query, key, value = project_qkv(self, x, x, d, bias=self.qkv_bias)
    scores = similarity(query, key, kind="dot", scale=self.scale or d**-0.5)
    scores = scores + masks.hidden_bias(mask, scores.dtype)[None, None]
    if bias is not None:
      scores = scores + bias
    out = attend(self, scores, value, train=train, dropout_rate=0.0)
    out = merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype)(out)
    return Dropout(self.dropout_rate)(out, deterministic=not train)

  def _mask(self, num_tokens, grid):
    options = dict(dilation=self.dilation, stride=self.stride, causal=self.causal)
    along = lambda count, counted: masks.neighborhood(count, self.window_size, counted=counted, **options)
    if self.layout == "sequence":
      return along(num_tokens, "tokens")
    if self.layout != "grid":
      raise unknown_name("layout", self.layout, LAYOUTS)
    if grid is None or grid.num_tokens != num_tokens:
      raise UserError(
        f"neighborhood attention with layout='grid' needs the TokenGrid of its {num_tokens} tokens, not {grid}; use"
        " layout='sequence' where there is none."
      )
    rows, columns = along(grid.rows, "rows of the grid"), along(grid.columns, "columns of the grid")
    return masks.with_prefix(np.kron(rows, columns), grid.num_prefix)
