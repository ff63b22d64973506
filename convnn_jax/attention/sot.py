"""Self-optimal-transport attention: tokens are mixed by how they are transported to one another.

Sources: Shalam and Korman, "The Self-Optimal-Transport Feature Transform", and the study of its use in compact
transformers (github.com/tomkark/SOT_ViT), whose choices are the defaults.

The transform gives values from 0 to 1. The study multiplies them by d^-0.5 before the softmax, so every weight comes
out within about 13 % of 1/n and the attention is nearly mean pooling, whatever the regularization; raise `scale` to
sharpen it. Without the softmax, rows may sum to tens: use normalization="rows", or a small scale.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax import registry
from convnn_jax.attention.base import head_width, wants_weights
from convnn_jax.attention.core import attend, mix, no_context, project_qkv
from convnn_jax.errors import UserError, is_known, unknown_name
from convnn_jax.layers.dense import merge_dense
from convnn_jax.ops.self_transport import choose_domain, self_transport

VARIANTS = ("query", "query_key", "query_key_transposed")
NORMALIZATIONS = ("softmax", "rows", "none")


class SotAttention(nn.Module):
  """softmax(scale * SOT(q)) v per head, or SOT(q, k): x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c.
    variant: what is transported to what. "query": queries among themselves; the key projection is allocated as in the
      study, but nothing depends on it and it gets no gradient. "query_key": queries to keys. "query_key_transposed":
      queries (vectors of d channels) to the channels of the keys (vectors of n tokens), which needs n = d and depends
      on the order of the tokens; there to repeat the study only.
    normalization: of scale * SOT: "softmax", "rows" (divided by their sums) or "none".
    scale: factor of the transform's result; 0 = d^-0.5.
    regularization: weight of the entropy; the smaller, the fewer partners a token has.
    iterations: Sinkhorn steps; at a regularization of 0.025 about 50 are needed to converge.
    metric, cost_scale, marginal, link, rescale, diagonal, mask_value, diagonal_value, gradient, domain: see
      `self_transport`, and PRESETS there for the set of the transform's authors. The two values are those of
      diagonal="masked".
    stop_threshold: see `sinkhorn`; 0 = never. 0.1 in the published code, where results depend on the rest of the batch.
    dropout_rate: on the attention weights.
    qkv_bias: biases on the query, key and value projections.
    out_bias: bias on the output projection.
    linear_init: of the projections, a word of layers/init.py; "normal" in compact transformers.
    dtype: compute dtype; costs, transport and softmax stay float32.

  On request ("intermediates") it sows besides the weights "sinkhorn_row_error" [b h], how far a row's sum is from its
  marginal: max_i |sum_j P_ij / marginal - 1|.
  """

  num_heads: int = 2
  variant: str = "query"
  normalization: str = "softmax"
  scale: float = 0.0
  regularization: float = 0.1
  iterations: int = 10
  metric: str = "euclidean"
  cost_scale: str = "row_max"
  marginal: str = "uniform"
  link: str = "sigmoid"
  rescale: str = "max"
  diagonal: str = "masked"
  mask_value: float = 1000.0
  diagonal_value: float = 1.0
  gradient: str = "unrolled"
  domain: str = "auto"
  stop_threshold: float = 0.0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = False
  linear_init: str = "uniform"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has neither `context` nor `bias`."""
    del grid
    c = x.shape[-1]
    d = head_width(c, self.num_heads)
    self._check(x.shape[1], d, context, bias)
    query, key, value = project_qkv(self, x, x, d, bias=self.qkv_bias)

    columns = {
      "query": None,
      "query_key": key,
      "query_key_transposed": jnp.transpose(key, (0, 3, 2, 1)),  # [b d h n], channels in place of tokens
    }[self.variant]
    transport = self._transport(query, columns) * (self.scale or d**-0.5)  # [b h n n]
    if self.normalization == "softmax":
      out = attend(self, transport, value, train=train)
    else:
      self.sow("intermediates", "attention_scores", transport)
      by_rows = self.normalization == "rows"
      weights = transport / jnp.sum(transport, axis=-1, keepdims=True) if by_rows else transport
      out = mix(self, weights, value, train=train)
    return merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype, init=self.linear_init)(out)

  @staticmethod
  def settled(spec):
    """The spec with domain="auto" decided by its numbers, see attention.settled."""
    fields = ("domain", "metric", "cost_scale", "regularization", "mask_value")
    known = registry.defaults(SotAttention) | dict(spec)
    return dict(spec, domain=choose_domain(*(known[field] for field in fields)))

  def _transport(self, query, columns):
    result, log_plan = self_transport(
      query,
      columns,
      metric=self.metric,
      cost_scale=self.cost_scale,
      regularization=self.regularization,
      iterations=self.iterations,
      marginal=self.marginal,
      link=self.link,
      rescale=self.rescale,
      diagonal=self.diagonal,
      mask_value=self.mask_value,
      diagonal_value=self.diagonal_value,
      gradient=self.gradient,
      domain=self.domain,
      stop_threshold=self.stop_threshold or None,
    )
    if wants_weights(self):
      sums = jnp.sum(jnp.exp(log_plan), axis=-1) * (result.shape[-1] if self.marginal == "uniform" else 1)
      self.sow("intermediates", "sinkhorn_row_error", jnp.max(jnp.abs(sums - 1), axis=-1))
    return result

  def _check(self, n, d, context, bias):
    no_context("sot", context)
    if bias is not None:
      raise UserError(
        "sot attention has no scores that a bias could be added to: every token must be transported; use softmax or"
        " convnn, in Swin model.shift='pad'."
      )
    if self.variant not in VARIANTS:
      raise unknown_name("variant", self.variant, VARIANTS)
    if self.normalization not in NORMALIZATIONS:
      raise unknown_name("normalization", self.normalization, NORMALIZATIONS)
    if is_known(self.stop_threshold) and self.stop_threshold < 0:
      raise UserError(f"stop_threshold={self.stop_threshold} must be at least 0 (0 = never).")
    for field in ("mask_value", "diagonal_value") if self.diagonal == "kept" else ():
      value = getattr(self, field)
      if is_known(value) and value != registry.defaults(SotAttention)[field]:
        raise UserError(
          f"{field}={value} has no effect with diagonal='kept'; leave it out, or use diagonal='masked'."
        )
    if self.variant == "query_key_transposed" and n != d:
      raise UserError(
        f"variant='query_key_transposed' compares {n} tokens with the d={d} channels of a head, which must be as many;"
        " choose num_heads, width or image size to fit, or variant='query_key'."
      )
