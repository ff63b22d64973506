"""Initialisers of the published models: PyTorch's default layers, and the narrow normal of Swin."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.errors import choose

# Uniform in +-1/sqrt(fan_in): variance 1 / (3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform(fan_in: int):
  """Initialiser: uniform in +-1/sqrt(fan_in), for biases and for kernels of unusual layout."""

  def init(key, shape, dtype=jnp.float32):
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


# name -> (kernel, bias from fan_in)
LINEAR_INITS = {
  "uniform": (kernel_init, uniform),
  "normal": (nn.initializers.normal(0.02), lambda fan_in: nn.initializers.zeros),
}


def linear_init(name: str, fan_in: int) -> dict:
  """kernel_init and bias_init of a linear layer: "uniform" (PyTorch's default) or "normal" (deviation 0.02, bias 0)."""
  kernel, bias = choose("init", name, LINEAR_INITS)
  return dict(kernel_init=kernel, bias_init=bias(fan_in))


def normal_or_zeros(std: float):
  """Initialiser: normal with this standard deviation; zeros for 0."""
  return nn.initializers.normal(std) if std else nn.initializers.zeros
