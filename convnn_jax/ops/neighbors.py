"""Weights of chosen neighbours and their aggregation (no parameters, no randomness).

    scores [b h n m] -> select_neighbors (ops/selection.py) -> values, index [b h n k]
    values -> neighbor_weights -> weights [b h n k]
    aggregate_neighbors(value [b h m d], index, weights, kernel) -> [b h n e]

Only the implementation "reference" builds anything of size b h n k d. In the others memory does not grow with k:
neighbours are added up one rank at a time, and what the backward pass keeps are the four arguments.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from convnn_jax.errors import choose
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.selection import hidden_score
from convnn_jax.ops.similarity import wide
from convnn_jax.shapes import check_shapes


def _sum_to_one(values):
  total = jnp.sum(values, axis=-1, keepdims=True)
  # Sums of cosines may be 0 or negative; only an exact 0 has to be kept away from the division.
  return values / jnp.where(jnp.abs(total) < 1e-12, 1e-12, total)


@jax.custom_vjp
def _softmax(values, temperature):
  """Softmax of values / temperature, 0 at hidden ones; keeps its result for the backward pass and nothing else."""
  hidden = values <= hidden_score(values.dtype) / 2
  zero = inside(values, 0)
  return jnp.where(hidden, zero, jax.nn.softmax(jnp.where(hidden, values, values / temperature), axis=-1))


def _softmax_forward(values, temperature):
  weights = _softmax(values, temperature)
  return weights, (weights, temperature)


def _softmax_backward(saved, cotangent):
  weights, temperature = saved
  to_quotient = weights * (cotangent - jnp.sum(weights * cotangent, axis=-1, keepdims=True))
  # The quotient is the logarithm of the weights and a constant, to which the sum of to_quotient, 0, is blind.
  logarithm = jnp.log(jnp.where(weights > 0, weights, 1.0))
  to_temperature = -jnp.sum(to_quotient * logarithm) / temperature
  return to_quotient / temperature, jnp.asarray(to_temperature, jnp.result_type(temperature))


_softmax.defvjp(_softmax_forward, _softmax_backward)


def _closeness(values, similarity):
  if similarity == "euclidean":
    return 1.0 / (1e-8 - values)
  return -values if similarity == "distance" else values


def _hidden_are_zero(weigh):
  def weights(values, similarity, temperature):
    del temperature
    hidden = values <= hidden_score(values.dtype) / 2
    zero = inside(values, 0)
    return jnp.where(hidden, zero, weigh(jnp.where(hidden, zero, values), similarity))

  return weights


WEIGHTINGS = {
  # softmax over the k values
  "softmax": lambda values, similarity, temperature: _softmax(values, jnp.asarray(temperature, values.dtype)),
  # the similarities themselves; for distances 1 / (distance + 1e-8)
  "similarity": _hidden_are_zero(_closeness),
  # the scores were a softmax over the whole row already (see attention/convnn.py)
  "full_softmax": _hidden_are_zero(lambda values, similarity: values),
  # similarities divided by their sum
  "sum": _hidden_are_zero(lambda values, similarity: _sum_to_one(_closeness(values, similarity))),
}


def neighbor_weights(values, *, weighting="softmax", similarity="dot", temperature=1.0):
  """Turns the chosen scores into weights; a hidden candidate that had to be chosen gets weight 0.

  Args:
    values: [b h n k], from select_neighbors.
    weighting: key of WEIGHTINGS.
    similarity: what the values are. "euclidean" values are negated distances, which weigh by 1 / distance;
      "distance" are the same values, which weigh by the distance itself (the first published versions).
    temperature: divides the values of a softmax.

  Returns:
    [b h n k].
  """
  return choose("weighting", weighting, WEIGHTINGS)(values, similarity, temperature)


def _gather_rows(values, index):
  """values [b h m d], index [b h n] -> [b h n d]; whole rows of d values are copied at once."""
  take = lambda rows, i: rows.at[i].get(mode="promise_in_bounds")
  return jax.vmap(jax.vmap(take))(values, index)


def _add_at_rows(total, index, rows):
  """total [b h m d] with rows [b h n d] added where index [b h n] says."""
  add = lambda t, i, r: t.at[i].add(r, mode="promise_in_bounds")
  return jax.vmap(jax.vmap(add))(total, index, rows)


def _one_hot(index, length, dtype):
  return (index[..., None] == jnp.arange(length, dtype=index.dtype)[None, None, None]).astype(dtype)


def _multiply_rows(values, index):
  """_gather_rows as a matrix product."""
  hot = _one_hot(index, values.shape[2], values.dtype)
  return jnp.einsum("bhnm,bhmd->bhnd", hot, values, precision="highest")


def _add_at_products(total, index, rows):
  """_add_at_rows as a matrix product."""
  hot = _one_hot(index, total.shape[2], rows.dtype)
  added = jnp.einsum("bhnm,bhnd->bhmd", hot, rows, precision="highest", preferred_element_type=total.dtype)
  return total + added


# (take rows, add rows). Gathers and scatters are slow on a TPU, whose matrix unit is not.
_ROWS = {"gather": (_gather_rows, _add_at_rows), "onehot": (_multiply_rows, _add_at_products)}


def _by_rank(index, weights, kernel):
  return jnp.moveaxis(index, -1, 0), jnp.moveaxis(weights, -1, 0), kernel


def _tapped(value, kernel_r):
  """Values behind the tap of one rank: [b h m d] -> [b h m e]."""
  return value * kernel_r[None, None, None] if kernel_r.ndim == 1 else value @ kernel_r


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _aggregate(implementation, value, index, weights, kernel):
  take, _ = _ROWS[implementation]

  def add(total, rank):
    index_r, weight_r, kernel_r = rank
    if kernel_r.ndim == 1:
      return total + take(value, index_r) * (weight_r[..., None] * kernel_r[None, None, None]), None
    return total + take(_tapped(value, kernel_r), index_r) * weight_r[..., None], None

  zero = jnp.broadcast_to(inside(value, 0).astype(wide(value)), (*index.shape[:-1], kernel.shape[-1]))
  return lax.scan(add, zero, _by_rank(index, weights, kernel))[0].astype(value.dtype)


def _aggregate_forward(implementation, value, index, weights, kernel):
  return _aggregate(implementation, value, index, weights, kernel), (value, index, weights, kernel)


def _aggregate_backward(implementation, saved, cotangent):
  value, index, weights, kernel = saved
  rank_gradients = _depthwise_gradients if kernel.ndim == 2 else _standard_gradients
  step = functools.partial(rank_gradients, *_ROWS[implementation], value, cotangent)
  zero = jnp.broadcast_to(inside(cotangent, 0).astype(wide(value)), value.shape)
  to_value, (to_weights, to_kernel) = lax.scan(step, zero, _by_rank(index, weights, kernel))
  if kernel.ndim == 2:  # [k b h d]: summed here, so that devices exchange one sum and not one per rank
    to_kernel = jnp.sum(to_kernel, axis=(1, 2))
  to_weights = jnp.moveaxis(to_weights, 0, -1)
  return to_value.astype(value.dtype), None, to_weights.astype(weights.dtype), to_kernel.astype(kernel.dtype)


def _depthwise_gradients(take, add_at, value, cotangent, to_value, rank):
  """The part of one rank: to_value so far [b h m d] -> to_value, (to weights [b h n], to the kernel [b h d])."""
  index_r, weight_r, kernel_r = rank
  product = cotangent * take(value, index_r)
  to_weight = product @ kernel_r
  to_kernel = jnp.einsum("bhn,bhnd->bhd", weight_r, product)
  rows = cotangent * (weight_r[..., None] * kernel_r[None, None, None])
  return add_at(to_value, index_r, rows.astype(to_value.dtype)), (to_weight, to_kernel)


def _standard_gradients(take, add_at, value, cotangent, to_value, rank):
  """As above; the kernel's gradient is [d e]."""
  index_r, weight_r, kernel_r = rank
  to_weight = jnp.sum(cotangent * take(_tapped(value, kernel_r), index_r), axis=-1)
  empty = jnp.zeros((*value.shape[:-1], kernel_r.shape[-1]), to_value.dtype)
  to_tapped = add_at(empty, index_r, (cotangent * weight_r[..., None]).astype(empty.dtype)).astype(
    value.dtype
  )
  to_kernel = jnp.einsum("bhmd,bhme->de", value, to_tapped)
  return to_value + to_tapped @ kernel_r.T, (to_weight, to_kernel)


_aggregate.defvjp(_aggregate_forward, _aggregate_backward)


def _reference(value, index, weights, kernel):
  """The definition: all neighbours of a token side by side, [b h n k d], and one product with the kernel.

  No convolution of stride k, although that is the same: on a mesh with an axis that does not cut it, XLA's partitioner
  gives a multiple of its kernel's gradient (jax 0.10.2).
  """
  neighbors = jnp.take_along_axis(value[:, :, None], index[..., None], axis=3) * weights[..., None]
  return jnp.einsum("bhnkd,kd->bhnd" if kernel.ndim == 2 else "bhnkd,kde->bhne", neighbors, kernel)


def _automatic(*arguments):
  return _aggregate("onehot" if jax.default_backend() == "tpu" else "gather", *arguments)


IMPLEMENTATIONS = {
  # "gather", measured on a CPU (benchmarks/results) and not yet on a GPU; on a TPU "onehot", not yet measured
  "auto": _automatic,
  # what the words mean: everything gathered, then convolved
  "reference": _reference,
  # one rank after the other, rows copied and added
  "gather": functools.partial(_aggregate, "gather"),
  # the same with rows taken and added by matrix products
  "onehot": functools.partial(_aggregate, "onehot"),
}


def aggregate_neighbors(value, index, weights, kernel, implementation="auto"):
  """A convolution over each token's neighbours: kernel tap r meets the neighbour of rank r.

    out[b, h, n, e] = sum_r weights[b, h, n, r] * sum_d kernel[r, d, e] value[b, h, index[b, h, n, r], d]

  With a standard kernel values pass a rank's tap first and are gathered after, so the gather is the only irregular
  step.

  Args:
    value: [b h m d].
    index: [b h n k] into m.
    weights: [b h n k].
    kernel: [k d] (depthwise: one factor per rank and channel) or [k d e] (standard).
    implementation: key of IMPLEMENTATIONS; all give the same.

  Returns:
    [b h n d] or [b h n e], in value's dtype.

  Raises:
    UserError: unknown implementation.
  """
  run = choose("implementation", implementation, IMPLEMENTATIONS)
  sizes = check_shapes(
    "value: b h m d; index: b h n k; weights: b h n k", value=value, index=index, weights=weights
  )
  check_shapes("kernel: k d" if kernel.ndim == 2 else "kernel: k d e", kernel=kernel)
  if kernel.shape[:2] != (sizes["k"], sizes["d"]):
    raise ValueError(f"kernel {kernel.shape} does not fit k={sizes['k']}, d={sizes['d']}.")
  return run(value, index, weights.astype(value.dtype), kernel.astype(value.dtype))


def dense_weights(index, weights, num_candidates):
  """[b h n k] chosen -> [b h n m] with zeros elsewhere: the sparse attention matrix, for pictures and tests."""
  one_hot = jax.nn.one_hot(index, num_candidates, dtype=weights.dtype)
  return jnp.einsum("bhnk,bhnkm->bhnm", weights, one_hot)
