"""Initialisers of PyTorch's default layers, in which the published models were trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# Uniform in +-1/sqrt(fan_in): variance 1 / (3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform(fan_in: int):
  """Initialiser: uniform in +-1/sqrt(fan_in), for biases and for kernels of unusual layout."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
