"""Attention that knows the relative positions of its tokens: that of Swin Transformer, V1 and V2, in one window.

Sources: Liu et al., "Swin Transformer", section 3.2 (scaled dot product, a table of biases); Liu et al., "Swin
Transformer V2", section 3.2 and 3.3 (scaled cosine, biases from an MLP over log-spaced offsets); "Improving Redundancy
in Attention", a fork of Swin, for the residual on queries and keys and the weights of relative positions.

    scores = similarity(q, k) * (scale + weight[offset]) + bias[offset] + the caller's bias

A backbone cuts its image into windows, which become examples here; `grid` is then the window.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend, no_context
from convnn_jax.errors import UserError, choose, unknown_name
from convnn_jax.layers.dense import add_to_each, merge_dense, split_dense
from convnn_jax.layers.init import normal_or_zeros
from convnn_jax.layers.position_mlp import PositionMlp
from convnn_jax.ops.similarity import similarity
from convnn_jax.ops.windows import log_coordinates, pair, relative_index

SIMILARITIES = ("dot", "cosine")
RELATIVE_BIASES = ("table", "mlp", "none")
REL_POS_WEIGHTS = ("none", "table", "mlp")
BOUNDS = {"none": lambda x: x, "sigmoid16": lambda x: 16 * nn.sigmoid(x)}
# The largest logarithm of the factor of a cosine, rounded as published.
_LARGEST_SCALE = float(np.log(np.float32(100)))


class WindowAttention(nn.Module):
  """x [b n c] -> [b n c]; needs `grid`, whose prefix tokens have bias and weight 0.

  Attributes:
    num_heads: h; must divide c.
    similarity: "dot" (V1), times `scale`, or "cosine" (V2), times a learned factor per head, at most 100.
    scale: factor of the dot product; 0 = d ** -0.5.
    relative_bias: a bias per head and offset from a "table" (V1), an "mlp" over log-spaced offsets (V2), or "none".
    relative_bias_bound: of the MLP's result x: "sigmoid16", 16 sigmoid(x), as in V2, or "none".
    pretrained_window: rows and columns of the window in which an MLP was trained, which is the unit of its offsets;
      0 = this window.
    qk_residual: adds the tokens themselves to their queries and keys, so that attention starts near the identity.
    rel_pos_weight: a factor per head and offset, added to that of the similarity: "none", "table" or "mlp".
    rel_pos_weight_bound: like relative_bias_bound.
    rel_pos_weight_std: standard deviation of the initial table, or of both kernels of the MLP; 0 = starts as without
      weights (the MLP's last kernel is 0). Published: 1e-4 and 2e-4. 0 with rel_pos_weight="none".
    qkv_bias: biases on the projections; with similarity="cosine" the key has none.
    dropout_rate: on the attention weights.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  similarity: str = "dot"
  scale: float = 0.0
  relative_bias: str = "table"
  relative_bias_bound: str = "sigmoid16"
  pretrained_window: tuple[int, ...] = (0, 0)
  qk_residual: bool = False
  rel_pos_weight: str = "none"
  rel_pos_weight_bound: str = "none"
  rel_pos_weight_std: float = 0.0
  qkv_bias: bool = True
  dropout_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; needs `grid` and has no `context`."""
    no_context("window", context)
    self._check(x.shape[1], grid)
    c = x.shape[-1]
    d = head_width(c, self.num_heads)

    bias_of = dict(query=self.qkv_bias, key=self.qkv_bias and self.similarity == "dot", value=self.qkv_bias)
    heads = split_dense(
      dict.fromkeys(bias_of, x), self.num_heads, d, bias=bias_of, dtype=self.dtype, init="normal"
    )
    query, key, value = heads.values()
    if self.qk_residual:
      query, key = (y + x.astype(y.dtype).reshape(y.shape) for y in (query, key))
    scores = similarity(query, key, kind=self.similarity) * self._factor(d, grid)  # [b h n m]
    if self.relative_bias != "none":
      relative = self._relative("relative_bias", self.relative_bias, self.relative_bias_bound, grid)
      scores = add_to_each(scores, relative[0])
    if bias is not None:
      scores = scores + bias
    out = attend(self, scores, value, train=train)
    return merge_dense(c, c, bias=True, name="out", dtype=self.dtype, init="normal")(out)

  def _factor(self, d, grid):
    """What similarities are multiplied by: broadcast to [1 h n m]."""
    if self.similarity == "dot":
      factor = self.scale or d**-0.5
    else:
      start = nn.initializers.constant(np.log(10.0))
      logarithm = self.param("logit_scale", start, (self.num_heads,), jnp.float32)
      factor = jnp.exp(jnp.minimum(logarithm, _LARGEST_SCALE))[None, :, None, None]
    if self.rel_pos_weight == "none":
      return factor
    return factor + self._relative("rel_pos_weight", self.rel_pos_weight, self.rel_pos_weight_bound, grid)

  def _relative(self, name, kind, bound, grid):
    """A value per head and pair of tokens, which depends on their offset only: [1 h n m]."""
    window = (grid.rows, grid.columns)
    std = self.rel_pos_weight_std if name == "rel_pos_weight" else 0.02
    if kind == "table":
      shape = ((2 * window[0] - 1) * (2 * window[1] - 1), self.num_heads)
      table = self.param(f"{name}_table", normal_or_zeros(std), shape, jnp.float32)
    else:
      offsets = log_coordinates(window, pair("pretrained_window", self.pretrained_window))
      table = BOUNDS[bound](PositionMlp(self.num_heads, std, name=f"{name}_mlp")(offsets))
    pairs = jnp.take(table, relative_index(window), axis=0).transpose(2, 0, 1)  # [h n m]
    prefix = (grid.num_prefix, 0)
    return jnp.pad(pairs, ((0, 0), prefix, prefix))[None]

  def _check(self, num_tokens, grid):
    for field, words in dict(
      similarity=SIMILARITIES, relative_bias=RELATIVE_BIASES, rel_pos_weight=REL_POS_WEIGHTS
    ).items():
      if getattr(self, field) not in words:
        raise unknown_name(field, getattr(self, field), words)
    choose("relative_bias_bound", self.relative_bias_bound, BOUNDS)
    choose("rel_pos_weight_bound", self.rel_pos_weight_bound, BOUNDS)
    if self.rel_pos_weight_std < 0:
      raise UserError(f"rel_pos_weight_std={self.rel_pos_weight_std} must be at least 0.")
    if self.rel_pos_weight_std and self.rel_pos_weight == "none":
      raise UserError(
        f"rel_pos_weight_std={self.rel_pos_weight_std} has no effect with rel_pos_weight='none'; leave it out, or use"
        " rel_pos_weight='table' or 'mlp'."
      )
    if grid is None or grid.num_tokens != num_tokens:
      raise UserError(
        f"window attention needs the TokenGrid of its {num_tokens} tokens, not {grid}: it relates positions."
      )
