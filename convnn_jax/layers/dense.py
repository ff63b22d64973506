"""Linear layers; `init` is a word of layers/init.py, PyTorch's default unless given."""

import flax.linen as nn

from convnn_jax.layers.init import linear_init


def dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform") -> nn.Dense:
  """[... fan_in] -> [... features]."""
  return nn.Dense(
    features,
    use_bias=bias,
    **linear_init(init, fan_in),
    dtype=dtype,
    name=name,
  )


def split_dense(heads: int, depth: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform"):
  """[... fan_in] -> [... heads depth]: a projection into heads."""
  return nn.DenseGeneral(
    (heads, depth),
    use_bias=bias,
    **linear_init(init, fan_in),
    dtype=dtype,
    name=name,
  )


def merge_dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform"):
  """[... h d] -> [... features]: heads side by side, then a projection; fan_in = h * d."""
  return nn.DenseGeneral(
    features,
    axis=(-2, -1),
    use_bias=bias,
    **linear_init(init, fan_in),
    dtype=dtype,
    name=name,
  )
