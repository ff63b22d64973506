"""How near is candidate token m to query token n: dot product, cosine or Euclidean distance.

All return larger = nearer (distances are negated), in float32 or wider whatever the input dtype, with
the matrix product at highest precision: a bfloat16 or TF32 pass would change which neighbours win.
"""

import jax
import jax.numpy as jnp
from jax import lax

from convnn_jax.errors import choose
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.products import compare
from convnn_jax.shapes import check_shapes


def wide(x) -> jnp.dtype:
  """The dtype for scores of `x`: float32, or float64 if x is."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _unit(x):
  """x / max(|x|, 1e-12) along the last axis, with a finite gradient at x = 0."""
  x = x.astype(wide(x))
  return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def dot(query, key, scale):
  """<q, k> * scale."""
  return compare(query, key, wide(query), scale)


def cosine(query, key, scale):
  """<q, k> / (|q| |k|); `scale` has no part in it."""
  del scale
  return dot(_unit(query), _unit(key), 1.0)


def euclidean(query, key, scale):
  """-|q - k|; `scale` has no part in it.

  Squared distances below the rounding error of |q|^2 + |k|^2 - 2<q, k> count as 0 with gradient 0:
  the square root has no gradient there.
  """
  del scale
  query, key = query.astype(wide(query)), key.astype(wide(key))
  square = lambda x: jnp.moveaxis(jnp.sum(x * x, axis=-1), -1, 1)  # [b n h d] -> [b h n]
  norms = square(query)[..., :, None] + square(key)[..., None, :]
  squared = norms - 2 * dot(query, key, 1.0)
  same = squared <= 4 * jnp.finfo(squared.dtype).eps * lax.stop_gradient(norms)  # not of NaN, which stays NaN
  # The inner `where` keeps the gradient of sqrt finite in the branch that is not taken.
  zero, one = inside(squared, 0), inside(squared, 1)
  return jnp.where(same, zero, -jnp.sqrt(jnp.where(same, one, squared)))


SIMILARITIES = {"dot": dot, "cosine": cosine, "euclidean": euclidean}


def similarity(query: jax.Array, key: jax.Array, *, kind: str = "dot", scale: float = 1.0):
  """Similarity of every query token to every candidate token.

  Source: spec of ConvNN attention (Kang et al., "Attention via Convolutional Nearest Neighbors").

  Args:
    query: [b n h d].
    key: [b m h d].
    kind: "dot", "cosine" or "euclidean".
    scale: factor of the dot product, usually d ** -0.5.

  Returns:
    [b h n m], larger = nearer, float32 or wider. On CPUs a NaN fills its row.

  Raises:
    UserError: unknown kind.
  """
  check_shapes("query: b n h d; key: b m h d", query=query, key=key)
  return choose("similarity", kind, SIMILARITIES)(query, key, scale)


def similarity_to_select(query: jax.Array, key: jax.Array, *, kind: str = "dot", scale: float = 1.0):
  """The same, for selections, which hide what is NaN: a NaN in a key is one for every query, and for that key only."""
  missing = jnp.isnan(key)
  scores = similarity(query, jnp.where(missing, inside(key, 0), key), kind=kind, scale=scale)
  return (
    scores + jnp.where(jnp.moveaxis(missing.any(-1), -1, 1), jnp.nan, 0).astype(scores.dtype)[..., None, :]
  )
