"""A small network over the offsets between two positions."""

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.layers.init import normal_or_zeros


class PositionMlp(nn.Module):
  """Linear, ReLU, linear without bias, always in float32 or wider: offsets [n 2] -> [n h].

  Source: Liu et al., "Swin Transformer V2", section 3.3.

  Attributes:
    features: h, values per offset.
    std: standard deviation of the initial kernels; 0 makes the last kernel 0 and the result with it.
    hidden: width between the two layers.
  """

  features: int
  std: float = 0.02
  hidden: int = 512

  @nn.compact
  def __call__(self, offsets):
    first = nn.Dense(self.hidden, kernel_init=normal_or_zeros(self.std or 0.02), name="hidden_layer")
    last = nn.Dense(self.features, use_bias=False, kernel_init=normal_or_zeros(self.std), name="out")
    return last(nn.relu(first(jnp.asarray(offsets))))
