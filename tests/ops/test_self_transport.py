"""The self-optimal-transport transform: what it promises, and what its published options do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.errors import UserError
from convnn_jax.ops.self_transport import PRESETS, self_transport, transport_cost

B, N, H, D = 2, 7, 2, 5


def tokens(seed=0, n=N):
  return np.random.default_rng(seed).normal(size=(B, n, H, D)).astype(np.float32)


@functools.cache
def compiled(**options):
  return fast_jit(lambda *inputs: self_transport(*inputs, **options))


def transform(*inputs, **options):
  return np.asarray(compiled(**options)(*inputs)[0])


def diagonal(z):
  return np.diagonal(z, axis1=2, axis2=3)


def test_costs_equal_the_loop():
  x, y = tokens(), tokens(1)
  euclidean, cosine = np.zeros((2, B, H, N, N))
  for b, h, i, j in np.ndindex(B, H, N, N):
    u, v = x[b, i, h], y[b, j, h]
    euclidean[b, h, i, j] = np.sqrt(np.sum((u - v) ** 2))
    cosine[b, h, i, j] = 1 - np.sum(u * v) / np.sqrt(np.sum(u**2) * np.sum(v**2))
  check = lambda expected, **options: np.testing.assert_allclose(
    transport_cost(x, y, **options), expected, atol=2e-6
  )
  check(cosine, metric="cosine", cost_scale="none")
  check(euclidean, cost_scale="none")
  check(euclidean / euclidean.max(3, keepdims=True))
  check(euclidean / euclidean.max((2, 3), keepdims=True), cost_scale="sample_max")
  check(euclidean / euclidean.max((0, 2, 3), keepdims=True), cost_scale="global_max")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_promises_of_the_transform(preset):
  options = PRESETS[preset]
  z, log_plan = (np.asarray(a) for a in compiled(**options)(tokens()))
  np.testing.assert_array_equal(diagonal(z), 1.0)
  assert z.min() >= 0
  apart = z[..., ~np.eye(N, dtype=bool)]
  np.testing.assert_allclose(apart.max(-1), 1.0, rtol=1e-6)
  plan = np.exp(log_plan)
  np.testing.assert_allclose(plan.sum(2), 1 / N, rtol=1e-5)
  np.testing.assert_array_equal(diagonal(plan), 0.0)

  linked = transform(tokens(), **options | dict(rescale="none"))
  expected = plan / (1 + plan) if options["link"] == "sigmoid" else plan
  np.testing.assert_allclose(linked, np.where(np.eye(N), 1.0, expected), rtol=1e-5)

  order = np.random.default_rng(3).permutation(N)
  np.testing.assert_allclose(transform(tokens()[:, order], **options), z[:, :, order][..., order], atol=1e-5)
  np.testing.assert_allclose(transform(7 * tokens(), **options), z, atol=1e-5)
  np.testing.assert_allclose(transform(tokens()[:1], **options), z[:1], atol=1e-6)


def test_the_largest_cost_of_the_batch_leaks():
  z = transform(tokens(), cost_scale="global_max")
  assert not np.allclose(transform(tokens()[:1], cost_scale="global_max"), z[:1], atol=1e-4)


def test_rows_count_to_two_only_with_unit_marginals_and_without_rescaling():
  plain = dict(
    metric="cosine", cost_scale="none", link="exp", marginal="unit", rescale="none", regularization=0.5
  )
  z = transform(tokens(), **plain, iterations=60)
  np.testing.assert_allclose(z.sum(3), 2.0, rtol=1e-5)
  assert transform(tokens(), regularization=0.5).sum(3).min() > 2.5  # the study's choice


def test_two_inputs_and_the_kept_diagonal():
  x, y = tokens(), tokens(1)
  np.testing.assert_allclose(transform(x, x), transform(x), atol=1e-6)
  assert not np.allclose(transform(x, y), transform(x), atol=1e-2)
  kept = transform(x, y, diagonal="kept")
  assert np.all(diagonal(kept) < 1.0001)
  assert diagonal(kept).std() > 1e-2
  # To transport to itself costs nothing, and little entropy leaves it at that.
  nearly = transform(x, diagonal="kept", link="exp", regularization=0.02, iterations=50)
  np.testing.assert_allclose(nearly, np.broadcast_to(np.eye(N), nearly.shape), atol=1e-2)
  with pytest.raises(UserError, match="as many tokens with as many: 7 and 6"):
    self_transport(x, tokens(n=6))


def test_values_of_the_diagonal_and_its_mask():
  z = transform(tokens(), diagonal_value=0.25)
  np.testing.assert_array_equal(diagonal(z), 0.25)
  # A low mask lets tokens go to themselves, which takes mass from the others.
  log_plan = compiled(mask_value=0.0)(tokens())[1]
  assert np.exp(diagonal(np.asarray(log_plan))).min() > 0.1 / N


def test_a_constant_maximum_changes_the_gradient_only():
  weight = np.random.default_rng(4).normal(size=(B, H, N, N)).astype(np.float32)
  value = lambda x, word: jnp.sum(weight * self_transport(x, rescale=word)[0])
  (one, through), (two, around) = (
    fast_jit(jax.value_and_grad(lambda x: value(x, word)))(tokens()) for word in ("max", "constant_max")
  )
  np.testing.assert_allclose(one, two, rtol=1e-6)
  assert np.abs(through - around).max() > 1e-3


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("regularization", [0.025, 1.0])
def test_gradients_are_finite_where_tokens_coincide(preset, regularization):
  options = PRESETS[preset] | dict(regularization=regularization)
  run = fast_jit(jax.grad(lambda x: jnp.sum(jnp.sin(self_transport(x, **options)[0]).astype(jnp.float32))))
  pairs = tokens()
  pairs[:, 1] = pairs[:, 0]
  same = np.broadcast_to(pairs[:, :1], pairs.shape)
  for x in (pairs, same, np.zeros_like(pairs)):
    for dtype in (jnp.float32, jnp.bfloat16):
      gradient = run(jnp.asarray(x, dtype))
      assert gradient.dtype == dtype
      assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_low_precision_stays_outside_the_iteration():
  exact = transform(tokens())
  low = compiled()(jnp.asarray(tokens(), jnp.bfloat16))[0]
  assert low.dtype == jnp.float32
  np.testing.assert_allclose(low, exact, atol=3e-2)


def test_the_domain_follows_from_the_spread_of_the_costs():
  exponentials = lambda **options: str(
    jax.make_jaxpr(lambda x: self_transport(x, **options)[0])(tokens())
  ).count("exp ")
  few, many = exponentials(domain="exp"), exponentials(domain="log")
  assert few != many
  expected = [
    (dict(regularization=0.025), few),
    (dict(regularization=0.02), many),
    (dict(regularization=0.05, metric="cosine", cost_scale="none"), few),
    (dict(regularization=0.04, metric="cosine", cost_scale="none"), many),
    (dict(regularization=10.0, cost_scale="none"), many),  # distances of any size
  ]
  for options, count in expected:
    assert exponentials(**options) == count
  with pytest.raises(UserError, match="Unknown domain 'linear'"):
    self_transport(tokens(), domain="linear")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(metric="cosinus"), "Did you mean 'cosine'"),
    (dict(cost_scale="max"), "Unknown cost_scale 'max'"),
    (dict(link="sigmoids"), "Did you mean 'sigmoid'"),
    (dict(rescale="sum"), "Unknown rescale 'sum'"),
    (dict(diagonal="mask"), "Did you mean 'masked'"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    self_transport(tokens(), **change)
