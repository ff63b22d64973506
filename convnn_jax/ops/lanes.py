"""Rows read 16 numbers at a time, and the k largest of a row found so: for CPUs.

A compiler may not reorder the additions or comparisons of a row of floats, so that a plain row maximum takes one number
at a time.
"""

import jax.numpy as jnp
from jax import lax

from convnn_jax.ops.loop_constants import inside

# Numbers that are compared with one instruction.
LANES = 16
# Rows of up to so many scores are read a second time from a cache, faster than a pass finds score and place at once.
_SHORT = 128


def in_lanes(row, loop):
  """[... m] -> its groups of LANES neighbouring entries, each [... 16], with their places [1 ... 16].

  The last group overlaps the one before where 16 does not divide m. Places are made inside of `loop`, a value of the
  loop that reads them; the groups, too, should be: outside they would be a second copy of the row.
  """
  m = row.shape[-1]
  width = min(LANES, m)
  # Places are floats (exact up to 2 ** 24): the compiler has fast minima of floats only.
  lanes = lax.broadcasted_iota(jnp.float32, (*[1] * (row.ndim - 1), width), row.ndim - 1)
  lanes = inside(loop, lanes)
  begins = (min(begin, m - width) for begin in range(0, m, LANES))
  return [(row[..., begin : begin + width], lanes + begin) for begin in begins]


def top_k_by_lanes(scores, k):
  """k passes over [... m], each for the best score behind the one before: values and places [... k].

  Scores are only read. Neither NaN nor -inf may be among them.
  """
  return (_score_then_place if scores.shape[-1] <= _SHORT else _score_with_place)(scores, k)


def _behind(group, places, value, place):
  """Which scores of a group come after the one chosen last: smaller, or equal and at a later place."""
  return (group < value) | ((group == value) & (places > place))


def _score_then_place(scores, k):
  """Two passes for each of the k: the largest score left, then its first place that is not taken."""

  def following(last, _):
    last_value, last_place = last
    groups = in_lanes(scores, last_value)
    infinity = inside(last_value, jnp.inf)
    value = jnp.broadcast_to(-infinity, groups[0][0].shape)
    for group, places in groups:
      value = jnp.where(_behind(group, places, *last), jnp.maximum(group, value), value)
    value = jnp.max(value, axis=-1, keepdims=True)
    taken = jnp.where(value == last_value, last_place, -infinity.astype(last_place.dtype))
    place = jnp.broadcast_to(infinity.astype(jnp.float32), groups[0][0].shape)
    for group, places in reversed(groups):
      place = jnp.where((group == value) & (places > taken), places, place)
    place = jnp.min(place, axis=-1, keepdims=True)
    return (value, place), (value[..., 0], place[..., 0])

  above = jnp.broadcast_to(inside(scores, jnp.inf), (*scores.shape[:-1], 1))
  _, (values, places) = lax.scan(following, (above, -above.astype(jnp.float32)), None, length=k)
  return jnp.moveaxis(values, 0, -1), jnp.moveaxis(places, 0, -1).astype(jnp.int32)


def _score_with_place(scores, k):
  """One pass for each of the k, which writes both as the parts of complex numbers: two arrays would take two passes."""
  dtype = scores.dtype
  scores = scores.astype(jnp.promote_types(dtype, jnp.float32))  # complex numbers have no narrower parts

  def best_behind(value, place):
    """Of each lane the best of what comes after (value, place), and its place: [... 16]."""
    groups = in_lanes(scores, value)
    nothing = inside(value, -jnp.inf)
    best = jnp.broadcast_to(lax.complex(nothing, nothing), groups[0][0].shape)
    for group, places in groups:
      left = jnp.where(_behind(group, places, value, place), group, nothing)
      # Of equal scores the first stays.
      places = jnp.broadcast_to(places, group.shape).astype(group.dtype)
      best = jnp.where(left > best.real, lax.complex(left, places), best)
    return best

  def winner(best):
    value = jnp.max(best.real, axis=-1, keepdims=True)
    place = jnp.where(best.real == value, best.imag, inside(value, jnp.inf))
    return value, jnp.min(place, axis=-1, keepdims=True)

  def following(best, _):
    value, place = winner(best)
    return best_behind(value, place), (value[..., 0], place[..., 0])

  above = jnp.broadcast_to(inside(scores, jnp.inf), (*scores.shape[:-1], 1))
  # A turn ends with a pass, whose result the next turn reads: within one turn the compiler would repeat the pass.
  last, (values, places) = lax.scan(following, best_behind(above, -above), None, length=k - 1)
  value, place = winner(last)
  values = jnp.concatenate([jnp.moveaxis(values, 0, -1), value], axis=-1)
  places = jnp.concatenate([jnp.moveaxis(places, 0, -1), place], axis=-1)
  return values.astype(dtype), places.astype(jnp.int32)
