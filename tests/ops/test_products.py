"""Scores and mixtures against loops, with few tokens and with many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.ops.products import compare, mix_softmax, mix_values, one_by_one

# (candidates, channels): few; many with narrow rows, with wide rows. For each the gradient is made in another way.
SIZES = ((5, 4), (130, 4), (130, 65))


def arrays(*shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("word", ["number", "array"])
@pytest.mark.parametrize(("m", "d"), SIZES)
def test_scores_and_their_gradients(m, d, word):
  b, n, h = 2, 3, 2
  query, key, into = arrays((b, n, h, d), (b, m, h, d), (b, h, n, m))
  scale = 0.3 if word == "number" else jnp.array(0.3)
  scores, backward = jax.vjp(lambda query, key: compare(query, key, jnp.float32, scale), query, key)
  expected, into_query, into_key = np.zeros((b, h, n, m)), np.zeros(query.shape), np.zeros(key.shape)
  for at in np.ndindex(b, h, n, m):
    batch, head, i, j = at
    expected[at] = 0.3 * np.dot(query[batch, i, head], key[batch, j, head])
    into_query[batch, i, head] += 0.3 * into[at] * np.asarray(key[batch, j, head])
    into_key[batch, j, head] += 0.3 * into[at] * np.asarray(query[batch, i, head])
  np.testing.assert_allclose(scores, expected, atol=1e-5)
  for mine, loop in zip(backward(into), (into_query, into_key), strict=True):
    np.testing.assert_allclose(mine, loop, atol=1e-4)


@pytest.mark.parametrize(("m", "d"), SIZES)
def test_mixture_and_its_gradients(m, d):
  b, n, h = 2, 3, 2
  weights, value, into = arrays((b, h, n, m), (b, m, h, d), (b, n, h, d))
  mixed, backward = jax.vjp(mix_values, weights, value)
  expected, into_weights, into_value = np.zeros((b, n, h, d)), np.zeros(weights.shape), np.zeros(value.shape)
  for at in np.ndindex(b, h, n, m):
    batch, head, i, j = at
    expected[batch, i, head] += float(weights[at]) * np.asarray(value[batch, j, head])
    into_weights[at] = np.dot(into[batch, i, head], value[batch, j, head])
    into_value[batch, j, head] += float(weights[at]) * np.asarray(into[batch, i, head])
  np.testing.assert_allclose(mixed, expected, atol=1e-4)
  for mine, loop in zip(backward(into), (into_weights, into_value), strict=True):
    np.testing.assert_allclose(mine, loop, atol=1e-4)


@pytest.mark.parametrize(("m", "d"), SIZES)
def test_bfloat16_gives_wide_scores_and_gradients_of_its_own_type(m, d):
  query, key = (x.astype(jnp.bfloat16) for x in arrays((1, 3, 2, d), (1, m, 2, d)))
  scores, backward = jax.vjp(lambda query, key: compare(query, key, jnp.float32), query, key)
  assert scores.dtype == jnp.float32
  assert [x.dtype for x in backward(scores)] == [jnp.bfloat16] * 2


def test_what_makes_products_faster_changes_no_number():
  x = arrays((2, 3, 4, 5))[0].at[0, 0, 0, 0].set(jnp.inf).at[0, 1, 2].set(-jnp.inf)
  same, tangent = jax.jvp(one_by_one, (x,), (2 * jnp.ones_like(x),))
  np.testing.assert_array_equal(same, x)
  np.testing.assert_array_equal(tangent, 2 * np.ones(x.shape))
  np.testing.assert_array_equal(jax.grad(lambda x: (3 * one_by_one(x)).sum())(jnp.ones((1, 1, 2, 2))), 3.0)
  assert one_by_one(jnp.zeros((1, 2, 3, 0))).shape == (1, 2, 3, 0)


@pytest.mark.parametrize("m", [5, 130])
def test_nan_never_disappears(m):
  query, key = arrays((1, 3, 2, 4), (1, m, 2, 4))
  scores = jax.jit(compare, static_argnums=2)(query.at[0, 1].set(jnp.nan), key, jnp.float32)
  assert np.isnan(scores[:, :, 1]).all()
  assert np.isfinite(scores[:, :, [0, 2]]).all()
  scores = jax.jit(compare, static_argnums=2)(query, key.at[0, 1].set(jnp.nan), jnp.float32)
  assert np.isnan(scores[..., 1]).all()


def test_a_factor_in_an_array_has_a_gradient():
  query, key = arrays((1, 3, 2, 4), (1, 5, 2, 4))
  gradient = jax.grad(lambda scale: compare(query, key, jnp.float32, scale).sum())(0.3)
  np.testing.assert_allclose(gradient, compare(query, key, jnp.float32).sum(), rtol=1e-5)


@pytest.mark.parametrize(("m", "d"), SIZES)
def test_gradients_have_the_types_of_their_inputs(m, d):
  weights, value = arrays((1, 2, 3, m), (1, m, 2, d))
  for types in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float16)):
    inputs = weights.astype(types[0]), value.astype(types[1])
    mixed, backward = jax.vjp(mix_values, *inputs)
    assert tuple(x.dtype for x in backward(mixed)) == types


@pytest.mark.parametrize("m", [5, 130])
def test_softmax_divided_at_the_end(m):
  scores, value = arrays((2, 3, 4, m), (2, m, 3, 5))
  scores = 40 * scores.at[0, 0, 0].set(jnp.finfo(jnp.float32).min).at[..., 1].set(-jnp.inf)
  separate = lambda scores, value: mix_values(jax.nn.softmax(scores, axis=-1), value)
  into = arrays((2, 4, 3, 5))[0]
  for mine, other in zip(*(jax.vjp(f, scores, value) for f in (mix_softmax, separate)), strict=True):
    if callable(mine):
      mine, other = mine(into), other(into)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, other)
  assert mix_softmax(scores, value.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_softmax_divided_at_the_end_is_no_sum_too_large_for_float16():
  mixed = mix_softmax(jnp.zeros((1, 1, 2, 5000)), jnp.full((1, 5000, 1, 3), 20, jnp.float16))
  np.testing.assert_allclose(mixed, 20, rtol=1e-2)


def test_softmax_of_no_candidates_is_zero():
  np.testing.assert_array_equal(
    mix_softmax(jnp.zeros((1, 2, 3, 0)), jnp.zeros((1, 0, 2, 4))), np.zeros((1, 3, 2, 4))
  )
