"""What similarities do with NaN; their values and gradients are tested with the attentions that use them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.attention import make_attention
from convnn_jax.ops.similarity import SIMILARITIES, similarity, similarity_to_select


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("m", [6, 130])
def test_a_key_of_nan_is_hidden_from_selections_and_hides_nothing_else(kind, m):
  query, key = (jax.random.normal(jax.random.key(n), (1, n, 2, 4)) for n in (5, m))
  scores = jax.jit(lambda q, k: similarity_to_select(q, k, kind=kind, scale=0.5))(
    query.at[0, 1].set(jnp.nan), key.at[0, 3, 0, 2].set(jnp.nan)
  )
  expected = np.array(similarity(query, key, kind=kind, scale=0.5))
  expected[:, :, 1] = expected[:, 0, :, 3] = np.nan
  np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "gather"])
def test_tokens_of_nan_are_nobodys_neighbors(implementation):
  attention = make_attention(dict(name="convnn", num_heads=2, num_neighbors=3, implementation=implementation))
  x, context = (jax.random.normal(jax.random.key(n), (2, n, 8)) for n in (5, 9))
  variables = attention.init(jax.random.key(0), x, context=context, train=False)
  apply = fast_jit(lambda context: attention.apply(variables, x, context=context, train=False))
  longer = jnp.concatenate([context, jnp.full((2, 3, 8), jnp.nan)], axis=1)
  np.testing.assert_allclose(apply(longer), apply(context), atol=1e-6)
