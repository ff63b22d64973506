"""Scores, selection and aggregation as one operation: the kernel of kernels/neighbors.py with its gradients."""

import functools

import jax
import jax.numpy as jnp

from convnn_jax.errors import UserError
from convnn_jax.kernels.neighbors import neighbor_attention_forward
from convnn_jax.ops.neighbors import aggregate_neighbors, neighbor_weights
from convnn_jax.ops.partition import rowwise
from convnn_jax.ops.selection import spread

MODES = ("compiled", "interpreted")


def neighbor_attention(
  query, key, value, kernel, *, scale: float, temperature: float = 1.0, mode: str = "compiled"
):
  """Dot products, the k largest of each row, a softmax over them, and a depthwise convolution over their values.

  The same as select_neighbors, neighbor_weights and aggregate_neighbors one after the other. The forward pass is one
  kernel; it keeps the chosen scores and places, of which the backward pass is made as in the other implementations.

  Args:
    query: [b h n d].
    key: [b h m d].
    value: [b h m e].
    kernel: [k e], 1 <= k <= m.
    scale: factor of the dot products.
    temperature: divides the scores of the softmax.
    mode: "compiled", which needs a GPU, or "interpreted", slow, for tests.

  Returns:
    [b h n e] in value's dtype, and values and index [b h n k] as of select_neighbors (without gradients).

  Raises:
    UserError: there is no GPU.
  """
  if mode == "compiled" and jax.default_backend() != "gpu":
    raise UserError(
      f"implementation='pallas' is a kernel for GPUs and this is a {jax.default_backend()}; use"
      " implementation='auto'."
    )
  return _attend((float(scale), float(temperature), mode), query, key, value, kernel)


@functools.cache
def _forward(scale, temperature, mode):
  run = functools.partial(neighbor_attention_forward, scale=scale, temperature=temperature, mode=mode)
  rule = "b h n d, b h m d, b h m e, k e -> b h n e, b h n k, b h n k"
  return rowwise(run, rule, whole=("n", "d", "m", "e", "k"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options, query, key, value, kernel):
  return _forward(*options)(query, key, value, kernel)


def _attend_forward(options, query, key, value, kernel):
  out, values, index = _attend(options, query, key, value, kernel)
  return (out, values, index), (query, key, value, kernel, values, index)


def _attend_backward(options, saved, cotangents):
  scale, temperature, _ = options
  query, key, value, kernel, values, index = saved

  def from_values(values, value, kernel):
    weights = neighbor_weights(values, temperature=temperature)
    return aggregate_neighbors(value, index, weights, kernel, "gather")

  _, backward = jax.vjp(from_values, values, value, kernel)
  to_values, to_value, to_kernel = backward(cotangents[0])
  to_scores = spread(index, to_values * scale, key.shape[2])
  product = functools.partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)
  to_query = product("bhnm,bhmd->bhnd", to_scores, key)
  to_key = product("bhnm,bhnd->bhmd", to_scores, query)
  return to_query.astype(query.dtype), to_key.astype(key.dtype), to_value, to_kernel


_attend.defvjp(_attend_forward, _attend_backward)
