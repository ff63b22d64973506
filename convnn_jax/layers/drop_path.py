"""Stochastic depth: a residual branch is left out for some of the examples.

Source: Huang et al., "Deep Networks with Stochastic Depth".
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError, is_known
from convnn_jax.layers.dropout import keep_mask
from convnn_jax.layers.random_keys import random_key
from convnn_jax.ops.loop_constants import inside


class DropPath(nn.Module):
  """x [b ...] -> [b ...]: zero for a share `rate` of the examples, the rest scaled by 1 / (1 - rate).

  Random numbers come from the rng stream "drop_path".

  Attributes:
    rate: probability that an example's branch is left out, in [0, 1); a scalar array in a loop over blocks.
  """

  rate: float | jax.Array

  @nn.compact
  def __call__(self, x, *, deterministic: bool):
    if is_known(self.rate) and not 0 <= self.rate < 1:
      raise UserError(f"drop_path_rate={self.rate} must lie in [0, 1).")
    if deterministic or (is_known(self.rate) and self.rate == 0):
      return x
    rate = jnp.asarray(
      self.rate, jnp.float32
    )  # also where it is known: blocks in a loop get it as such an array
    mask = keep_mask(random_key(self, "drop_path"), (x.shape[0],), rate)
    mask = mask.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(mask, x / (1 - rate), inside(x, 0)).astype(x.dtype)


def drop_path_rates(rate: float, depth: int) -> list[float]:
  """Rates of `depth` blocks in a row, evenly from 0 to `rate`."""
  return np.linspace(0.0, rate, depth).tolist()
