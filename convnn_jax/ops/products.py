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


def compare(query: jax.Array, key: jax.Array, dtype) -> jax.Array:
  """<q, k> of query [b n h d] and key [b m h d]: [b h n m] of `dtype`, in full precision."""
  query, key = jnp.swapaxes(query, 1, 2), jnp.swapaxes(key, 1, 2)
  if _copies_pay(key):
    return _scores(query, key, dtype)
  return jnp.einsum("bhnd,bhmd->bhnm", query, key, precision="highest", preferred_element_type=dtype)


def mix_values(weights: jax.Array, value: jax.Array) -> jax.Array:
  """Sum over m of weights [b h n m] times value [b m h d]: [b n h d]."""
  value = jnp.swapaxes(value, 1, 2)
  product = _mix if _copies_pay(value) else functools.partial(jnp.einsum, "bhnm,bhmd->bhnd")
  return jnp.swapaxes(product(weights, value), 1, 2)


def _copies_pay(values):
  """Whether a gradient that sums over queries, weights^T times g, should be made from a copy of weights^T: XLA's CPU
  backend has a fast product of small matrices in a batch, but not for a first one that is read column by column."""
  return jax.default_backend() == "cpu" and values.shape[2] <= _FEW


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scores(query, key, dtype):
  return jnp.einsum("bhnd,bhmd->bhnm", query, key, precision="highest", preferred_element_type=dtype)


def _scores_forward(query, key, dtype):
  return _scores(query, key, dtype), (query, key)


def _scores_backward(dtype, kept, gradient):
  del dtype
  query, key = kept
  into_query = jnp.einsum("bhnm,bhmd->bhnd", gradient, key, precision="highest")
  into_key = jnp.einsum("bhmn,bhnd->bhmd", _turned(gradient), query, precision="highest")
  return into_query.astype(query.dtype), into_key.astype(key.dtype)


_scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def _mix(weights, value):
  return jnp.einsum("bhnm,bhmd->bhnd", weights, value)


def _mix_forward(weights, value):
  return _mix(weights, value), (weights, value)


def _mix_backward(kept, gradient):
  weights, value = kept
  into_weights = jnp.einsum("bhnd,bhmd->bhnm", gradient, value)
  return into_weights, jnp.einsum("bhmn,bhnd->bhmd", _turned(weights), gradient)


_mix.defvjp(_mix_forward, _mix_backward)


def _turned(x):
  """A copy of x with its last axes swapped, which the compiler shall not take back."""
  return lax.optimization_barrier(jnp.swapaxes(x, -1, -2))
