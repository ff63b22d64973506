"""Neighbour attention in one pass over tiles: scores, selection and aggregation; nothing of size n x n is written.

A program takes a block of queries of one head and all its candidates, keeps their scores in registers, and k times
takes the best score of each row, its lowest place, and the value there, by a product with a matrix of zeros and ones.
The first score taken is the largest, so the softmax needs no rescaling.

Written for GPUs (Pallas). It has been run by the interpreter only, never on a GPU: nothing chooses it by itself.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

_MIN_SIDE = 16  # the shortest side of a matrix product


def _fit(x, axes: dict[int, int]):
  """`x` filled up with zeros to the given lengths."""
  return jnp.pad(x, [(0, axes.get(axis, length) - length) for axis, length in enumerate(x.shape)])


def _power_of_two(length: int) -> int:
  return max(_MIN_SIDE, pl.next_power_of_2(length))


def _kernel(query, key, value, taps, out, values, index, *, scale, temperature, candidates):
  """One block of queries: query [q d], key [m d], value [m e], taps [k e] -> out [q e], values and index [k q]."""
  floor = float(jnp.finfo(jnp.float32).min)
  dot = functools.partial(
    lax.dot_general, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
  )
  scores = dot(query[...], key[...], (((1,), (1,)), ((), ()))) * scale
  place = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
  scores = jnp.where(jnp.isnan(scores), floor, jnp.maximum(scores, floor))
  scores = jnp.where(place < candidates, scores, -jnp.inf)
  candidate_values = value[...]
  first = jnp.max(scores, axis=1)

  def take(rank, carry):
    scores, total, normaliser = carry
    best = jnp.max(scores, axis=1)
    at = jnp.min(jnp.where(scores == best[:, None], place, scores.shape[1]), axis=1)
    chosen = place == at[:, None]
    values[rank, :] = best
    index[rank, :] = at
    share = jnp.exp((best - first) / temperature)
    row = dot(chosen.astype(candidate_values.dtype), candidate_values, (((1,), (0,)), ((), ())))
    weight = jnp.where(best > floor / 2, share, 0.0)
    total += row * weight[:, None] * taps[rank, :].astype(jnp.float32)[None]
    return jnp.where(chosen, -jnp.inf, scores), total, normaliser + share

  zero = jnp.zeros((scores.shape[0], candidate_values.shape[1]), jnp.float32)
  start = (scores, zero, jnp.zeros_like(first))
  _, total, normaliser = lax.fori_loop(0, values.shape[0], take, start)
  out[...] = (total / normaliser[:, None]).astype(out.dtype)


def neighbor_attention_forward(
  query, key, value, taps, *, scale: float, temperature: float = 1.0, block: int = 32, mode: str = "compiled"
):
  """out[b, h, n, e] = sum_r softmax_r(values / temperature) taps[r, e] value[b, h, index[b, h, n, r], e].

  Args:
    query: [b h n d].
    key: [b h m d].
    value: [b h m e].
    taps: [k e], 1 <= k <= m.
    scale: factor of the dot products; temperature: divides the scores of the softmax.
    block: queries of a program, a power of two and at least 16.
    mode: "compiled", or "interpreted" for tests without a GPU.

  Returns:
    out [b h n e] in value's dtype; values [b h n k] float32, largest first, and int32 index [b h n k] into m.
  """
  b, h, n, d = query.shape
  m, k, e = key.shape[2], *taps.shape
  rows = math.ceil(n / block) * block
  sizes = dict(m=_power_of_two(m), d=_power_of_two(d), e=_power_of_two(e))
  flat = lambda x, tokens, width: _fit(x.reshape(b * h, *x.shape[2:]), {1: tokens, 2: width})
  whole = lambda tokens, width: pl.BlockSpec((None, tokens, width), lambda i, j: (i, 0, 0))
  by_block = lambda width: pl.BlockSpec((None, block, width), lambda i, j: (i, j, 0))
  ranks = pl.BlockSpec((None, k, block), lambda i, j: (i, 0, j))
  shape = jax.ShapeDtypeStruct
  out, values, index = pl.pallas_call(
    functools.partial(_kernel, scale=scale, temperature=temperature, candidates=m),
    grid=(b * h, rows // block),
    in_specs=[
      by_block(sizes["d"]),
      whole(sizes["m"], sizes["d"]),
      whole(sizes["m"], sizes["e"]),
      pl.BlockSpec((k, sizes["e"]), lambda i, j: (0, 0)),
    ],
    out_specs=[by_block(sizes["e"]), ranks, ranks],
    out_shape=[
      shape((b * h, rows, sizes["e"]), value.dtype),
      shape((b * h, k, rows), jnp.float32),
      shape((b * h, k, rows), jnp.int32),
    ],
    interpret=mode == "interpreted",
  )(
    flat(query, rows, sizes["d"]),
    flat(key, sizes["m"], sizes["d"]),
    flat(value, sizes["m"], sizes["e"]),
    _fit(taps, {1: sizes["e"]}),
  )
  by_query = lambda x: jnp.swapaxes(x[:, :, :n], 1, 2).reshape(b, h, n, k)
  return out[:, :n, :e].reshape(b, h, n, e), by_query(values), by_query(index)
