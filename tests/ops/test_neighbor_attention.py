"""The kernel, run by the interpreter, against the operations that it replaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.ops.neighbor_attention import neighbor_attention
from convnn_jax.ops.neighbors import aggregate_neighbors, neighbor_weights
from convnn_jax.ops.selection import select_neighbors

SHAPES = {
  "one block": dict(b=1, h=1, n=16, m=16, d=16, e=16, k=4),
  "odd": dict(b=2, h=3, n=37, m=21, d=5, e=7, k=3),
  "one of all": dict(b=1, h=2, n=1, m=1, d=1, e=1, k=1),
  "the nearest": dict(b=1, h=1, n=5, m=33, d=8, e=8, k=1),
  "all": dict(b=1, h=2, n=9, m=9, d=4, e=4, k=9),
}


def _inputs(b, h, n, m, d, e, k, seed=0):
  rng = np.random.default_rng(seed)
  shapes = (b, h, n, d), (b, h, m, d), (b, h, m, e), (k, e)
  return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def _plain(query, key, value, kernel, scale, temperature):
  scores = jnp.einsum("bhnd,bhmd->bhnm", query, key, precision="highest") * scale
  values, index = select_neighbors(scores, len(kernel))
  weights = neighbor_weights(values, temperature=temperature)
  return aggregate_neighbors(value, index, weights, kernel, "reference"), values, index


def _with_gradients(function, inputs):
  out, backward, others = jax.vjp(lambda *a: (lambda y: (y[0], y[1:]))(function(*a)), *inputs, has_aux=True)
  cotangent = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
  return out, others, backward(cotangent)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_operations(shape):
  inputs = _inputs(**SHAPES[shape])
  options = dict(scale=0.7, temperature=0.6)
  run = lambda *a: neighbor_attention(*a, mode="interpreted", **options)
  out, (values, index), gradients = _with_gradients(run, inputs)
  expected, (best, places), expected_gradients = _with_gradients(lambda *a: _plain(*a, **options), inputs)
  np.testing.assert_array_equal(index, places)
  np.testing.assert_allclose(values, best, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  for ours, theirs in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_ties_and_nan():
  query, key, value, kernel = _inputs(**SHAPES["odd"])
  key = key.at[:, :, 4].set(key[:, :, 2]).at[0, 0, 0].set(jnp.nan)
  query = query.at[1, 0, 3].set(0.0)  # all scores are equal
  out, values, index = neighbor_attention(query, key, value, kernel, scale=1.0, mode="interpreted")
  expected, _, places = _plain(query, key, value, kernel, 1.0, 1.0)
  np.testing.assert_array_equal(index, places)
  np.testing.assert_array_equal(index[1, 0, 3], [0, 1, 2])
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
  assert np.all(np.isfinite(values))


def test_bfloat16_stays_close():
  inputs = _inputs(**SHAPES["odd"])
  low = [x.astype(jnp.bfloat16) for x in inputs]
  out, _, index = neighbor_attention(*low, scale=1.0, mode="interpreted")
  exact, _, places = _plain(*[x.astype(jnp.float32) for x in low], 1.0, 1.0)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(index, places)
  np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0.02, atol=0.05)


def test_a_sharded_batch_stays_where_it_is():
  mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
  place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
  *tokens, kernel = _inputs(b=4, h=2, n=5, m=5, d=4, e=4, k=2)
  run = jax.jit(lambda *a: neighbor_attention(*a, scale=1.0, mode="interpreted")[0])
  spread = [*(place(x, "data", "tensor") for x in tokens), place(kernel)]
  text = run.lower(*spread).compile().as_text()
  assert "all-gather" not in text
  np.testing.assert_allclose(run(*spread), _plain(*tokens, kernel, 1.0, 1.0)[0], rtol=1e-4, atol=1e-5)


def test_needs_a_gpu():
  with pytest.raises(UserError, match="kernel for GPUs and this is a cpu; use implementation='auto'"):
    neighbor_attention(*_inputs(**SHAPES["odd"]), scale=1.0)
