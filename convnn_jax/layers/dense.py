"""Linear layers with PyTorch's default initialisation."""

import flax.linen as nn

from convnn_jax.layers.init import kernel_init, uniform


def dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None) -> nn.Dense:
  """[... fan_in] -> [... features]."""
  return nn.Dense(
    features,
    use_bias=bias,
    kernel_init=kernel_init,
    bias_init=uniform(fan_in),
    dtype=dtype,
    name=name,
  )


def split_dense(heads: int, depth: int, fan_in: int, *, bias: bool, name: str, dtype=None):
  """[... fan_in] -> [... heads depth]: a projection into heads."""
  return nn.DenseGeneral(
    (heads, depth),
    use_bias=bias,
    kernel_init=kernel_init,
    bias_init=uniform(fan_in),
    dtype=dtype,
    name=name,
  )


def merge_dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None):
  """[... h d] -> [... features]: heads side by side, then a projection; fan_in = h * d."""
  return nn.DenseGeneral(
    features,
    axis=(-2, -1),
    use_bias=bias,
    kernel_init=kernel_init,
    bias_init=uniform(fan_in),
    dtype=dtype,
    name=name,
  )
