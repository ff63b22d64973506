"""Layer normalisation as the published models use it."""

import flax.linen as nn

from convnn_jax.errors import UserError


def layer_norm(name: str, dtype=None, scale: float = 1.0, epsilon: float = 1e-5) -> nn.LayerNorm:
  """LayerNorm over the last axis, statistics in float32.

  The two-pass variance: mean(x^2) - mean(x)^2 loses digits when the mean is large.

  Args:
    name: of the module.
    dtype: compute dtype.
    scale: initial factor.
    epsilon: added to the variance.

  Raises:
    UserError: epsilon is not larger than 0.
  """
  if epsilon <= 0:
    raise UserError(f"norm_epsilon={epsilon} must be larger than 0, such as 1e-6.")
  return nn.LayerNorm(
    epsilon=epsilon,
    use_fast_variance=False,
    scale_init=nn.initializers.constant(scale),
    dtype=dtype,
    name=name,
  )
