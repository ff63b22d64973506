"""Numbers that describe attention matrices.

Redundancy as in "Improving Redundancy in Attention": the nearer A is to the identity, the less attention does.
Diagonal mass, entropy and the distance to the identity say how near.
"""

import dataclasses

import numpy as np

from convnn_jax.report.rows import Column, digits
from convnn_jax.report.token_places import Places

COLUMNS = (
  Column("run", "run"),
  Column("layer", "layer"),
  Column("head", "head"),
  Column("diagonal", "diagonal mass", digits(4)),
  Column("uniform", "1 / n", digits(4)),
  Column("entropy", "entropy / log n", digits(4)),
  Column("identity", "distance to identity", digits(4)),
  Column("effective_tokens", "effective tokens", digits(2)),
  Column("asymmetry", "max abs(A - A^T)", digits(4)),
  Column("row_sum_min", "row sum min", digits(3)),
  Column("row_sum_mean", "mean", digits(3)),
  Column("row_sum_max", "max", digits(3)),
  Column("column_sum_min", "column sum min", digits(3)),
  Column("column_sum_mean", "mean", digits(3)),
  Column("column_sum_max", "max", digits(3)),
  Column("zeros", "zeros", digits(3)),
  Column("distance", "distance", digits(2)),
  Column("row_error", "Sinkhorn row error", lambda value: f"{value:.1e}"),
)


@dataclasses.dataclass(frozen=True)
class Rows:
  """One number per row of attention matrices, [... n]; NaN where it has no meaning.

  Attributes:
    diagonal: share of the row's sum on the token itself.
    entropy: in nats.
    visible: number m of tokens that the row sees.
    apart: squared distance to the identity's row, sum_j (A_ij - 1_ij)^2.
  """

  diagonal: np.ndarray
  entropy: np.ndarray
  visible: np.ndarray
  apart: np.ndarray

  @property
  def relative_entropy(self) -> np.ndarray:
    """Entropy in units of log m: 1 = all tokens alike."""
    return self.entropy / np.where(self.visible > 1, np.log(np.maximum(self.visible, 2)), np.nan)


def describe_rows(weights, visible=None) -> Rows:
  """Row by row, what `statistics` takes the mean of.

  Args:
    weights: [... n m].
    visible: bool, broadcast to the weights: pairs that count; None = all. Tokens that see nothing have no row.
  """
  weights = np.asarray(weights, np.float64)
  visible = np.ones(weights.shape, bool) if visible is None else np.broadcast_to(visible, weights.shape)
  weights = np.where(visible, weights, 0.0)
  n, m = weights.shape[-2:]
  count = visible.sum(-1)
  used = count > 0
  sums = weights.sum(-1)
  nothing = np.full(sums.shape, np.nan)
  shares = None
  if weights.min() >= 0 and (sums > 0)[used].all():
    shares = weights / np.where(used, sums, 1.0)[..., None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
  own = lambda x: np.where(used, np.diagonal(x, axis1=-2, axis2=-1), np.nan)
  return Rows(
    diagonal=nothing if n != m or shares is None else own(shares),
    entropy=nothing if shares is None else np.where(used, entropy, np.nan),
    visible=count,
    apart=nothing if n != m else np.where(used, ((weights - np.eye(n)) ** 2).sum(-1), np.nan),
  )


def statistics(weights, places: Places | None = None, row_error=None) -> dict[str, float | None]:
  """Describes weights [... w n m] of one head, over images and windows.

  Pairs that cannot see each other, because their window is shifted over the image's border or padded, do not count.

  Args:
    weights: rows need not sum to 1.
    places: of the n = m tokens.
    row_error: any shape, of Sinkhorn's plan.

  Returns:
    diagonal: share of a row's sum on the token itself, mean; needs n = m.
    uniform: what it would be if all tokens were alike.
    entropy: of the rows (divided by their sums), in units of log m: 1 = all tokens alike.
    identity: ||A - I|| / sqrt(n), Frobenius, mean over matrices: 0 = attention does nothing; sqrt(1 - 1/n) if all
      tokens are alike; at most sqrt(2) where rows sum to 1. Needs n = m.
    effective_tokens: exp(entropy), mean over rows.
    asymmetry: max |A - A^T|, mean over matrices; needs n = m.
    row_sum_..., column_sum_...: min, mean and max.
    zeros: share of weights that are exactly 0.
    distance: mean distance in tokens from the query to what it sees, over the tokens of the image.
    row_error: the largest.
    What is a share of a row is None where a weight is negative, as after re-attention, or a row is empty.
  """
  weights = np.asarray(weights, np.float64)
  visible = np.ones(weights.shape, bool)
  if places is not None and places.visible is not None:
    visible = np.broadcast_to(places.visible, weights.shape)
  weights = np.where(visible, weights, 0.0)
  rows = describe_rows(weights, visible)
  used = rows.visible > 0
  square = weights.shape[-2] == weights.shape[-1]
  values = {
    "diagonal": _mean(rows.diagonal),
    "uniform": float((1 / rows.visible[used]).mean()) if square else None,
    "entropy": _mean(rows.relative_entropy),
    "identity": _mean(np.sqrt(_means(rows.apart))),
    "effective_tokens": _mean(np.exp(rows.entropy)),
    "asymmetry": None,
    "distance": None,
  }
  if square:
    asymmetry = np.abs(weights - np.swapaxes(weights, -1, -2)).max((-1, -2))
    values["asymmetry"] = float(asymmetry[used.any(-1)].mean())
  if places is not None and values["diagonal"] is not None:
    values["distance"] = _distance(weights, places)
  for name, sums in (("row", weights.sum(-1)[used]), ("column", weights.sum(-2)[visible.any(-2)])):
    values |= {f"{name}_sum_min": float(sums.min()), f"{name}_sum_mean": float(sums.mean())}
    values[f"{name}_sum_max"] = float(sums.max())
  values["zeros"] = float((weights[visible] == 0).mean())
  values["row_error"] = None if row_error is None else float(np.max(row_error))
  return values


def _means(values):
  """Means over the last axis of what is not NaN; NaN where nothing is."""
  there = ~np.isnan(values)
  return np.where(there, values, 0).sum(-1) / np.where(there.any(-1), there.sum(-1), np.nan)


def _mean(values) -> float | None:
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else None


def _distance(weights, places: Places) -> float | None:
  """Mean over the rows of tokens of the image of sum_j A_ij |i - j| / sum_j A_ij, j over tokens of the image."""
  row, column = np.divmod(places.tokens, places.grid.columns)
  apart = np.hypot(row[:, :, None] - row[:, None], column[:, :, None] - column[:, None])  # [w n n]
  there = places.tokens >= 0
  weights = weights * (there[:, :, None] & there[:, None])
  total = weights.sum(-1)
  if not (total > 0).any():
    return None
  return float(((weights * apart).sum(-1)[total > 0] / total[total > 0]).mean())
