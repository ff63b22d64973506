"""Stochastic depth: a residual branch is left out for some of the examples.

Source: Huang et al., "Deep Networks with Stochastic Depth".
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError
from convnn_jax.layers.dropout import keep_mask


class DropPath(nn.Module):
  """x [b ...] -> [b ...]: zero for a share `rate` of the examples, the rest scaled by 1 / (1 - rate).

  Random numbers come from the rng stream "drop_path".

  Attributes:
    rate: probability that an example's branch is left out, in [0, 1).
  """

  rate: float

  @nn.compact
  def __call__(self, x, *, deterministic: bool):
    if not 0 <= self.rate < 1:
      raise UserError(f"drop_path_rate={self.rate} must lie in [0, 1).")
    if deterministic or self.rate == 0:
      return x
    mask = keep_mask(self.make_rng("drop_path"), (x.shape[0],), self.rate)
    mask = mask.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(mask, x / (1 - self.rate), 0).astype(x.dtype)


def drop_path_rates(rate: float, depth: int) -> list[float]:
  """Rates of `depth` blocks in a row, evenly from 0 to `rate`."""
  return np.linspace(0.0, rate, depth).tolist()
