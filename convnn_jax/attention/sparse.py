"""Attention under a fixed sparse pattern of positions, both directions.

Source: Child et al., "Generating Long Sequences with Sparse Transformers", in the form of the published ConvNN
comparison: not causal, one pattern at a time. There `strided` splits the tokens into classes that never exchange
anything in any layer; the union `local_strided` and `global_tokens` are our extensions against that.
"""

from typing import Any

import flax.linen as nn

from convnn_jax.attention.base import head_width
from convnn_jax.attention.core import attend, no_context, project_qkv
from convnn_jax.errors import UserError, choose
from convnn_jax.layers.dense import merge_dense
from convnn_jax.ops import masks
from convnn_jax.ops.similarity import similarity

PATTERNS = {
  "all": lambda n, context: masks.band(n, n),
  "local": lambda n, context: masks.band(n, context // 2),  # an even context sees context + 1 tokens
  "strided": lambda n, context: masks.strided(n, context),
  "local_strided": lambda n, context: masks.band(n, context // 2) | masks.strided(n, context),
}


class SparseAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    pattern: "all", "local" (|i - j| <= window // 2), "strided" ((i - j) mod window == 0) or "local_strided".
    window: tokens of the pattern.
    global_tokens: so many tokens at the front see all and are seen by all; 0 as published.
    dropout_rate: on the attention weights, in training only (the published code drops in evaluation too).
    qkv_bias, out_bias: biases on the projections.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  pattern: str = "all"
  window: int = 128
  global_tokens: int = 0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has no `context`."""
    del grid
    no_context("sparse", context)
    n, c = x.shape[1:]
    make_mask = choose("pattern", self.pattern, PATTERNS)
    if self.window < 1:
      raise UserError(f"window={self.window} must be at least 1.")
    if not 0 <= self.global_tokens <= n:
      raise UserError(f"global_tokens={self.global_tokens} must lie in [0, {n}], the number of tokens.")
    mask = make_mask(n, self.window)
    mask[: self.global_tokens] = mask[:, : self.global_tokens] = True

    d = head_width(c, self.num_heads)
    query, key, value = project_qkv(self, x, x, d, bias=self.qkv_bias)
    scores = similarity(query, key, kind="dot", scale=d**-0.5)
    scores = scores + masks.hidden_bias(mask, scores.dtype)[None, None]
    if bias is not None:
      scores = scores + bias
    out = attend(self, scores, value, train=train)
    return merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype)(out)
