"""From the tokens of an image to one vector: class token, mean, or learned queries."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention import make_attention
from convnn_jax.errors import UserError
from convnn_jax.layers.norm import layer_norm

# Word -> whether a class token stands in front of the patches.
POOLINGS = {"cls": True, "mean": False, "mean_all": True, "query": False}


class QueryPooling(nn.Module):
  """Learned queries gather from the tokens by cross-attention, and their mean is read out: [b m c] -> [b c].

  q += attention(norm(q), context=norm(tokens)): the queries ask, the tokens give keys and values. Source of the
  pattern: Carion et al., "End-to-End Object Detection with Transformers", section 3.2, whose decoder queries it
  reduces to one layer; planning models such as Hu et al., "Planning-oriented Autonomous Driving", are built of it.

  Attributes:
    attention: spec of an attention with a meaning in cross-attention.
    num_queries: learned queries.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  num_queries: int = 1
  dtype: Any = None

  @nn.compact
  def __call__(self, tokens, *, train: bool):
    b, _, c = tokens.shape
    if self.num_queries < 1:
      raise UserError(f"num_queries={self.num_queries} must be at least 1 with pooling='query'.")
    queries = self.param("queries", nn.initializers.normal(0.02), (self.num_queries, c), jnp.float32)
    queries = jnp.broadcast_to(queries.astype(tokens.dtype)[None], (b, self.num_queries, c))
    attention = make_attention(self.attention, dtype=self.dtype, name="attention")
    context = layer_norm("context_norm", self.dtype)(tokens)
    gathered = attention(layer_norm("query_norm", self.dtype)(queries), train=train, context=context)
    return jnp.mean(queries + gathered, axis=1)
