"""Layer normalisation as the published models use it."""

import flax.linen as nn


def layer_norm(name: str, dtype=None) -> nn.LayerNorm:
  """LayerNorm over the last axis, epsilon 1e-5, statistics in float32.

  The two-pass variance: mean(x^2) - mean(x)^2 loses digits when the mean is large.
  """
  return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)
