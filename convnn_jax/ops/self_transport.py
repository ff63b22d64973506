"""Self-optimal transport: tokens compared by how they are transported to one another.

Source: Shalam and Korman, "The Self-Optimal-Transport Feature Transform". Costs between all tokens, the diagonal masked
so that no token goes to itself, a transport plan by Sinkhorn's iteration, a link from its logarithm to a similarity,
and the diagonal set to 1: each token is fully similar to itself.
"""

import jax
import jax.numpy as jnp
from jax import lax

from convnn_jax.errors import UserError, choose, unknown_name
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.similarity import similarity
from convnn_jax.ops.sinkhorn import DOMAINS, sinkhorn

# The study of self-optimal transport in compact transformers used the first, the authors' own code the second today.
PRESETS = {
  "seed": dict(metric="euclidean", cost_scale="row_max", link="sigmoid", marginal="uniform", iterations=10),
  "upstream": dict(metric="cosine", cost_scale="none", link="exp", marginal="uniform", iterations=10),
}
METRICS = {
  "euclidean": lambda x, y: -similarity(x, y, kind="euclidean"),
  "cosine": lambda x, y: 1 - similarity(x, y, kind="cosine"),
}
# Axes of [b h n m] over which the largest cost becomes 1.
COST_SCALES = {"row_max": (3,), "sample_max": (2, 3), "global_max": (0, 2, 3), "none": ()}
LINKS = {"sigmoid": jax.nn.sigmoid, "exp": jnp.exp}
RESCALINGS = {
  "max": lambda z: z / jnp.max(z, axis=(2, 3), keepdims=True),
  "constant_max": lambda z: z / lax.stop_gradient(jnp.max(z, axis=(2, 3), keepdims=True)),
  "none": lambda z: z,
}
DIAGONALS = ("masked", "kept")


def transport_cost(x, y=None, *, metric: str = "euclidean", cost_scale: str = "row_max") -> jax.Array:
  """Cost of every token x_i at every y_j, scaled: [b n h d], [b m h d] -> [b h n m].

  Args:
    x: rows.
    y: columns; None = x.
    metric: "euclidean" (the distance, not its square) or "cosine" (1 - cosine, 0 to 2).
    cost_scale: divide by the largest cost of the row ("row_max"), of the matrix ("sample_max"), of a head's matrices
      over the whole batch ("global_max", for parity only: examples then influence one another), or "none".

  Raises:
    UserError: unknown word.
  """
  cost = choose("metric", metric, METRICS)(x, x if y is None else y)
  axes = choose("cost_scale", cost_scale, COST_SCALES)
  if not axes:
    return cost
  largest = jnp.max(cost, axis=axes, keepdims=True)
  return cost / jnp.where(largest > 0, largest, 1.0)  # 0 where all tokens are equal


def self_transport(
  x: jax.Array,
  y: jax.Array | None = None,
  *,
  metric: str = "euclidean",
  cost_scale: str = "row_max",
  regularization=0.1,
  iterations: int = 10,
  marginal: str = "uniform",
  link: str = "sigmoid",
  rescale: str = "max",
  diagonal: str = "masked",
  mask_value: float = 1000.0,
  diagonal_value: float = 1.0,
  gradient: str = "unrolled",
  domain: str = "auto",
  stop_threshold: float | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The similarity of all tokens, and the logarithm of the plan it comes from.

  Args:
    x: [b n h d]; each head is a problem of its own.
    y: [b n h d], the tokens of the columns; None = x.
    metric, cost_scale: see `transport_cost`.
    regularization, iterations, marginal, gradient, stop_threshold: see `sinkhorn`; the rule to stop is per head.
    link: "exp", the plan P itself, or "sigmoid" of its logarithm, P / (1 + P).
    rescale: divide each matrix by its largest entry ("max"), the same without a gradient through that entry
      ("constant_max"), or "none".
    diagonal: "masked" (cost `mask_value` before, `diagonal_value` in the result) or "kept" as it is.
    mask_value: cost of a token at itself.
    diagonal_value: similarity of a token to itself.
    domain: of `sinkhorn`; "auto" = "exp" where it is safe because the costs are known to differ little, else "log".

  Returns:
    [b h n n] twice, float32 or wider.

  Raises:
    UserError: unknown word, a number outside its range, or different numbers of tokens.
  """
  if y is not None and y.shape[1] != x.shape[1]:
    raise UserError(
      f"Self-optimal transport compares as many tokens with as many: {x.shape[1]} and {y.shape[1]}."
    )
  if diagonal not in DIAGONALS:
    raise unknown_name("diagonal", diagonal, DIAGONALS)
  cost = transport_cost(x, y, metric=metric, cost_scale=cost_scale)
  itself = inside(cost, jnp.eye(x.shape[1], dtype=bool)[None, None])
  if diagonal == "masked":
    cost = jnp.where(itself, inside(cost, mask_value), cost)
  log_plan = sinkhorn(
    cost,
    regularization,
    iterations=iterations,
    marginal=marginal,
    gradient=gradient,
    domain=choose_domain(domain, metric, cost_scale, regularization, mask_value),
    stop_threshold=stop_threshold,
  )
  result = choose("rescale", rescale, RESCALINGS)(choose("link", link, LINKS)(log_plan))
  if diagonal == "masked":
    result = jnp.where(itself, inside(result, diagonal_value), result)
  return result, log_plan


def choose_domain(domain, metric, cost_scale, regularization, mask_value) -> str:
  """The word for `sinkhorn`: the given one, or for "auto" the fastest safe one.

  A traced regularization, of unknown size, asks for the log domain.
  """
  if domain != "auto":
    if domain not in DOMAINS:
      raise unknown_name("domain", domain, ("auto", *DOMAINS))
    return domain
  span = 1.0 if cost_scale != "none" else {"cosine": 2.0}.get(metric, float("inf"))
  known = isinstance(regularization, (int, float)) and mask_value >= 0
  # The small surplus lets 1 / 0.025 be 40.
  return "exp" if known and span <= 40.0001 * regularization else "log"
