"""Selection of neighbours: values, places, gradients, ties; and that it stays on its device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.ops import selection
from convnn_jax.ops.selection import SELECTIONS, hidden_score, keep_neighbors, select_neighbors

METHODS = sorted(SELECTIONS.keys() - {"auto"})


def _random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def _select(k):
  """Every method at once, which compiles faster; the written-out passes for few neighbours only."""
  methods = [method for method in SELECTIONS if method != "passes" or k < 10]
  return fast_jit(lambda scores: {method: select_neighbors(scores, k, method) for method in methods})


@functools.cache
def _keep(k):
  return fast_jit(lambda scores: keep_neighbors(scores, k))


def _check_selection(scores, k):
  floor = hidden_score(scores.dtype)
  clean = np.maximum(np.where(np.isnan(scores), -np.inf, scores), floor)
  expected = np.argsort(-clean, axis=-1, kind="stable")[..., :k]  # stable: the lowest index first
  for method, (values, index) in _select(k)(scores).items():
    np.testing.assert_array_equal(index, expected, err_msg=method)
    np.testing.assert_array_equal(values, np.take_along_axis(clean, expected, -1), err_msg=method)
  kept = np.zeros(scores.shape, bool)
  np.put_along_axis(kept, expected, True, -1)
  np.testing.assert_array_equal(_keep(k)(scores), kept)


# 33 passes are one more than the limit, behind which the library selects; 16 scores are compared at once; from 129 on a
# pass finds score and place.
SIZES = [
  (1, 1),
  (16, 5),
  (17, 17),
  (40, 1),
  (40, 7),
  (40, 33),
  (40, 40),
  (128, 9),
  (129, 1),
  (130, 9),
  (144, 32),
]


@pytest.mark.parametrize(("m", "k"), SIZES)
def test_selection_equals_a_sort(m, k):
  _check_selection(_random(2, 1, 3, m), k)
  tied = np.round(_random(2, 1, 3, m, seed=1))
  assert m < 18 or len(np.unique(tied)) < m / 2
  _check_selection(tied, k)
  _check_selection(np.zeros((2, 1, 3, m), np.float32), k)
  signed_zeros = np.where(_random(2, 1, 3, m) < 0, np.float32(-0.0), np.float32(0.0))
  _check_selection(signed_zeros, k)


def test_many_candidates():
  scores = _random(1, 1, 2, 1025)  # one more than the limit of the passes
  values, index = fast_jit(lambda s: select_neighbors(s, 3))(scores)
  np.testing.assert_array_equal(index, np.argsort(-scores, axis=-1)[..., :3])
  np.testing.assert_array_equal(values, np.take_along_axis(scores, np.asarray(index), -1))


@pytest.mark.parametrize(("m", "k"), [(6, 3), (6, 6), (40, 33), (150, 9)])
def test_nan_and_minus_infinity_come_last(m, k):
  scores = _random(1, 2, 3, m)
  scores[0, 0, 0, 1], scores[0, 0, 1, :4], scores[0, 1, 0] = np.nan, -np.inf, np.nan
  scores[0, 1, 1, [0, 3]] = np.nan, -np.inf
  scores[0, 1, 2, 2] = np.inf
  _check_selection(scores, k)


@pytest.mark.parametrize("m", [19, 131])
def test_float64_and_bfloat16(m):
  with jax.enable_x64(True):
    scores = np.random.default_rng(0).standard_normal((1, 1, 4, m))
    scores[0, 0, 0, 7] = scores[0, 0, 0, 3] + 1e-12  # equal in float32
    for method in METHODS:
      values, index = select_neighbors(jnp.asarray(scores), 5, method)
      assert values.dtype == np.float64
      np.testing.assert_array_equal(index, np.argsort(-scores, axis=-1, kind="stable")[..., :5])
    kept = np.asarray(keep_neighbors(jnp.asarray(scores), 5))
    expected = np.sort(np.argsort(-scores, axis=-1, kind="stable")[..., :5], -1)
    np.testing.assert_array_equal(np.nonzero(kept)[-1].reshape(1, 1, 4, 5), expected)
  low = jnp.asarray(scores, jnp.bfloat16)
  wide = np.asarray(low, np.float32)
  for method in METHODS:
    values, index = select_neighbors(low, 5, method)
    assert values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(index, np.argsort(-wide, axis=-1, kind="stable")[..., :5], err_msg=method)
  assert np.all(np.sum(keep_neighbors(low, 5), -1) == 5)


@pytest.mark.parametrize("method", METHODS)
def test_selection_gives_gradients_to_what_it_chose(method):
  scores, weights = _random(2, 1, 3, 9), _random(2, 1, 3, 4, seed=1)
  loss = lambda s: jnp.sum(select_neighbors(s, 4, method)[0] * weights)
  expected = np.zeros_like(scores)
  np.put_along_axis(expected, np.argsort(-scores, axis=-1)[..., :4], weights, -1)
  np.testing.assert_array_equal(fast_jit(jax.grad(loss))(scores), expected)


@pytest.mark.parametrize("spread", [selection.spread_by_compares, selection.spread_by_scatter])
def test_spread(spread):
  index, values = np.array([[[[1, 0], [2, 4]]]]), np.array([[[[5.0, 6.0], [7.0, 8.0]]]], np.float32)
  np.testing.assert_array_equal(spread(index, values, 5)[0, 0], [[6, 5, 0, 0, 0], [0, 0, 7, 0, 8]])

  values[..., 0, 0] = np.nan  # stays where it is put
  np.testing.assert_array_equal(spread(index, values, 5)[0, 0], [[6, np.nan, 0, 0, 0], [0, 0, 7, 0, 8]])


def test_second_derivatives_are_those_of_the_chosen_even_where_the_first_are_zero():
  target = jnp.array([[[[3.0, 2.0]]]])
  loss = lambda s: 0.5 * jnp.sum((select_neighbors(s, 2)[0] - target) ** 2)
  hessian = jax.jacrev(jax.grad(loss))(jnp.array([[[[3.0, 1.0, 2.0, 0.0]]]]))
  np.testing.assert_array_equal(hessian.reshape(4, 4), np.diag([1.0, 0, 1, 0]))


@pytest.mark.parametrize("method", METHODS)
def test_methods_map_over_a_new_axis(method):
  scores = _random(3, 2, 1, 2, 20)
  values, index = jax.vmap(lambda s: select_neighbors(s, 4, method))(scores)
  np.testing.assert_array_equal(index, np.argsort(-scores, axis=-1)[..., :4])
  assert values.shape == index.shape


@pytest.mark.parametrize("k", [0, 6])
def test_impossible_numbers_of_neighbors(k):
  for function in (select_neighbors, keep_neighbors):
    with pytest.raises(UserError, match=rf"num_neighbors={k} must lie in \[1, 5\]"):
      function(jnp.zeros((1, 1, 2, 5)), k)
  with pytest.raises(UserError, match="Did you mean 'lanes'"):
    select_neighbors(jnp.zeros((1, 1, 2, 5)), 2, "lane")


def _sharded(function, *, n=48):
  """The compiled text of `function` of scores whose batch and heads lie on eight devices, and its result."""
  mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
  sharding = NamedSharding(mesh, PartitionSpec("data", "tensor"))
  scores = jax.device_put(_random(8, 2, n, n), sharding)
  compiled = jax.jit(function).lower(scores).compile()
  return compiled.as_text(), compiled(scores)


@pytest.mark.parametrize("method", METHODS)
def test_a_sharded_batch_stays_where_it_is(method):
  gradient = jax.grad(lambda s: jnp.sum(jnp.sin(select_neighbors(s, 5, method)[0])))
  text, (out, (_, index)) = _sharded(lambda s: (gradient(s), select_neighbors(s, 5, method)))
  for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert collective not in text, collective
  assert " sort(" not in text
  scores = _random(8, 2, 48, 48)
  np.testing.assert_array_equal(index, np.argsort(-scores, axis=-1)[..., :5])
  expected = np.zeros_like(scores)
  largest = np.take_along_axis(scores, np.asarray(index), -1)
  np.put_along_axis(expected, np.asarray(index), np.cos(largest), -1)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_a_kept_mask_stays_where_it_is():
  text, kept = _sharded(lambda s: keep_neighbors(s, 40))
  assert "all-gather" not in text
  assert np.all(np.sum(kept, -1) == 40)
