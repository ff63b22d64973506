"""Selection and aggregation of neighbours: values, gradients, and what the compiler makes of them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.ops.neighbors import (
  WEIGHTINGS,
  aggregate_neighbors,
  dense_weights,
  hidden_score,
  neighbor_weights,
  select_neighbors,
)


def _random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def _select(k):
  return fast_jit(lambda scores: select_neighbors(scores, k))


def _check_selection(scores, k):
  values, index = _select(k)(scores)
  clean = np.maximum(np.where(np.isnan(scores), -np.inf, scores), hidden_score(np.float32))
  expected = np.argsort(-clean, axis=-1, kind="stable")[..., :k]  # stable: the lowest index first
  np.testing.assert_array_equal(index, expected)
  np.testing.assert_array_equal(values, np.take_along_axis(clean, expected, -1))


# 33 passes and 1025 candidates are one more than the limits, behind which the library selects.
@pytest.mark.parametrize(("m", "k"), [(40, 1), (40, 7), (40, 32), (40, 33), (40, 40), (1025, 3)])
def test_selection_equals_a_sort(m, k):
  _check_selection(_random(2, 1, 3, m), k)
  tied = np.round(_random(2, 1, 3, m, seed=1))
  assert len(np.unique(tied)) < m / 3
  _check_selection(tied, k)
  _check_selection(np.zeros((2, 1, 3, m), np.float32), k)


@pytest.mark.parametrize("k", [3, 6, 33])
def test_nan_and_minus_infinity_come_last(k):
  scores = _random(1, 2, 3, 6 if k < 33 else 40)
  scores[0, 0, 0, 1], scores[0, 0, 1, :4], scores[0, 1, 0] = np.nan, -np.inf, np.nan
  scores[0, 1, 1, [0, 3]] = np.nan, -np.inf
  scores[0, 1, 2, 2] = np.inf
  _check_selection(scores, k)


def test_selection_gives_gradients_to_what_it_chose():
  scores, weights = _random(2, 1, 3, 9), _random(2, 1, 3, 4, seed=1)
  gradient = fast_jit(jax.grad(lambda s: jnp.sum(select_neighbors(s, 4)[0] * weights)))(scores)
  expected = np.zeros_like(scores)
  np.put_along_axis(expected, np.argsort(-scores, axis=-1)[..., :4], weights, -1)
  np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("k", [0, 6])
def test_impossible_numbers_of_neighbors(k):
  with pytest.raises(UserError, match=rf"num_neighbors={k} must lie in \[1, 5\]"):
    select_neighbors(jnp.zeros((1, 1, 2, 5)), k)


def test_weights_of_hidden_candidates_are_zero():
  values = jnp.asarray([2.0, 1.0, hidden_score(np.float32)])[None, None, None]
  for weighting in WEIGHTINGS:
    for similarity in ("dot", "euclidean", "distance"):
      weights = neighbor_weights(values, weighting=weighting, similarity=similarity, temperature=0.5)
      assert np.all(np.isfinite(weights))
      assert weights[0, 0, 0, 2] == 0


def test_weights():
  values = jnp.asarray([-1.0, -3.0])[None, None, None]
  weigh = lambda *args, **kw: np.asarray(neighbor_weights(values, weighting=args[0], **kw))[0, 0, 0]
  np.testing.assert_allclose(
    weigh("softmax", temperature=2.0), [np.e / (1 + np.e), 1 / (1 + np.e)], rtol=1e-6
  )
  np.testing.assert_allclose(weigh("similarity"), [-1, -3])
  np.testing.assert_allclose(weigh("similarity", similarity="euclidean"), [1, 1 / 3], rtol=1e-6)
  np.testing.assert_allclose(weigh("similarity", similarity="distance"), [1, 3])
  np.testing.assert_allclose(weigh("sum"), [0.25, 0.75])
  np.testing.assert_allclose(weigh("sum", similarity="euclidean"), [0.75, 0.25], rtol=1e-6)
  np.testing.assert_allclose(weigh("full_softmax"), [-1, -3])
  with pytest.raises(UserError, match="Did you mean 'softmax'"):
    weigh("soft-max")


def _inputs(kind, b=2, h=2, n=5, m=6, k=3, d=4, e=7):
  rng = np.random.default_rng(3)
  kernel = _random(k, d) if kind == "depthwise" else _random(k, d, e)
  return _random(b, h, m, d), rng.integers(0, m, (b, h, n, k), np.int32), _random(b, h, n, k), kernel


def _naive(value, index, weights, kernel):
  """Gathers everything: [b h n k d]."""
  gathered = jnp.take_along_axis(value[:, :, None], index[..., None], axis=3)
  gathered = gathered * weights[..., None]
  return jnp.einsum("bhnkd,kd->bhnd" if kernel.ndim == 2 else "bhnkd,kde->bhne", gathered, kernel)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_aggregation_equals_loops(kind):
  value, index, weights, kernel = _inputs(kind)
  out = fast_jit(aggregate_neighbors)(value, index, weights, kernel)
  expected = np.zeros(out.shape)
  for b, h, n, r in np.ndindex(index.shape):
    neighbor = weights[b, h, n, r] * value[b, h, index[b, h, n, r]]
    expected[b, h, n] += kernel[r] * neighbor if kind == "depthwise" else neighbor @ kernel[r]
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_aggregation_has_the_gradients_of_a_plain_gather(kind):
  value, index, weights, kernel = _inputs(kind)
  shape = aggregate_neighbors(value, index, weights, kernel).shape
  loss = lambda f: lambda v, w, t: jnp.sum(f(v, index, w, t) * _random(*shape, seed=5))
  gradients = lambda f: fast_jit(jax.grad(loss(f), argnums=(0, 1, 2)))(value, weights, kernel)
  for ours, expected in zip(gradients(aggregate_neighbors), gradients(_naive), strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_kernel_of_another_length_is_refused():
  value, index, weights, kernel = _inputs("depthwise")
  with pytest.raises(ValueError, match="does not fit k=3, d=4"):
    aggregate_neighbors(value, index, weights, kernel[:2])


def test_dense_weights():
  index, weights = np.array([[[[1, 0], [2, 2]]]]), np.array([[[[0.5, 0.25], [1.0, 2.0]]]], np.float32)
  np.testing.assert_array_equal(dense_weights(index, weights, 3)[0, 0], [[0.25, 0.5, 0], [0, 0, 3]])


def _loss(scores, value, kernel):
  values, index = select_neighbors(scores, kernel.shape[0])
  return jnp.sum(jnp.sin(aggregate_neighbors(value, index, neighbor_weights(values), kernel)))


def _compiled(kind, *, b, h, n, k, d, sharding=None):
  """Selection, weights and aggregation with all gradients, as a training step has them."""
  array = lambda *shape, where=None: jax.ShapeDtypeStruct(shape, np.float32, sharding=where)
  kernel = array(k, d) if kind == "depthwise" else array(k, d, d)
  scores, value = array(b, h, n, n, where=sharding), array(b, h, n, d, where=sharding)
  return jax.jit(jax.value_and_grad(_loss, argnums=(0, 1, 2))).lower(scores, value, kernel).compile()


def _largest_buffer(text):
  shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
  return max(math.prod(int(size) for size in shape.split(",")) for shape in shapes)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_compiled_step_neither_sorts_nor_gathers_all_neighbors(kind):
  b, h, n, k, d = 2, 3, 32, 6, 24
  text = _compiled(kind, b=b, h=h, n=n, k=k, d=d).as_text()
  assert " sort(" not in text
  assert _largest_buffer(text) < b * h * n * k * d
  naive = jax.jit(_naive).lower(*_inputs(kind)).compile().as_text()
  assert _largest_buffer(naive) >= 2 * 2 * 5 * 3 * 4  # the measure sees what it must see


def test_the_library_path_does_not_sort_either():
  assert " sort(" not in _compiled("depthwise", b=1, h=1, n=48, k=40, d=4).as_text()


def test_memory_does_not_grow_with_k():
  sizes = dict(b=2, h=1, n=197, d=192)  # the published model; what grows is [b h n k] and no more
  few, many = (_compiled("depthwise", k=k, **sizes).memory_analysis().temp_size_in_bytes for k in (4, 25))
  assert many <= 1.25 * few


def test_a_sharded_batch_stays_where_it_is():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  text = _compiled("depthwise", b=8, h=2, n=16, k=4, d=8, sharding=sharding).as_text()
  assert "all-reduce" in text  # of the kernel's gradient and the loss: it is a sharded program
  assert "all-gather" not in text
