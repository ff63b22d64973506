"""Numbers that describe attention matrices."""

import numpy as np

from convnn_jax.report.rows import Column, digits

COLUMNS = (
  Column("run", "run"),
  Column("layer", "layer"),
  Column("head", "head"),
  Column("entropy", "entropy / log n", digits(4)),
  Column("effective_tokens", "effective tokens", digits(2)),
  Column("diagonal", "diagonal mass", digits(4)),
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


def statistics(weights, grid=None, row_error=None) -> dict[str, float | None]:
  """Describes weights [... n m] of one head, over images and windows.

  Args:
    weights: [... n m]; rows need not sum to 1.
    grid: TokenGrid of the n = m tokens, for distances.
    row_error: any shape, of Sinkhorn's plan.

  Returns:
    entropy: of the rows (divided by their sums), in units of log m: 1 = all tokens alike.
    effective_tokens: exp(entropy), mean over rows.
    diagonal: share of a row's sum on the token itself, mean; needs n = m.
    asymmetry: max |A - A^T|, mean over matrices; needs n = m.
    row_sum_..., column_sum_...: min, mean and max.
    zeros: share of weights that are exactly 0.
    distance: mean distance in tokens from the query to what it sees, over the tokens of the image.
    row_error: the largest.
    What is a share of a row is None where a weight is negative, as after re-attention, or a row is empty.
  """
  weights = np.asarray(weights, np.float64)
  n, m = weights.shape[-2:]
  rows, columns = weights.sum(-1), weights.sum(-2)
  values = {"entropy": None, "effective_tokens": None, "diagonal": None, "asymmetry": None, "distance": None}
  shares = None
  if weights.min() >= 0 and rows.min() > 0:
    shares = weights / rows[..., None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    values["entropy"] = float(entropy.mean() / np.log(m)) if m > 1 else None
    values["effective_tokens"] = float(np.exp(entropy).mean())
  if n == m:
    if shares is not None:
      values["diagonal"] = float(np.diagonal(shares, axis1=-2, axis2=-1).mean())
    values["asymmetry"] = float(np.abs(weights - np.swapaxes(weights, -1, -2)).max((-1, -2)).mean())
  if grid is not None and shares is not None:
    values["distance"] = _distance(shares[..., grid.num_prefix :, grid.num_prefix :], grid)
  for name, sums in (("row", rows), ("column", columns)):
    values |= {f"{name}_sum_min": float(sums.min()), f"{name}_sum_mean": float(sums.mean())}
    values[f"{name}_sum_max"] = float(sums.max())
  values["zeros"] = float((weights == 0).mean())
  values["row_error"] = None if row_error is None else float(np.max(row_error))
  return values


def _distance(shares, grid) -> float | None:
  y, x = np.divmod(np.arange(grid.rows * grid.columns), grid.columns)
  apart = np.hypot(y[:, None] - y[None], x[:, None] - x[None])
  total = shares.sum(-1)
  if not (total > 0).any():
    return None
  return float(((shares * apart).sum(-1)[total > 0] / total[total > 0]).mean())
