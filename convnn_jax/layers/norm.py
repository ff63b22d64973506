"""Layer normalisation as the published models use it."""

import flax.linen as nn


def layer_norm(name: str, dtype=None, scale: float = 1.0) -> nn.LayerNorm:
  """LayerNorm over the last axis, epsilon 1e-5, statistics in float32; `scale` is its initial factor.

  The two-pass variance: mean(x^2) - mean(x)^2 loses digits when the mean is large.
  """
  return nn.LayerNorm(
    epsilon=1e-5,
    use_fast_variance=False,
    scale_init=nn.initializers.constant(scale),
    dtype=dtype,
    name=name,
  )
