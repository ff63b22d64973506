"""The two products of attention: scores of queries with keys, weights times values.

Heads stand beside the batch while they are computed: over [b n h d] as it is, each product of the backward pass too
would have its own copy in that order (measured on CPUs, windows of 49 tokens: a fifth more time, two fifths more
memory).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Up to so many candidates a copy of the scores is cheaper than a product that reads them column by column.
_FEW = 128
# Of more candidates: up to so many channels copies of rows and of the result are.
_NARROW = 64


def compare(query: jax.Array, key: jax.Array, dtype, scale: float = 1.0) -> jax.Array:
  """<q, k> * scale of query [b n h d] and key [b m h d]: [b h n m] of `dtype`, in full precision."""
  query, key = jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2)
  if jax.default_backend() != "cpu":
    return _plain_scores(query, key, dtype) * scale
  if query.dtype == dtype and isinstance(scale, int | float):
    return _scores(query, key, dtype, scale)
  return _scores(query, key, dtype, 1.0) * scale


def mix_values(weights: jax.Array, value: jax.Array) -> jax.Array:
  """Sum over m of weights [b h n m] times value [b m h d]: [b n h d]."""
  product = _mix if jax.default_backend() == "cpu" else _plain_mix
  return jnp.swapaxes(product(weights, jnp.swapaxes(value, 1, 2)), 1, 2)


def mix_softmax(scores: jax.Array, value: jax.Array) -> jax.Array:
  """softmax(scores) times value, of scores [b h n m] and value [b m h d]: [b n h d].

  On CPUs rows are divided by their sums at the end, as n d numbers and not n m, and all is one kernel. For what needs
  no gradient: that one would be larger.
  """
  if jax.default_backend() != "cpu" or not scores.size:
    return mix_values(jax.nn.softmax(scores, axis=-1).astype(value.dtype), value)
  weights = jnp.exp(scores - lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
  # Not yet divided, many values may be too large a sum for float16.
  mixed = _plain_mix(
    weights.astype(value.dtype), jnp.swapaxes(value, 1, 2), preferred_element_type=scores.dtype
  )
  return jnp.swapaxes(mixed / jnp.sum(weights, axis=-1, keepdims=True), 1, 2).astype(value.dtype)


def _plain_scores(query, key, dtype):
  return jnp.einsum("bhnd,bhmd->bhnm", query, key, precision="highest", preferred_element_type=dtype)


def _plain_mix(weights, value, **options):
  return jnp.einsum("bhnm,bhmd->bhnd", weights, value, **options)


@jax.custom_jvp
def one_by_one(products):
  """What it is given, [b h . .], as nothing is larger than the maximum of its row; a NaN fills its row.

  XLA's CPU backend has two ways to compute a batch of products. The one that it takes where a reduction follows, each
  product on its own, takes half to two thirds of the time of the other (jax 0.10.2, docs/speed.md).
  """
  if not products.size:
    return products
  return jnp.minimum(products, jnp.max(products, axis=-1, keepdims=True))


@one_by_one.defjvp
def _same_tangent(primals, tangents):
  return one_by_one(*primals), *tangents


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scores(query, key, dtype, scale):
  # Queries are fewer numbers than scores, whose factors the backend reads from a matrix of their size.
  return one_by_one(_plain_scores(query * scale, key, dtype))


def _scores_forward(query, key, dtype, scale):
  return _scores(query, key, dtype, scale), (query, key)


def _scores_backward(dtype, scale, kept, gradient):
  del dtype
  query, key = kept
  into_scaled = one_by_one(jnp.einsum("bhnm,bhmd->bhnd", gradient, key, precision="highest"))
  into_key = _sum_over_queries(gradient, query * scale, precision="highest")
  return (into_scaled * scale).astype(query.dtype), into_key.astype(key.dtype)


_scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def _mix(weights, value):
  return one_by_one(_plain_mix(weights, value))


def _mix_forward(weights, value):
  return _mix(weights, value), (weights, value)


def _mix_backward(kept, gradient):
  weights, value = kept
  into_weights = one_by_one(jnp.einsum("bhnd,bhmd->bhnm", gradient, value))
  into_value = _sum_over_queries(weights, gradient)
  return into_weights.astype(weights.dtype), into_value.astype(value.dtype)


_mix.defvjp(_mix_forward, _mix_backward)


def _sum_over_queries(scores, rows, **options):
  """scores^T rows, of [b h n m] and [b h n d]: [b h m d].

  The compiler has a fast product of small matrices in a batch, but not for a first one that is read column by column.
  So of few candidates by a copy of scores^T, and with narrow rows as their copy times scores; neither copy shall the
  compiler take back.
  """
  turn = lambda x: jnp.swapaxes(x, -1, -2)
  if scores.shape[-1] <= _FEW:
    turned = lax.optimization_barrier(turn(scores))
    return one_by_one(jnp.einsum("bhmn,bhnd->bhmd", turned, rows, **options))
  if rows.shape[-1] <= _NARROW:
    turned = lax.optimization_barrier(turn(rows))
    return turn(one_by_one(jnp.einsum("bhdn,bhnm->bhdm", turned, scores, **options)))
  return jnp.einsum("bhnm,bhnd->bhmd", scores, rows, **options)
