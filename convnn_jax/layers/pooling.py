"""From all tokens to one vector."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.layers.dense import dense


class SequencePooling(nn.Module):
  """Mean of the tokens weighted by a softmax over a learned score: x [b n c] -> [b c].

  Source: Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", section 3.2. Sows
  ("intermediates", "pooling_weights") [b n].

  Attributes:
    dtype: compute dtype; the softmax stays float32.
  """

  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    scores = dense(1, x.shape[-1], bias=True, name="score", dtype=self.dtype, init="normal")(x)[..., 0]
    weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)), axis=-1)
    self.sow("intermediates", "pooling_weights", weights)
    return jnp.einsum("bn,bnc->bc", weights.astype(x.dtype), x)
