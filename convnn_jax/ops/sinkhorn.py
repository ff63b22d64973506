"""Entropy-regularised optimal transport by Sinkhorn's iteration, on the logarithm of the plan.

Source: Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport"; in the log domain as in Peyre and
Cuturi, "Computational Optimal Transport", section 4.4. Among all plans P with the wanted row and column sums the one
that minimises <P, C> - reg * entropy(P) has the form P_ij = exp(L_ij + f_i + g_j) with L = -C / reg. Setting the rows
right gives f_i = m - logsumexp_j(L_ij + g_j), setting the columns right gives g_j = m - logsumexp_i(L_ij + f_i), and
doing both in turn converges. Rows come first: after a finite number of steps the column sums are exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp

from convnn_jax.errors import UserError, choose, unknown_name
from convnn_jax.ops.similarity import wide

# Logarithm of the wanted sum of each of `count` rows or columns.
MARGINALS = {"uniform": lambda count: -np.log(count), "unit": lambda count: 0.0}
GRADIENTS = ("unrolled", "implicit")


def sinkhorn(
  cost: jax.Array,
  regularization,
  *,
  iterations: int = 10,
  marginal: str = "uniform",
  gradient: str = "unrolled",
  domain: str = "log",
  stop_threshold: float | None = None,
) -> jax.Array:
  """The logarithm of the transport plan after `iterations` row and column steps.

  Args:
    cost: [b ... n m].
    regularization: reg >= 1e-6, weight of the entropy: the smaller, the sharper the plan, the slower its convergence.
    iterations: steps, each rows and then columns; always all of them unless there is a `stop_threshold`.
    marginal: "uniform" (each of n rows sums to 1 / n, each of m columns to 1 / m) or "unit" (to 1; needs n = m).
    gradient: "unrolled" is the derivative of the steps that were done. "implicit" is that of the fixed point they lead
      to, by one linear system of m unknowns: independent of the number of steps, wrong as long as they have not
      converged.
    domain: "log", or "exp" for sums of exponentials as matrix products, several times faster and equal to rounding as
      long as costs differ by at most 40 * reg within a row or a column (entries masked by a large cost aside). "auto"
      looks at the costs: "exp" if all fit, else "log". Under jax.vmap it does both.
    stop_threshold: freezes the plan once the row potentials reg * f moved by less than this in one step: the sum over
      the rows, averaged over the axis b. Examples of a batch then influence one another; for parity with published
      code only. None = never.

  Returns:
    log P [b ... n m], float32 or wider.

  Raises:
    UserError: unknown word, or a number outside its range.
  """
  _check(cost, regularization, iterations, gradient, stop_threshold)
  log_sums = choose("marginal", marginal, MARGINALS)
  if marginal == "unit" and cost.shape[-2] != cost.shape[-1]:
    raise UserError(
      f"marginal='unit' needs as many rows as columns, not {cost.shape[-2]} x {cost.shape[-1]}; use 'uniform'."
    )
  if domain != "auto" and domain not in DOMAINS:
    raise unknown_name("domain", domain, ("auto", *DOMAINS))
  kernel = -cost.astype(wide(cost)) / regularization
  threshold = None if stop_threshold is None else stop_threshold / regularization
  sums = (log_sums(cost.shape[-2]), log_sums(cost.shape[-1]))
  by_domain = {word: functools.partial(_potentials, word, iterations, sums, threshold) for word in DOMAINS}
  fitting = lambda kernel: lax.cond(_fits(kernel), by_domain["exp"], by_domain["log"], kernel)
  solve = by_domain.get(domain, fitting)
  f, g = solve(kernel) if gradient == "unrolled" else _implicit(solve)(kernel)
  return kernel + f[..., :, None] + g[..., None, :]


def _check(cost, regularization, iterations, gradient, stop_threshold):
  if cost.ndim < 2:
    raise UserError(f"The cost must have rows and columns; its shape is {cost.shape}.")
  # It may be traced. Smaller ones overflow in float32.
  if isinstance(regularization, (int, float)) and not regularization >= 1e-6:
    raise UserError(f"regularization={regularization} must be at least 1e-6.")
  if iterations < 1:
    raise UserError(f"iterations={iterations} must be at least 1.")
  if gradient not in GRADIENTS:
    raise unknown_name("gradient", gradient, GRADIENTS)
  if stop_threshold is not None and cost.ndim < 3:
    raise UserError("stop_threshold needs a batch of costs: the rule is an average over the batch.")


def _log_sums(kernel):
  """Two functions: logsumexp_j(L_ij + g_j) of g, and logsumexp_i(L_ij + f_i) of f."""
  rows = lambda g: logsumexp(kernel + g[..., None, :], axis=-1)
  columns = lambda f: logsumexp(kernel + f[..., :, None], axis=-2)
  return rows, columns


# Two such factors, a kernel entry and a potential, multiply to a float32.
_RANGE = 40.0001  # the small surplus lets 1 / 0.025 be 40


def _fits(kernel):
  """Whether every column has an entry that is not much smaller than the largest of its row."""
  kernel = lax.stop_gradient(kernel)
  below = kernel - jnp.max(kernel, axis=-1, keepdims=True)
  return jnp.all(jnp.max(below, axis=-2) >= -_RANGE)


def _exponential_sums(kernel):
  """The same with a single exponential of the matrix, its rows shifted to a maximum of 1."""
  peak = lax.stop_gradient(jnp.max(kernel, axis=-1))
  shifted = jnp.exp(kernel - peak[..., None])
  product = functools.partial(jnp.einsum, precision="highest")
  rows = lambda g: peak + jnp.log(product("...nm,...m->...n", shifted, jnp.exp(g)))
  columns = lambda f: jnp.log(product("...nm,...n->...m", shifted, jnp.exp(f + peak)))
  return rows, columns


DOMAINS = {"log": _log_sums, "exp": _exponential_sums}


def _potentials(domain, iterations, log_marginals, threshold, kernel):
  """(f [b ... n], g [b ... m]) after all steps."""
  rows, columns = DOMAINS[domain](kernel)
  row_sum, column_sum = log_marginals

  def step(carry, _):
    f, g, done = carry
    new_f = row_sum - rows(g)
    new_g = column_sum - columns(new_f)
    if threshold is None:
      return (new_f, new_g, done), None
    kept = lambda old, new: jnp.where(done[..., None], old, new)
    moved = jnp.mean(jnp.sum(jnp.abs(new_f - f), axis=-1), axis=0)
    return (kept(f, new_f), kept(g, new_g), done | (moved < threshold)), None

  start = (jnp.zeros_like(kernel[..., 0]), jnp.zeros_like(kernel[..., 0, :]))
  done = jnp.zeros(kernel.shape[1:-2], bool)
  # The log domain would store a matrix per half step for the backward pass; computing it again is faster, too.
  step = jax.checkpoint(step) if domain == "log" else step
  (f, g, _), _ = lax.scan(step, (*start, done), None, length=iterations)
  return f, g


# What the implicit gradient adds to a diagonal, in units of rounding.
_DAMPING = 32


def _implicit(solve):
  """`solve` with the derivative of its fixed point.

  At the fixed point A, the plan with rows divided by their sums, and B, the same by columns, link small changes:
  df + A dg = -sum_j A dL and dg + B^T df = -sum_i B dL. The backward pass solves the transposed system. Shifting f up
  and g down by a constant leaves the plan alone, so the system is singular in that direction; adding 1 / m to each
  entry of its matrix makes it regular without changing the gradient.

  A plan that falls apart into blocks (few partners per token: a small regularization, tokens in equal pairs) has such
  a direction for each of them, or nearly: that shift changes only the entries of the plan between the blocks. What
  is added to the diagonal is larger than the rounding of the matrix, whose eigenvalues lie between 0 and 1, so the
  system stays regular; the gradient is wrong by no more than what is added where the shift matters as little.
  """

  @jax.custom_vjp
  def potentials(kernel):
    return solve(kernel)

  def forward(kernel):
    f, g = solve(kernel)
    return (f, g), (kernel, f, g)

  def backward(saved, cotangents):
    kernel, f, g = saved
    for_f, for_g = cotangents
    log_plan = kernel + f[..., :, None] + g[..., None, :]
    by_rows, by_columns = jax.nn.softmax(log_plan, axis=-1), jax.nn.softmax(log_plan, axis=-2)
    product = functools.partial(jnp.einsum, precision="highest")
    m = kernel.shape[-1]
    overlap = product("...nm,...nk->...mk", by_rows, by_columns)
    diagonal = 1 + _DAMPING * jnp.finfo(kernel.dtype).eps
    matrix = jnp.broadcast_to(diagonal * jnp.eye(m, dtype=kernel.dtype) + 1 / m, overlap.shape) - overlap
    right = for_g - product("...nm,...n->...m", by_rows, for_f)
    on_columns = jnp.linalg.solve(matrix, right[..., None])[..., 0]
    on_rows = for_f - product("...nm,...m->...n", by_columns, on_columns)
    return (-(on_rows[..., :, None] * by_rows + by_columns * on_columns[..., None, :]),)

  potentials.defvjp(forward, backward)
  return potentials
