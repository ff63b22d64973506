"""Sinkhorn's iteration against POT and ott-jax, in float64.

Both set the columns right first, we the rows: after a fixed number of steps our plan of a cost is the transpose of
their plan of the transposed cost.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.ops.self_transport import transport_cost
from convnn_jax.ops.sinkhorn import sinkhorn

pytestmark = pytest.mark.peers
ot = pytest.importorskip("ot", reason="needs requirements-peers.txt")
pytest.importorskip("ott", reason="needs requirements-peers.txt")

REGULARIZATIONS = (0.025, 0.1, 0.8)


@pytest.fixture(autouse=True)
def _double():
  with jax.enable_x64(True):
    yield


def masked_cost(n, metric="euclidean", cost_scale="row_max"):
  x = np.random.default_rng(n).normal(size=(1, n, 1, 16))
  cost = np.array(transport_cost(jnp.asarray(x), metric=metric, cost_scale=cost_scale)[0, 0])
  np.fill_diagonal(cost, 1000.0)
  return cost


def ours(cost, regularization, iterations, domain="log"):
  run = jax.jit(lambda c: jnp.exp(sinkhorn(c, regularization, iterations=iterations, domain=domain)))
  return np.asarray(run(cost))


def pot(cost, regularization, iterations):
  uniform = np.full(len(cost), 1 / len(cost))
  with warnings.catch_warnings():  # that a fixed number of steps has not converged
    warnings.simplefilter("ignore")
    return ot.bregman.sinkhorn_log(uniform, uniform, cost, regularization, numItermax=iterations, stopThr=0)


def ott_jax(cost, regularization, iterations):
  from ott.geometry.geometry import Geometry
  from ott.problems.linear.linear_problem import LinearProblem
  from ott.solvers.linear.sinkhorn import Sinkhorn

  with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
    warnings.simplefilter("ignore")
    geometry = Geometry(cost_matrix=jnp.asarray(cost), epsilon=regularization, scale_cost=1.0)
    steps = dict(threshold=-1, min_iterations=iterations, max_iterations=iterations)
    solved = jax.jit(lambda problem: Sinkhorn(lse_mode=True, **steps)(problem).matrix)
    return np.asarray(solved(LinearProblem(geometry)))


@pytest.mark.parametrize("peer", [pot, ott_jax], ids=["pot", "ott"])
@pytest.mark.parametrize("regularization", REGULARIZATIONS)
@pytest.mark.parametrize("n", [16, 64])
def test_ten_steps_are_equal(n, regularization, peer):
  cost = masked_cost(n)
  expected = peer(cost.T, regularization, 10).T
  for domain in ("log", "exp"):
    np.testing.assert_allclose(ours(cost, regularization, 10, domain), expected, atol=1e-13)


def test_the_order_of_rows_and_columns_matters_before_convergence():
  cost = masked_cost(16)
  assert 16 * np.abs(ours(cost, 0.025, 10) - pot(cost, 0.025, 10)).max() > 1e-3


@pytest.mark.parametrize("peer", [pot, ott_jax], ids=["pot", "ott"])
@pytest.mark.parametrize("regularization", REGULARIZATIONS)
def test_the_converged_plan_is_equal(regularization, peer):
  cost = masked_cost(64)
  np.testing.assert_allclose(ours(cost, regularization, 500), peer(cost, regularization, 500), atol=5e-13)


def test_few_tokens_with_cosine_costs_have_not_converged_after_500_steps():
  cost = masked_cost(16, "cosine", "none")
  plan = ours(cost, 0.025, 500)
  np.testing.assert_allclose(plan, pot(cost.T, 0.025, 500).T, atol=1e-12)
  assert 1e-6 < 16 * np.abs(plan - pot(cost, 0.025, 500)).max() < 1e-2
