"""The k largest scores of every row: values and places, or a mask of those to keep.

No selection sorts a row, and none moves a score to another device when the batch is sharded. Among equal scores the
lowest place comes first; NaN and -inf count as hidden.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from convnn_jax.errors import UserError, choose
from convnn_jax.ops.lanes import LANES, in_lanes, top_k_by_lanes
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.partition import rowwise
from convnn_jax.shapes import check_shapes

# By this name layers that are computed again in the backward pass (models/layer_loop.py) keep a selection of at most so
# many neighbours; more would fill the memory.
SAVED_NAME = "neighbors"
_MOST_SAVED = 32
# Up to these sizes k passes over a row are faster than lax.top_k (benchmarks/results, CPU).
_MAX_PASSES = 32
_MAX_CANDIDATES = 1024


def hidden_score(dtype) -> float:
  """The score of a candidate that may not be chosen; finite, so that k picks are always k candidates."""
  return float(jnp.finfo(dtype).min)


def _top_k_by_passes(scores, k):
  """k times (maximum, lowest place that reaches it), taking the winner out each time."""
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


@functools.cache
def _library(k):
  """lax.top_k of rows, each device for its own: of a sharded batch it would collect all scores everywhere."""

  def rows(scores):
    # On a 2-D view: results sliced later must not meet the slice that XLA recognises as top-k, or it sorts.
    values, index = lax.top_k(scores.reshape(-1, scores.shape[-1]), k)
    return values.reshape(*scores.shape[:-1], k), index.reshape(*scores.shape[:-1], k)

  return rowwise(rows, "... m -> ... k, ... k", whole=("m", "k"))


def _top_k_by_library(scores, k):
  return _library(k)(jnp.where(scores == 0, 0.0, scores))  # the library ranks -0 behind 0; they are a tie


def _automatic(scores, k):
  """By backend and size; lanes are measured on a CPU, the plain passes elsewhere are not measured yet."""
  if k > _MAX_PASSES or scores.shape[-1] > _MAX_CANDIDATES:
    return _top_k_by_library(scores, k)
  return (top_k_by_lanes if jax.default_backend() == "cpu" else _top_k_by_passes)(scores, k)


SELECTIONS = {
  "auto": _automatic,
  "lanes": top_k_by_lanes,
  "passes": _top_k_by_passes,
  "library": _top_k_by_library,
}


def _cleaned(scores):
  # NaN would win every comparison or none; -inf marks what has been taken. Both become "hidden".
  floor = inside(scores, hidden_score(scores.dtype))
  return jnp.where(jnp.isnan(scores), floor, jnp.maximum(scores, floor))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _select(scores, k, method):
  return SELECTIONS[method](_cleaned(scores), k)


def _select_forward(scores, k, method):
  values, index = _select(scores, k, method)
  if k <= _MOST_SAVED:
    values, index = checkpoint_name(values, SAVED_NAME), checkpoint_name(index, SAVED_NAME)
  # The empty array carries the row length, which the index alone does not tell.
  return (values, index), (index, jnp.zeros((scores.shape[-1], 0)))


def _select_backward(k, method, residuals, cotangents):
  """Puts each value's cotangent back at its candidate."""
  del method
  index, like_row = residuals
  return (spread(index, cotangents[0], like_row.shape[0]),)


_select.defvjp(_select_forward, _select_backward)


def spread_by_compares(index, values, length):
  """[... k] at distinct places `index` of a row of `length`, 0 elsewhere: [... length]."""
  iota = lax.broadcasted_iota(jnp.int32, (*index.shape[:-1], length), index.ndim - 1)
  dense = jnp.zeros(iota.shape, values.dtype)
  for rank in range(index.shape[-1]):  # compares that fuse into one pass
    dense = jnp.where(iota == index[..., rank, None], values[..., rank, None], dense)
  return dense


def spread_by_scatter(index, values, length):
  """The same; on a CPU two to three times as fast."""

  def put(dense, rank):  # one rank at a time: the coordinates of all would be four times the values
    row = lambda d, i, v: d.at[i].set(v, mode="promise_in_bounds")
    return functools.reduce(lambda f, _: jax.vmap(f), range(index.ndim - 1), row)(dense, *rank), None

  # Zeros that depend on an input: the compiler would make plain ones at the begin of the program, and keep them beside
  # the scores.
  zeros = jnp.minimum(index[..., :1], 0).astype(values.dtype)
  zeros = jnp.broadcast_to(zeros, (*index.shape[:-1], length))
  return lax.scan(put, zeros, (jnp.moveaxis(index, -1, 0), jnp.moveaxis(values, -1, 0)))[0]


def spread(index, values, length):
  """The same, by the way that suits the device."""
  function = spread_by_scatter if jax.default_backend() == "cpu" else spread_by_compares
  return function(index, values, length)


def _check_count(num_neighbors, m):
  if not 1 <= num_neighbors <= m:
    way_out = (
      "a smaller num_neighbors, a smaller patch_size or a larger image" if num_neighbors > m else "1 or more"
    )
    raise UserError(
      f"num_neighbors={num_neighbors} must lie in [1, {m}], the number of candidate tokens; choose {way_out}."
    )


def select_neighbors(
  scores: jax.Array, num_neighbors: int, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
  """The k largest scores of every row, largest first; among equals the lowest index comes first.

  Args:
    scores: [b h n m], larger = nearer. NaN counts as hidden.
    num_neighbors: k, 1 <= k <= m.
    method: key of SELECTIONS; all give the same.

  Returns:
    values [b h n k], with gradients to the chosen scores only, and int32 index [b h n k] into m.

  Raises:
    UserError: k is not in [1, m], or unknown method.
  """
  _check_count(num_neighbors, check_shapes("scores: b h n m", scores=scores)["m"])
  choose("selection", method, SELECTIONS)
  return _select(scores, num_neighbors, method)


def keep_neighbors(scores: jax.Array, num_neighbors: int) -> jax.Array:
  """Boolean [b h n m], True at the k largest scores of every row: exactly k, ties to the lowest index.

  The k-th largest is found bit by bit, as the largest number that k scores reach: as many passes for any k.

  Raises:
    UserError: k is not in [1, m].
  """
  m = check_shapes("scores: b h n m", scores=scores)["m"]
  _check_count(num_neighbors, m)
  keys = _ordered_integers(_cleaned(lax.stop_gradient(scores)))

  def count(condition):
    """How many candidates of a row meet it: [b h n 1]."""
    groups = in_lanes(keys, keys)  # here: made outside of the loops they would be a second copy
    met = [condition(*group) for group in groups]
    if m > LANES and m % LANES:  # what the last two groups share counts once
      met[-1] &= groups[-1][1] >= m // LANES * LANES
    # Added as integers: of a chain of float sums the compiler makes one pass each.
    total = functools.reduce(jnp.add, (group.astype(jnp.int32) for group in met))
    return jnp.sum(total, axis=-1, keepdims=True)

  bits = jnp.iinfo(keys.dtype).bits
  one = jnp.ones((), keys.dtype)

  def next_bit(number, threshold):
    higher = threshold ^ (
      one << (bits - 1 - number).astype(keys.dtype)
    )  # the first bit is the sign: from min to 0
    return jnp.where(count(lambda key, _: key >= higher) >= num_neighbors, higher, threshold)

  lowest = jnp.full_like(keys[..., :1], jnp.iinfo(keys.dtype).min)
  smallest = lax.fori_loop(0, bits, next_bit, lowest)

  # Of those equal to the k-th value as many as are left, counted from the lowest place.
  left = num_neighbors - count(lambda key, _: key > smallest)
  place_bits = m.bit_length()

  def next_place(number, place):
    later = place | (1 << (place_bits - 1 - number))
    return jnp.where(count(lambda key, at: (key == smallest) & (at < later)) < left, later, place)

  last = lax.fori_loop(0, place_bits, next_place, jnp.zeros(smallest.shape, jnp.int32))
  smallest, last = checkpoint_name(smallest, SAVED_NAME), checkpoint_name(last, SAVED_NAME)
  at = inside(keys, lax.broadcasted_iota(jnp.int32, (*[1] * (scores.ndim - 1), m), scores.ndim - 1))
  return (keys > smallest) | ((keys == smallest) & (at <= last))


def _ordered_integers(x):
  """Integers of the same order as the floats x; 0 and -0 are equal."""
  integer = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
  raw = lax.bitcast_convert_type(jnp.where(x == 0, inside(x, 0), x), integer)
  return raw ^ ((raw >> (jnp.iinfo(integer).bits - 1)) & jnp.iinfo(integer).max)
