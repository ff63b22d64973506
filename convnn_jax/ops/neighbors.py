"""k-nearest-neighbour selection, weights and aggregation (no parameters, no randomness).

    scores [b h n m] -> select_neighbors -> values, index [b h n k] -> neighbor_weights -> weights [b h n k]
    aggregate_neighbors(value [b h m d], index, weights, kernel) -> [b h n e]

Nothing of size b h n k d is ever built and memory does not grow with k: neighbours are added up one rank at
a time, and the backward pass computes each rank's part again instead of storing it.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from convnn_jax.errors import UserError, choose
from convnn_jax.shapes import check_shapes

# Below these sizes k passes of max are faster than lax.top_k on a CPU, and they stay local when the batch
# is sharded, where lax.top_k gathers the whole score matrix on every device.
_MAX_PASSES = 32
_MAX_CANDIDATES = 1024


def hidden_score(dtype) -> float:
  """The score of a candidate that may not be chosen; finite, so that k picks are always k candidates."""
  return float(jnp.finfo(dtype).min)


def _top_k_by_passes(scores, k):
  """k times (maximum, lowest index that reaches it), taking the winner out each time."""
  m = scores.shape[-1]
  iota = lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
  values, indices = [], []
  for _ in range(k):
    best = jnp.max(scores, axis=-1, keepdims=True)
    index = jnp.min(jnp.where(scores == best, iota, m), axis=-1, keepdims=True)
    values.append(best)
    indices.append(index)
    scores = jnp.where(iota == index, -jnp.inf, scores)
  return jnp.concatenate(values, -1), jnp.concatenate(indices, -1)


def _top_k_by_library(scores, k):
  """lax.top_k on a 2-D view: results sliced later must not meet the slice that XLA recognises as top-k,
  or it falls back to sorting every row."""
  scores = jnp.where(scores == 0, 0.0, scores)  # the library ranks -0 behind 0; they are a tie
  values, index = lax.top_k(scores.reshape(-1, scores.shape[-1]), k)
  return values.reshape(*scores.shape[:-1], k), index.reshape(*scores.shape[:-1], k)


def _top_k(scores, k):
  # NaN would win every comparison or none; -inf marks what has been taken. Both become "hidden".
  floor = hidden_score(scores.dtype)
  scores = jnp.where(jnp.isnan(scores), floor, jnp.maximum(scores, floor))
  if k <= _MAX_PASSES and scores.shape[-1] <= _MAX_CANDIDATES:
    return _top_k_by_passes(scores, k)
  return _top_k_by_library(scores, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _select(scores, k):
  return _top_k(scores, k)


def _select_forward(scores, k):
  values, index = _top_k(scores, k)
  # The empty array carries the row length, which the index alone does not tell.
  return (values, index), (index, jnp.zeros((scores.shape[-1], 0)))


def _select_backward(k, residuals, cotangents):
  """Puts each value's cotangent back at its candidate, by compares that fuse into one pass."""
  index, like_row = residuals
  to_values = cotangents[0]
  shape = (*index.shape[:-1], like_row.shape[0])
  iota = lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
  dense = jnp.zeros(shape, to_values.dtype)
  for rank in range(k):
    dense = jnp.where(iota == index[..., rank, None], to_values[..., rank, None], dense)
  return (dense,)


_select.defvjp(_select_forward, _select_backward)


def select_neighbors(scores: jax.Array, num_neighbors: int) -> tuple[jax.Array, jax.Array]:
  """The k largest scores of every row, largest first; among equals the lowest index comes first.

  Args:
    scores: [b h n m], larger = nearer. NaN counts as hidden.
    num_neighbors: k, 1 <= k <= m.

  Returns:
    values [b h n k], with gradients to the chosen scores only, and int32 index [b h n k] into m.

  Raises:
    UserError: k is not in [1, m].
  """
  m = check_shapes("scores: b h n m", scores=scores)["m"]
  if not 1 <= num_neighbors <= m:
    raise UserError(
      f"num_neighbors={num_neighbors} must lie in [1, {m}], the number of candidate tokens; choose a smaller"
      " num_neighbors, a smaller patch_size or a larger image."
    )
  return _select(scores, num_neighbors)


def keep_neighbors(scores: jax.Array, num_neighbors: int) -> jax.Array:
  """Boolean [b h n m], True at the k largest scores of every row: exactly k, ties to the lowest index.

  Raises:
    UserError: k is not in [1, m].
  """
  floor = hidden_score(scores.dtype)  # as in the selection, so that exactly k are kept
  scores = jnp.where(jnp.isnan(scores), floor, jnp.maximum(lax.stop_gradient(scores), floor))
  values, _ = select_neighbors(scores, num_neighbors)
  smallest = values[..., -1:]
  above = scores > smallest
  equal = scores == smallest
  # Of those equal to the k-th value as many as are left, counted from the lowest index.
  left = num_neighbors - jnp.sum(above, axis=-1, keepdims=True)
  return above | (equal & (jnp.cumsum(equal, axis=-1) <= left))


def _sum_to_one(values):
  total = jnp.sum(values, axis=-1, keepdims=True)
  # Sums of cosines may be 0 or negative; only an exact 0 has to be kept away from the division.
  return values / jnp.where(jnp.abs(total) < 1e-12, 1e-12, total)


def _closeness(values, similarity):
  if similarity == "euclidean":
    return 1.0 / (1e-8 - values)
  return -values if similarity == "distance" else values


WEIGHTINGS = {
  # softmax over the k values
  "softmax": lambda values, similarity: jax.nn.softmax(values, axis=-1),
  # the similarities themselves; for distances 1 / (distance + 1e-8)
  "similarity": _closeness,
  # the scores were a softmax over the whole row already (see attention/convnn.py)
  "full_softmax": lambda values, similarity: values,
  # similarities divided by their sum
  "sum": lambda values, similarity: _sum_to_one(_closeness(values, similarity)),
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
  weigh = choose("weighting", weighting, WEIGHTINGS)
  hidden = values <= hidden_score(values.dtype) / 2
  if weighting == "softmax":
    return jnp.where(hidden, 0.0, weigh(jnp.where(hidden, values, values / temperature), similarity))
  return jnp.where(hidden, 0.0, weigh(jnp.where(hidden, 0.0, values), similarity))


def _gather_rows(values, index):
  """values [b h m d], index [b h n] -> [b h n d]; whole rows of d values are copied at once."""
  take = lambda rows, i: rows.at[i].get(mode="promise_in_bounds")
  return jax.vmap(jax.vmap(take))(values, index)


def aggregate_neighbors(value, index, weights, kernel):
  """A convolution over each token's neighbours: kernel tap r meets the neighbour of rank r.

    out[b, h, n, e] = sum_r weights[b, h, n, r] * sum_d kernel[r, d, e] value[b, h, index[b, h, n, r], d]

  Values pass a rank's tap first and are gathered after, so the gather is the only irregular step.

  Args:
    value: [b h m d].
    index: [b h n k] into m.
    weights: [b h n k].
    kernel: [k d] (depthwise: one factor per rank and channel) or [k d e] (standard).

  Returns:
    [b h n d] or [b h n e], in value's dtype.
  """
  sizes = check_shapes(
    "value: b h m d; index: b h n k; weights: b h n k", value=value, index=index, weights=weights
  )
  depthwise = kernel.ndim == 2
  check_shapes("kernel: k d" if depthwise else "kernel: k d e", kernel=kernel)
  if kernel.shape[:2] != (sizes["k"], sizes["d"]):
    raise ValueError(f"kernel {kernel.shape} does not fit k={sizes['k']}, d={sizes['d']}.")

  @functools.partial(jax.checkpoint, prevent_cse=False)  # recompute a rank, store none
  def rank_part(value, rank):
    index_r, weight_r, kernel_r = rank
    tapped = value * kernel_r[None, None, None] if depthwise else value @ kernel_r
    return _gather_rows(tapped, index_r) * weight_r[..., None]

  def add(total, rank):
    return total + rank_part(value, rank), None

  by_rank = (
    jnp.moveaxis(index, -1, 0),
    jnp.moveaxis(weights.astype(value.dtype), -1, 0),
    kernel.astype(value.dtype),
  )
  zero = jnp.zeros((sizes["b"], sizes["h"], sizes["n"], kernel.shape[-1]), value.dtype)
  return lax.scan(add, zero, by_rank)[0]


def dense_weights(index, weights, num_candidates):
  """[b h n k] chosen -> [b h n m] with zeros elsewhere: the sparse attention matrix, for pictures and tests."""
  one_hot = jax.nn.one_hot(index, num_candidates, dtype=weights.dtype)
  return jnp.einsum("bhnk,bhnkm->bhnm", weights, one_hot)
