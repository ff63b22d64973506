"""Sinkhorn's iteration against loops, its limits, and the agreement of its implementations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.errors import UserError
from convnn_jax.ops.sinkhorn import sinkhorn

B, N = 3, 9


def costs(seed=0, shape=(B, N, N)):
  return np.random.default_rng(seed).uniform(size=shape)


@functools.cache
def compiled(**options):
  return fast_jit(lambda cost, regularization: sinkhorn(cost, regularization, **options))


def plan(cost, regularization, **options):
  with jax.enable_x64(cost.dtype == np.float64):
    return np.exp(np.asarray(compiled(**options)(cost, regularization)))


def loop(cost, regularization, iterations, row_sum, column_sum, threshold=None):
  """Rows and columns of exp(-cost / reg) divided by their sums in turn; the batch stops together."""
  plans = np.exp(-cost / regularization)
  rows = np.ones(plans.shape[:2])  # product of all row factors = exp(f)
  for _ in range(iterations):
    moved = 0.0
    for b in range(len(plans)):
      for i in range(plans.shape[1]):
        factor = row_sum / np.sum(plans[b, i])
        plans[b, i] *= factor
        rows[b, i] *= factor
        # exp(f) starts at 1, and log(exp(f)) moves by the logarithm of the factor.
        moved += abs(regularization * np.log(factor)) / len(plans)
      for j in range(plans.shape[2]):
        plans[b, :, j] *= column_sum / np.sum(plans[b, :, j])
    if threshold is not None and moved < threshold:
      break
  return plans


@pytest.mark.parametrize(("marginal", "row_sum"), [("uniform", 1 / N), ("unit", 1.0)])
@pytest.mark.parametrize("domain", ["log", "exp"])
def test_equals_the_loop(marginal, row_sum, domain):
  expected = loop(costs(), 0.1, 4, row_sum, row_sum)
  np.testing.assert_allclose(
    plan(costs(), 0.1, iterations=4, marginal=marginal, domain=domain), expected, rtol=1e-9
  )
  low = costs().astype(np.float32)
  np.testing.assert_allclose(
    plan(low, 0.1, iterations=4, marginal=marginal, domain=domain), expected, rtol=2e-5
  )


def test_more_columns_than_rows():
  cost = costs(shape=(2, 4, 7))
  np.testing.assert_allclose(plan(cost, 0.2, iterations=3), loop(cost, 0.2, 3, 1 / 4, 1 / 7), rtol=1e-9)
  with pytest.raises(UserError, match="as many rows as columns, not 4 x 7"):
    sinkhorn(cost, 0.2, marginal="unit")


@pytest.mark.parametrize("regularization", [0.1, 1.0])
def test_rows_and_columns_sum_to_their_marginals(regularization):
  sums = plan(costs(), regularization, iterations=10)
  np.testing.assert_allclose(sums.sum(1), 1 / N, rtol=1e-12)  # columns come last
  np.testing.assert_allclose(sums.sum(2), 1 / N, rtol=0.1 if regularization == 0.1 else 1e-9)
  converged = plan(costs(), regularization, iterations=500)
  np.testing.assert_allclose(converged.sum(2), 1 / N, rtol=1e-9)


def test_limits_of_the_regularization():
  np.testing.assert_allclose(plan(costs(), 1e6), 1 / N**2, rtol=1e-5)  # entropy alone: everyone to everyone
  # Cost alone: the cheapest assignment, here that of equal places on a line.
  place = np.arange(6) / 6
  cost = (place[:, None] - place[None]) ** 2
  np.testing.assert_allclose(6 * plan(cost[None], 0.005, iterations=30)[0], np.eye(6), atol=1e-2)


def test_small_costs_and_masked_entries_at_the_edge_of_the_exponential_domain():
  cost = costs(2).astype(np.float32)
  cost[:, np.arange(N), np.arange(N)] = 1000.0
  cost[:, 0, 1:] = 0.0
  for regularization in (0.025, 1.0):
    log, exp = (plan(cost, regularization, domain=domain) for domain in ("log", "exp"))
    np.testing.assert_allclose(log, exp, atol=2e-6)
    assert np.all(exp[:, np.arange(N), np.arange(N)] == 0)


def test_auto_is_exponential_where_that_fits_and_logarithmic_elsewhere():
  cost = costs(2).astype(np.float32)
  cost[:, np.arange(N), np.arange(N)] = 1000.0  # masked, which does not count
  weight = np.random.default_rng(5).normal(size=cost.shape).astype(np.float32)

  def solve(domain, cost):
    """The logarithm of the plan, and the gradient of a sum over the plan."""
    value = lambda c: (lambda log_plan: (jnp.sum(weight * jnp.exp(log_plan)), log_plan))(
      sinkhorn(c, 0.1, iterations=5, domain=domain)
    )
    (_, log_plan), slope = fast_jit(jax.value_and_grad(value, has_aux=True))(cost)
    return np.asarray(log_plan), np.asarray(slope)

  far = 4 * cost
  far[:, :, 3] += 200.0  # a column that is dear for everyone
  assert not np.all(np.isfinite(solve("exp", far)[0]))
  for costs_, domain in ((cost, "exp"), (far, "log")):
    for ours, expected in zip(solve("auto", costs_), solve(domain, costs_), strict=True):
      np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def gradient(cost, regularization, **options):
  weight = jnp.asarray(np.random.default_rng(5).normal(size=cost.shape))
  value = lambda cost: jnp.sum(weight * jnp.exp(sinkhorn(cost, regularization, **options)))
  return np.asarray(fast_jit(jax.grad(value))(cost))


def test_gradients_agree():
  with jax.enable_x64(True):
    cost = costs()
    unrolled = gradient(cost, 0.3, iterations=60)
    np.testing.assert_allclose(gradient(cost, 0.3, iterations=60, domain="exp"), unrolled, atol=1e-12)
    np.testing.assert_allclose(gradient(cost, 0.3, iterations=60, gradient="implicit"), unrolled, atol=1e-12)
    # Numerically, in one direction.
    step = np.random.default_rng(6).normal(size=cost.shape) * 1e-5
    weight = np.random.default_rng(5).normal(size=cost.shape)
    value = lambda cost: np.sum(weight * plan(cost, 0.3, iterations=60))
    np.testing.assert_allclose(
      value(cost + step) - value(cost - step), 2 * np.sum(unrolled * step), rtol=1e-5
    )


def test_the_implicit_gradient_is_that_of_the_fixed_point():
  with jax.enable_x64(True):
    exact = gradient(costs(), 0.05, iterations=2000)
    few = dict(iterations=8)
    errors = [
      np.abs(gradient(costs(), 0.05, gradient=word, **few) - exact).max() for word in ("implicit", "unrolled")
    ]
  assert 0 < errors[0] < errors[1]


def test_the_implicit_gradient_where_the_plan_falls_apart():
  """Tokens in equal pairs, everyone at itself, and two of which each is the other's only partner."""
  far = np.random.default_rng(4).uniform(0.8, 1.0, size=(8, 8))
  pairs = np.where(np.kron(np.eye(4), np.ones((2, 2))) > 0, 0.0, far) + 1000.0 * np.eye(8)
  both = np.stack([pairs, far * (1 - np.eye(8))])
  two = np.array([[[1000.0, 0.3], [0.4, 1000.0]]])
  for cost, dtype, atol in ((both, np.float32, 2e-4), (both, np.float64, 1e-10), (two, np.float32, 2e-4)):
    with jax.enable_x64(dtype == np.float64):
      implicit = gradient(cost.astype(dtype), 0.025, iterations=50, gradient="implicit")
      np.testing.assert_allclose(implicit, gradient(cost.astype(dtype), 0.025, iterations=50), atol=atol)
  # Kernels of 1e9: float32 has no digits left for a plan, but numbers.
  assert np.isfinite(gradient(both.astype(np.float32), 1e-6, gradient="implicit")).all()


def test_the_implicit_gradient_of_nearly_separate_blocks_is_that_of_float64():
  """A link between two blocks, weaker and weaker: the shift of one against the other is found, or does not matter."""
  weight = np.random.default_rng(5).normal(size=(8, 8))
  value = lambda cost: jnp.sum(weight.astype(cost.dtype) * jnp.exp(sinkhorn(cost, 0.1, **options)))
  options = dict(iterations=50, gradient="implicit")
  run = fast_jit(jax.grad(value))
  halves = np.arange(8)[:, None] // 4 != np.arange(8)[None] // 4
  for apart in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
    cost = costs()[0][:8, :8] + apart * halves
    with jax.enable_x64(True):
      exact = np.asarray(run(cost))
    np.testing.assert_allclose(run(cost.astype(np.float32)), exact, atol=3e-5)


def test_the_rule_to_stop_is_that_of_the_batch():
  cost = costs()
  for threshold in (0.05, 0.3):
    expected = loop(cost, 0.1, 10, 1 / N, 1 / N, threshold)
    assert not np.allclose(expected, loop(cost, 0.1, 10, 1 / N, 1 / N))
    np.testing.assert_allclose(plan(cost, 0.1, stop_threshold=threshold), expected, rtol=1e-9)
  # Heads, the second axis, stop each for itself.
  two = np.stack([cost, costs(1) * 0.1], axis=1)
  together = plan(two, 0.1, stop_threshold=0.05)
  for head in range(2):
    np.testing.assert_allclose(together[:, head], plan(two[:, head], 0.1, stop_threshold=0.05), rtol=1e-9)


def test_examples_are_independent_unless_the_batch_stops_together():
  mixed = np.concatenate([costs(), 0.01 * costs(1)])
  alone = lambda **options: np.abs(plan(mixed, 0.1, **options)[:1] - plan(mixed[:1], 0.1, **options)).max()
  assert alone() == 0
  assert alone(stop_threshold=0.05) > 1e-6


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(regularization=0.0), "regularization=0.0 must be at least 1e-6"),
    (dict(regularization=float("nan")), "regularization=nan must be at least 1e-6"),
    (dict(iterations=0), "iterations=0 must be at least 1"),
    (dict(marginal="uniforme"), "Did you mean 'uniform'"),
    (dict(gradient="explicit"), "Did you mean 'implicit'"),
    (dict(domain="linear"), "Unknown domain 'linear'"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    sinkhorn(jnp.ones((1, 2, 2)), **(dict(regularization=0.1) | change))


def test_shapes_without_a_batch():
  cost = costs(shape=(N, N))
  np.testing.assert_allclose(plan(cost, 0.1), plan(cost[None], 0.1)[0], rtol=1e-12)
  with pytest.raises(UserError, match="an average over the batch"):
    sinkhorn(cost, 0.1, stop_threshold=0.1)
  with pytest.raises(UserError, match="must have rows and columns"):
    sinkhorn(cost[0], 0.1)
